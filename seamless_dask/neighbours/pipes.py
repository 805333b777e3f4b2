"""Messages between a Dask worker and its Seamless processes, without extra threads.

seamless-transformer reads and writes its pipes in threads of an executor. That takes two
thread switches for each message on each side, a large part of the work for small
transformations. Here the event loop itself reads and writes; a thread is used only for
the part of a message that does not fit into the pipe at once.
"""

from __future__ import annotations

import asyncio
import inspect
import pickle
import socket
import struct
from multiprocessing.reduction import ForkingPickler
from typing import Any

from seamless_transformer.process import ConnectionClosed
from seamless_transformer.process.channel import Endpoint

#: bytes that are read at once
CHUNK = 256 * 1024
#: bytes of a message, at most: something else has written what announces a longer one
LONGEST = 1 << 40


class Frames:
    """Splits a stream of bytes as `multiprocessing.connection.Connection` does."""

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """Add bytes; return the messages that are complete now.

        Raises
        ------
        ConnectionClosed
            If the bytes are not those of a `Connection`: nothing after them can be read.
        """
        received = self._received
        received += chunk
        messages = []
        begin = 0
        while True:
            header = 4
            if len(received) - begin < header:
                break
            (size,) = struct.unpack_from("!i", received, begin)
            if size == -1:
                header = 12
                if len(received) - begin < header:
                    break
                (size,) = struct.unpack_from("!Q", received, begin + 4)
            if not 0 <= size <= LONGEST:
                raise ConnectionClosed(f"a message of {size} bytes was announced")
            end = begin + header + size
            if len(received) < end:
                break
            messages.append(bytes(received[begin + header : end]))
            begin = end
        del received[:begin]
        return messages


def framed(message: bytes) -> bytes:
    """Return a message as `Connection.send_bytes` would write it."""
    size = len(message)
    if size > 0x7FFFFFFF:
        return struct.pack("!iQ", -1, size) + message
    return struct.pack("!i", size) + message


class LoopEndpoint(Endpoint):
    """An endpoint whose pipe is read and written by the event loop; see `attach`."""

    _socket: socket.socket

    async def _send(self, message: Any) -> None:
        data = memoryview(framed(bytes(ForkingPickler.dumps(message))))
        async with self._send_lock:
            try:
                try:
                    sent = self._socket.send(data, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    sent = 0
                if sent < len(data):
                    await self._loop.run_in_executor(
                        None, self._socket.sendall, data[sent:]
                    )
            except OSError as exc:
                raise ConnectionClosed(f"{self._name} send failed") from exc

    async def _reader_loop(self) -> None:
        frames = Frames()
        chunks: asyncio.Queue[bytes] = asyncio.Queue()

        def read() -> None:
            try:
                chunk = self._socket.recv(CHUNK, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                chunk = b""
            if not chunk:
                # Otherwise the loop would find it readable for ever.
                self._loop.remove_reader(descriptor)
            chunks.put_nowait(chunk)

        descriptor = self._socket.fileno()
        self._loop.add_reader(descriptor, read)
        try:
            while chunk := await chunks.get():
                for message in frames.feed(chunk):
                    await self._handle_message(pickle.loads(message))
        finally:
            self.close()

    def close(self) -> None:
        """End the connection; requests that wait for an answer fail."""
        if self._closed_event.is_set():
            return
        self._closed = True
        self._reader_task.cancel()
        # Before it is closed: afterwards another descriptor may have its number.
        self._loop.remove_reader(self._socket.fileno())
        self._socket.detach()  # the descriptor belongs to the connection
        self._conn.close()
        for pending in self._pending.values():
            if not pending.done():
                pending.set_exception(ConnectionClosed(f"{self._name} closed"))
        self._pending.clear()
        for task in list(self._request_tasks):
            task.cancel()
        self._request_tasks.clear()
        self._closed_event.set()


def attach(endpoint: Endpoint) -> None:
    """Let the event loop read and write a pipe.

    Parameters
    ----------
    endpoint
        A new endpoint of the running event loop.

    Raises
    ------
    RuntimeError
        If it reads its pipe already.
    """
    reader = endpoint._reader_task
    if inspect.getcoroutinestate(reader.get_coro()) != inspect.CORO_CREATED:
        raise RuntimeError(f"{endpoint._name} reads its pipe already")
    reader.cancel()
    endpoint.__class__ = LoopEndpoint
    endpoint._socket = socket.socket(
        socket.AF_UNIX, socket.SOCK_STREAM, 0, endpoint._conn.fileno()
    )
    endpoint._reader_task = endpoint._loop.create_task(endpoint._reader_loop())

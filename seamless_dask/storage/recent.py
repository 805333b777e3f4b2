"""Buffers that this process has used lately, and may use again soon.

Seamless drops a buffer with the last transformation that refers to it. If the next
transformation has the same code or an input in common, as in a loop that calls and
waits, the buffer would be uploaded again. Each upload costs two requests and a
connection: a hashserver that has a buffer closes the connection on which it is sent.

So a client keeps uploaded buffers for some seconds, up to a total size.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from seamless import Buffer, Checksum
from seamless.caching import buffer_writer
from seamless.caching.buffer_cache import StrongEntry, get_buffer_cache

#: bytes of uploaded buffers that are held
CAPACITY = 64 * 1024**2
#: number of uploaded buffers that are held: small ones take more memory than their content
MAX_UPLOADED = 5_000


@dataclass
class _Uploaded:
    """A buffer on which a reference is held in Seamless' cache."""

    entry: StrongEntry
    size: int
    #: the hashservers that have it, or are getting it
    servers: tuple[Any, ...]
    #: `time.monotonic`
    last_used: float


class RecentBuffers:
    """Keeps buffers in the process's buffer cache; any thread may call.

    Parameters
    ----------
    capacity
        Bytes of uploaded buffers.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        #: in the order of their last use
        self._uploaded: OrderedDict[str, _Uploaded] = OrderedDict()
        self._size = 0
        self._servers: tuple[Any, ...] | None = None
        #: whether there have been other hashservers before
        self._moved = False
        self._results: OrderedDict[str, tuple[Buffer, float]] = OrderedDict()

    def __contains__(self, checksum: str) -> bool:
        return checksum in self._uploaded or checksum in self._results

    def remember(self, buffer: Buffer) -> None:
        """Keep the buffer of a result."""
        checksum = buffer.get_checksum().hex()
        with self._lock:
            self._results[checksum] = buffer, time.monotonic()
            self._results.move_to_end(checksum)

    def keep_uploaded(self, checksums: Iterable[str]) -> None:
        """Keep the buffers that this process is uploading or has uploaded.

        Buffers that were uploaded to other hashservers than the present ones are
        uploaded again.

        Parameters
        ----------
        checksums
            Hexadecimal, of transformations and inputs that are in use.
        """
        from seamless_remote import buffer_remote

        servers = tuple(buffer_remote._write_server_clients)
        if not servers:
            return
        with self._lock:
            self._moved |= self._servers not in (None, servers)
            self._servers = servers
            for checksum in checksums:
                self._keep(checksum, servers)
            while self._size > self._capacity or len(self._uploaded) > MAX_UPLOADED:
                self._release(next(iter(self._uploaded)))

    def _keep(self, checksum: str, servers: tuple[Any, ...]) -> None:
        cache = get_buffer_cache()
        name = Checksum(checksum)
        entry = cache.strong_cache.get(name)
        if entry is None or entry.buffer is None or not entry.remote_registered:
            return
        known = self._uploaded.get(checksum)
        if known is not None and known.entry is not entry:
            self._release(checksum)
            known = None
        if known is None:
            size = len(entry.buffer.content)
            if size > self._capacity or cache.is_scratch_ref(name):
                return
            cache.incref(name)
            self._size += size
            known = _Uploaded(entry, size, servers, 0.0)
            self._uploaded[checksum] = known
            # Seamless does not know to which hashservers it was uploaded.
            again = self._moved and name not in buffer_writer._entries
        else:
            again = known.servers != servers
            known.servers = servers
        if again:
            buffer_writer.register(entry.buffer)
        known.last_used = time.monotonic()
        self._uploaded.move_to_end(checksum)

    def _release(self, checksum: str) -> None:
        known = self._uploaded.pop(checksum)
        self._size -= known.size
        cache = get_buffer_cache()
        name = Checksum(checksum)
        # If Seamless has evicted our entry, our reference has gone with it.
        if cache.strong_cache.get(name) is known.entry:
            cache.decref(name)

    def forget(self, deadline: float) -> bool:
        """Drop the buffers that were last used before `deadline` (`time.monotonic`).

        Returns
        -------
        bool
            Whether anything is left.
        """
        with self._lock:
            while self._uploaded:
                checksum, known = next(iter(self._uploaded.items()))
                if known.last_used >= deadline:
                    break
                self._release(checksum)
            while self._results:
                checksum, (_, last_used) = next(iter(self._results.items()))
                if last_used >= deadline:
                    break
                del self._results[checksum]
            return bool(self._uploaded or self._results)


#: one per process, like Seamless' cache
recent_buffers = RecentBuffers()

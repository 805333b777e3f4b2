"""Takes the output of a job while it runs. Runs inside each Seamless process.

seamless-transformer collects what Python code writes in memory, for the text of an error.
Here it is only looked at, so a job that nobody watches costs nothing, and neither does
one that writes nothing. While a job is streamed, the descriptors 1 and 2 of its process
are files, for the output of compiled code and of child processes; otherwise that goes to
the log of the worker.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import io
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable
from typing import IO, Any

from ..neighbours.replacing import extend
from ..output.pieces import WINDOW, piece_of
from .job_identity import current_job

logger = logging.getLogger(__name__)

#: message to the worker with output of a job
OUTPUT = "seamless_dask_output"
#: request of the worker for the newest output of a job
RECENT = "seamless_dask_recent_output"

#: seconds between two looks at the output of a job that has sent nothing lately
TICK = 0.25
#: bytes from which on a file of output that was read is emptied
MAX_FILE = 64 * 1024 * 1024
#: bytes of a stream that are shown to somebody who asks
SHOWN = 64 * 1024
#: {descriptor: name in sys}
STREAMS = {1: "stdout", 2: "stderr"}
#: added to the number of a descriptor in messages, see `scheduler_ext.outputs.Piece`
DESCRIPTORS = 2

#: how the C library writes: _IOFBF and _IOLBF of stdio.h
BLOCKS, LINES = 0, 1

#: stream, text, and the number of bytes before it that are left out
Pieces = list[tuple[int, str, int]]

_dup2, _fstat, _pread = os.dup2, os.fstat, os.pread


class _Memory:
    """The memory in which Python collects a stream."""

    def __init__(self, buffer: io.BytesIO) -> None:
        self._buffer = buffer

    def _content(self) -> bytes:
        try:
            # Not a copy: it shares the memory until something more is written.
            return self._buffer.getvalue()
        except ValueError:  # the job has closed it
            return b""

    def size(self) -> int:
        return len(self._content())

    def read(self, begin: int, number: int) -> bytes:
        return self._content()[begin : begin + number]


class _File:
    """A file that a job or its processes write."""

    def __init__(self, file: IO[bytes], *, ours: bool) -> None:
        self._file = file
        self._ours = ours

    def size(self) -> int:
        return 0 if self._file.closed else _fstat(self._file.fileno()).st_size

    def read(self, begin: int, number: int) -> bytes:
        return b"" if self._file.closed else _pread(self._file.fileno(), number, begin)

    def empty(self) -> bool:
        """Empty it if it is large, so that it does not fill the disk."""
        if not self._ours or self.size() < MAX_FILE:
            return False
        os.ftruncate(self._file.fileno(), 0)
        return True

    def close(self) -> None:
        if self._ours:
            self._file.close()


class _Reader:
    """How far a source was read."""

    def __init__(self, stream: int, source: _Memory | _File) -> None:
        self.stream = stream
        self._source = source
        self._position = 0

    def new(self, *, final: bool = False) -> tuple[int, str, int] | None:
        """Return the newest of the text that was not read yet."""
        size = self._source.size()
        if size < self._position:  # the job has emptied it
            self._position = 0
        if size == self._position:
            return None
        begin = max(self._position, size - WINDOW)
        raw = self._source.read(begin, size - begin)
        piece = piece_of(raw, begin - self._position, final=final)
        self._position = begin + piece.consumed
        if isinstance(self._source, _File) and self._source.empty():
            self._position = 0
        if not (piece.text or piece.dropped):
            return None
        return self.stream, piece.text, piece.dropped

    def recent(self, *, go_on: bool) -> tuple[int, str, int] | None:
        """Return the newest text; with `go_on`, `new` goes on after it."""
        size = self._source.size()
        begin = max(0, size - SHOWN)
        piece = piece_of(self._source.read(begin, size - begin), begin)
        if go_on:
            self._position = begin + piece.consumed
        return (self.stream, piece.text, piece.dropped) if size else None

    def close(self) -> None:
        if isinstance(self._source, _File):
            self._source.close()


class JobOutput:
    """The output of one job.

    Parameters
    ----------
    job
        The id of the job.
    streams
        Whether the worker is to be sent its output.
    """

    def __init__(self, job: str, *, streams: bool) -> None:
        self.job = job
        self.streams = streams
        #: messages with its output so far
        self._sent = 0
        #: what was written before it was streamed, and is to be sent
        self._before: Pieces = []
        self._lock = threading.Lock()
        self._readers: list[_Reader] = []
        #: what Python code writes to, by the name in sys
        self._wrappers: dict[str, Any] = {}
        #: whether the descriptors are files
        self._redirected = False
        self._stopped = asyncio.Event()

    # -- in the thread of the job --------------------------------------------------

    def begin(self) -> None:
        """Look at what the calling thread is about to write from now on."""
        readers = []
        for stream, name in STREAMS.items():
            self._wrappers[name] = wrapper = getattr(sys, name)
            buffer = getattr(wrapper, "buffer", None)
            if isinstance(buffer, io.BytesIO):
                readers.append(_Reader(stream, _Memory(buffer)))
        if self.streams:
            try:
                self._redirect(readers)
            except OSError as error:  # no disk space, say: the job runs without
                logger.info("Descriptors go to the log of the worker: %r", error)
        with self._lock:
            self._readers = readers

    def _redirect(self, readers: list[_Reader]) -> None:
        """Let the descriptors be files; the end of the job puts them back."""
        _write_out(LINES)
        for stream in STREAMS:
            readers.append(self._redirected_to_file(stream))
        self._redirected = True

    @staticmethod
    def _redirected_to_file(stream: int) -> _Reader:
        file = tempfile.TemporaryFile("wb", buffering=0)
        # Whoever writes there writes at the end, also after `_File.empty`.
        fcntl.fcntl(file, fcntl.F_SETFL, os.O_APPEND)
        _dup2(file.fileno(), stream)
        return _Reader(stream + DESCRIPTORS, _File(file, ours=True))

    def of_command(self, stdout: io.BytesIO, stderr: IO[bytes]) -> None:
        """Look at the output of a command: the whole job is this command."""
        with self._lock:
            self._readers = [
                *(each for each in self._readers if each.stream not in STREAMS),
                _Reader(1, _Memory(stdout)),
                _Reader(2, _File(stderr, ours=False)),
            ]

    def forked(self) -> None:
        """Let the process that the job has forked write where that is seen."""
        if not self._redirected:
            return
        for number, name in STREAMS.items():
            if getattr(sys, name) is self._wrappers.get(name):
                stream = open(
                    number,
                    "w",
                    buffering=1,
                    encoding="utf-8",
                    errors="backslashreplace",
                    closefd=False,
                )
                setattr(sys, name, stream)

    def end(self) -> dict[str, Any] | None:
        """Return the last message, if the output is streamed and there was any."""
        if self._redirected:
            _write_out(BLOCKS)
        message = self._message(ended=True) if self.streams else None
        with self._lock:
            for reader in self._readers:
                reader.close()
            self._readers = []
        return message

    # -- anywhere ------------------------------------------------------------------

    def recent(self, *, stream: bool) -> Pieces:
        """Return the newest output; with `stream`, the worker is sent it and what follows.

        Nothing is returned then, so that all who follow it see the same messages.
        """
        with self._lock:
            if stream and self.streams:
                return []
            found = [each.recent(go_on=stream) for each in self._readers]
            pieces = [piece for piece in found if piece is not None]
            if not stream:
                return pieces
            self.streams = True
            self._before = pieces
            return []

    def _message(self, *, ended: bool) -> dict[str, Any] | None:
        with self._lock:
            found = [each.new(final=ended) for each in self._readers]
            pieces = self._before + [piece for piece in found if piece is not None]
            if not pieces and not (ended and self._sent):
                return None
            self._before = []
            number, self._sent = self._sent, self._sent + 1
        return {"job": self.job, "number": number, "pieces": pieces, "ended": ended}

    # -- on the event loop of the process ------------------------------------------

    async def stream(self, send: Callable[[dict[str, Any]], Awaitable[float]]) -> None:
        """Send the output until `stop` is called.

        Parameters
        ----------
        send
            Sends a message to the worker; returns the seconds until the next one.
        """
        pause = TICK if not self._before else 0.0
        while not self._stopped.is_set():
            try:
                await asyncio.wait_for(self._stopped.wait(), pause)
                return
            except asyncio.TimeoutError:
                message = self._message(ended=False)
            pause = TICK if message is None else await send(message)

    def stop(self) -> None:
        """Let `stream` return."""
        self._stopped.set()


def _write_out(mode: int) -> None:
    """Write what Python and the C library still have for the descriptors.

    Parameters
    ----------
    mode
        How the C library writes its standard output from now on.
    """
    for name in ("__stdout__", "__stderr__"):
        stream = getattr(sys, name, None)
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except Exception as error:  # noqa: BLE001 - it may be an object of the job
            logger.info("sys.%s cannot be flushed: %r", name, error)
    library = ctypes.CDLL(None)
    try:
        stdout = ctypes.c_void_p.in_dll(library, "stdout")
    except ValueError:  # it has another name elsewhere
        return
    library.fflush(stdout)
    library.setvbuf(stdout, None, mode, ctypes.c_size_t(io.DEFAULT_BUFFER_SIZE))


def install(worker: Any) -> None:
    """Let the output of each job be looked at.

    Parameters
    ----------
    worker
        The module `seamless_transformer.worker`.
    """

    def make(execute: Any) -> Any:
        def _execute_transformation_impl(*arguments: Any, **options: Any) -> Any:
            # Here sys.stdout and sys.stderr are those of the job.
            job = current_job()
            if job is not None and job.output is not None:
                job.output.begin()
            return execute(*arguments, **options)

        return _execute_transformation_impl

    extend(worker, "_execute_transformation_impl", make)

"""Large buffers stay in the shared memory in which they were handed over.

By itself the pool of seamless-transformer copies what a process has made out of the
shared memory, and into another piece of it for each process that wants it as an input:
each copy of 10 MB takes 5 to 7 ms, most of it for fresh pages. Here the Dask worker
keeps the memory, writes to the hashserver from it, and lends it to its processes.

It has no name any more while it is kept, only an open file: whatever ends the worker,
the system frees it. Needs Linux; elsewhere all goes the way of seamless-transformer.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seamless import Buffer, Checksum
from seamless.caching.buffer_cache import get_buffer_cache

#: bytes from which a buffer stays in shared memory, and is written in pieces
LARGE = 1024**2
#: bytes of a piece: from 128 KiB on, each would be fresh memory from the system
PIECE = 64 * 1024
#: where segments have their names
DIRECTORY = "/dev/shm"
#: share of the shared memory that must be free for a buffer to stay there
FREE_SHARE = 0.5
#: numbers of settings of the C library, see mallopt(3)
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
#: bytes of an object up to which its memory is used again
REUSED = 32 * 1024**2
#: bytes that a thread keeps at most for that
FREED = 64 * 1024**2
#: whether buffers can stay in shared memory here
SUPPORTED = os.path.isdir(DIRECTORY) and os.path.isdir("/proc/self/fd")


class SharedBuffer(Buffer):
    """A buffer in shared memory; whoever asks for its content gets a copy.

    Parameters
    ----------
    fd
        Of the memory; closed with this object.
    size
        Bytes.
    checksum
        Of the content.
    """

    def __init__(self, fd: int, size: int, checksum: Checksum) -> None:
        self._fd = fd
        self._size = size
        self._checksum = checksum
        weakref.finalize(self, os.close, fd)
        get_buffer_cache().register(checksum, self, size=size)

    def __len__(self) -> int:
        return self._size

    @property
    def content(self) -> bytes:
        """A copy of the bytes; not kept."""
        return _read(self._fd, self._size)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as an ordinary buffer: the file is open in this process only."""
        return _plain, (self.content, self._checksum.hex())

    @property
    def path(self) -> str:
        """Where other processes of this user find it, as long as this object lives."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def pieces(self) -> Iterator[bytes]:
        """The content, from its beginning, `PIECE` bytes at a time."""
        for begin in range(0, self._size, PIECE):
            yield os.pread(self._fd, min(PIECE, self._size - begin), begin)


def _plain(content: bytes, checksum: str) -> Buffer:
    return Buffer(content, checksum=Checksum(checksum))


def pieces(buffer: Buffer) -> Iterator[bytes | memoryview]:
    """The content of any buffer, `PIECE` bytes at a time."""
    if isinstance(buffer, SharedBuffer):
        yield from buffer.pieces()
        return
    view = memoryview(buffer.content)
    for begin in range(0, len(view), PIECE):
        yield view[begin : begin + PIECE]


def take(name: str, size: int, checksum: Checksum) -> Buffer:
    """Return what is in a segment; its name may go then.

    Parameters
    ----------
    name
        Of the segment.
    size
        Bytes of it that are the buffer.
    checksum
        Of the buffer.

    Returns
    -------
    Buffer
        In the segment itself if it is large and shared memory is not short; a copy
        otherwise.
    """
    fd = os.open(os.path.join(DIRECTORY, name), os.O_RDONLY | os.O_CLOEXEC)
    if size >= LARGE:
        memory = os.fstatvfs(fd)
        if memory.f_bavail >= FREE_SHARE * memory.f_blocks:
            return SharedBuffer(fd, size, checksum)
    try:
        return Buffer(_read(fd, size), checksum=checksum)
    finally:
        os.close(fd)


def _read(fd: int, size: int) -> bytes:
    content = os.pread(fd, size, 0)
    while len(content) < size:  # the system reads 2 GiB at a time
        content += os.pread(fd, size - len(content), len(content))
    return content


class Loan:
    """Keeps a buffer while a process reads it; the pool ends it like a segment."""

    def __init__(self, buffer: SharedBuffer) -> None:
        self._buffer: SharedBuffer | None = buffer

    def close(self) -> None:
        """Be like a segment, of which this is the end of the use here."""

    def unlink(self) -> None:
        """Give the buffer back."""
        self._buffer = None


class Segment:
    """A segment as a Seamless process reads it, in place of Python's SharedMemory.

    Parameters
    ----------
    name
        Of the segment, or the path of memory that has no name.
    """

    def __init__(self, name: str) -> None:
        with Path(DIRECTORY, name).open("rb") as file:
            self._memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if len(self._memory) >= LARGE:
            reuse_memory()
        self.buf = memoryview(self._memory)

    def close(self) -> None:
        """End the use of the memory here."""
        self.buf.release()
        self._memory.close()


@functools.cache
def reuse_memory() -> None:
    """Let this process use freed memory again instead of asking the system for more.

    Dask has its workers and what they start give memory back at once
    (``MALLOC_TRIM_THRESHOLD_``), so that each large object costs a page fault per 4
    kB: half the time of a copy, a third of the time of code such as
    ``random.randbytes``. Here the C library gets the limits that it would find by
    itself without that setting: a thread keeps at most `FREED` bytes. What a user has
    set for `REUSED` stays.
    """
    if "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, REUSED)
        mallopt(M_TRIM_THRESHOLD, FREED)


def install(worker: Any) -> None:
    """Change how this Seamless process reads and fills shared memory.

    Parameters
    ----------
    worker
        The module ``seamless_transformer.worker``.
    """
    if not SUPPORTED:
        return

    def upload(buffer: Buffer, pointer: dict[str, Any]) -> None:
        # Written, not mapped: that needs half the time, and memory that is short is
        # an error and not the end of the process.
        with Path(DIRECTORY, pointer["name"]).open("r+b", buffering=0) as file:
            view = memoryview(buffer.content)
            while view:
                view = view[file.write(view) :]
        if len(buffer) >= LARGE:
            reuse_memory()
        worker._request_parent_sync("upload", {"pointer": pointer})

    worker.SharedMemory = Segment
    worker._upload_buffer_to_parent = upload

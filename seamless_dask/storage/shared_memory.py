"""Large buffers stay in the shared memory in which they were handed over.

By itself, the pool of seamless-transformer copies a buffer that a process has made out
of shared memory, and into another piece of it for each process that needs the buffer as
an input. Each copy of 10 MB takes 5 to 7 ms, most of it for fresh pages. Here the Dask
worker keeps the memory, writes to the hashserver from it, and lends it to its processes.

The memory is a file without a name, which the worker has open and its processes open
through ``/proc``: however the worker ends, the system frees it. It does not count for
``/dev/shm``, which is limited to 64 MB in a container by default. It is written, not
mapped: lack of memory raises an error and does not kill the process with SIGBUS. If
shared memory fails for any reason, the buffer travels through the pipe instead.

Needs Linux; elsewhere seamless-transformer's own method is used.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import logging
import os
import weakref
from collections.abc import Iterator
from typing import Any

from seamless import Buffer, CacheMissError, Checksum
from seamless.caching.buffer_cache import get_buffer_cache

from ..neighbours.replacing import replace

logger = logging.getLogger(__name__)

#: bytes from which a buffer stays in shared memory, and is written in pieces
LARGE = 1024**2
#: bytes of a piece: each piece of 128 KiB or more would be fresh memory from the system
PIECE = 64 * 1024
#: numbers of settings of the C library, see mallopt(3)
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
#: bytes of an object up to which its memory is used again
REUSED = 32 * 1024**2
#: bytes that a thread keeps at most for that
FREED = 64 * 1024**2
#: whether memory can be shared without a name here
SUPPORTED = hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd")
#: flag in a request for a buffer: shared memory could not be read, send the content
PLAIN = "plain"
#: key of the content in a message, where memory cannot be shared
CONTENT = "content"


class SharedMemory:
    """Unnamed memory for one buffer.

    The pool of seamless-transformer keeps it as one of its segments, and calls `close`
    and `unlink`.

    Parameters
    ----------
    content
        Its content; None if a process will fill it.

    Raises
    ------
    OSError
        If there is not enough memory.
    """

    def __init__(self, content: bytes | None = None) -> None:
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        self._fd = os.memfd_create("seamless", flags)
        self._end = weakref.finalize(self, os.close, self._fd)
        if content is not None:
            try:
                write(self._fd, content)
            except BaseException:
                self.unlink()
                raise

    @property
    def path(self) -> str:
        """Path by which processes of this user open it while this object exists."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def close(self) -> None:
        """Do nothing: the pool treats this as a SharedMemory segment, which it closes."""

    def unlink(self) -> None:
        """Give the memory back, unless `take` has taken it over."""
        self._end()

    def take(self, size: int, checksum: Checksum) -> Buffer:
        """Return the buffer that a process has written; the object is then unusable.

        Parameters
        ----------
        size
            Expected size in bytes.
        checksum
            Of the buffer.

        Returns
        -------
        Buffer
            If it is large, a `SharedBuffer` on the memory itself, which is sealed
            against changes; otherwise a copy.

        Raises
        ------
        ValueError
            If the process has written another number of bytes.
        """
        try:
            found = os.fstat(self._fd).st_size
            if found != size:
                raise ValueError(
                    f"Buffer {checksum.hex()}: {found} of {size} bytes were written"
                )
            if size >= LARGE and self._seal():
                self._end.detach()
                return SharedBuffer(self._fd, size, checksum)
            return Buffer(_read(self._fd, size), checksum=checksum)
        finally:
            self._end()

    def _seal(self) -> bool:
        """Seal the memory against changes; False if a process has mapped it."""
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        try:
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, seals)
        except OSError as error:  # it is mapped
            logger.debug("Shared memory is copied: %r", error)
            return False
        return True


class SharedBuffer(Buffer):
    """A buffer in shared memory; `content` returns a copy.

    Parameters
    ----------
    fd
        File descriptor of the memory; closed with this object.
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
        """Pickle as an ordinary buffer: the file is open in this process only."""
        return _plain, (self.content, self._checksum.hex())

    @property
    def path(self) -> str:
        """Path by which processes of this user open it while this object exists."""
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


def write(fd: int, content: bytes) -> None:
    """Write all of `content`.

    Raises
    ------
    OSError
        If there is not enough memory.
    """
    view = memoryview(content)
    while view:  # the system writes 2 GiB at a time
        view = view[os.write(fd, view) :]


def _read(fd: int, size: int) -> bytes:
    content = os.pread(fd, size, 0)
    while len(content) < size:  # the system reads 2 GiB at a time
        more = os.pread(fd, size - len(content), len(content))
        if not more:
            raise OSError(f"{len(content)} of {size} bytes are there")
        content += more
    return content


class Loan:
    """Keeps a buffer while a process reads it; the pool ends it like a segment."""

    def __init__(self, buffer: SharedBuffer) -> None:
        self._buffer: SharedBuffer | None = buffer

    def close(self) -> None:
        """Do nothing: the pool treats this as a SharedMemory segment, which it closes."""

    def unlink(self) -> None:
        """Give the buffer back."""
        self._buffer = None


def read(path: str, size: int) -> bytes:
    """Read a buffer that another process has in shared memory.

    Parameters
    ----------
    path
        See `SharedMemory.path`.
    size
        Bytes.

    Raises
    ------
    OSError
        If it does not exist, or this process must not open it.
    """
    if size >= LARGE:
        reuse_memory()
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _read(fd, size)
    finally:
        os.close(fd)


@functools.cache
def reuse_memory() -> None:
    """Let this process use freed memory again instead of asking the system for more.

    Dask sets ``MALLOC_TRIM_THRESHOLD_``, which makes its workers and their child
    processes return freed memory at once. Each large object then costs a page fault per
    4 kB: half the time of a copy, a third of the time of code such as
    ``random.randbytes``. This function sets the limits that the C library would find by
    itself without that setting: a thread keeps at most `FREED` bytes. If the user has
    set ``MALLOC_MMAP_THRESHOLD_``, nothing is changed.
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
    ask = worker._request_parent_sync

    def upload(buffer: Buffer, pointer: dict[str, Any]) -> None:
        answer = {"pointer": pointer}
        if not _filled(pointer, buffer.content):
            answer[CONTENT] = buffer.content
        if len(buffer) >= LARGE:
            reuse_memory()
        ask("upload", answer)

    def fetch(checksum: Checksum) -> bytes:
        request: dict[str, Any] = {"checksum": checksum.hex()}
        while True:
            pointer = ask("download", request)
            if not isinstance(pointer, dict):
                raise CacheMissError(checksum)
            if CONTENT in pointer:
                content: bytes = pointer[CONTENT]
                return content
            try:
                return read(pointer["name"], pointer["size"])
            except OSError as error:
                logger.warning("Shared memory cannot be read: %s", error)
                request[PLAIN] = True
            finally:
                ask("downloaded", {"pointer": pointer})

    def resolve(self: Checksum, celltype: str | None = None) -> Any:
        content = worker._LOCAL_BUFFERS.get(self.hex())
        if content is None:
            content = fetch(self)
        buffer = Buffer(content, checksum=self)
        return buffer if celltype is None else buffer.get_value(celltype)

    replace(worker, "_checksum_resolve", resolve)
    replace(worker, "_upload_buffer_to_parent", upload)


def _filled(pointer: dict[str, Any], content: bytes) -> bool:
    """Fill the shared memory that the worker has made; False if that cannot be done."""
    if pointer["name"] is None:
        return False
    try:
        fd = os.open(pointer["name"], os.O_WRONLY | os.O_CLOEXEC)
        try:
            write(fd, content)
        finally:
            os.close(fd)
    except OSError as error:
        logger.warning("Shared memory cannot be filled: %s", error)
        return False
    return True

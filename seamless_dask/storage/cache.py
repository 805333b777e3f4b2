"""Buffers on a Dask worker: a bounded cache, and the way to and from the hashserver."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable

from seamless import Buffer, CacheMissError, Checksum
from seamless.caching import buffer_writer
from seamless.caching.buffer_cache import get_buffer_cache
from seamless.checksum.calculate_checksum import TRIVIAL_CHECKSUMS

from ..errors import UploadError
from ..neighbours import write_order
from ..neighbours.services import has_hashserver
from ..types import TransformationResult
from .hashserver import write
from .outages import HASHSERVER

logger = logging.getLogger(__name__)

#: bytes of buffers that a worker keeps at hand
DEFAULT_CAPACITY = 128 * 1024**2
#: number of buffers that it keeps: small ones take more memory than their content
MAX_BUFFERS = 5_000
#: bytes up to which an input travels with a job; four times that for all of its inputs
WITH_JOB = 4 * 1024


class BufferStore:
    """Least recently used buffers, and access to the others.

    The pool of seamless-transformer uses it as a mapping of checksum to bytes, in which
    it looks up the buffers that a child process asks for. Buffers that the pool adds
    count for the capacity as well.

    Parameters
    ----------
    capacity
        Bytes.
    """

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        self.capacity = capacity
        self._buffers: OrderedDict[str, Buffer] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()
        self._fetching: dict[str, asyncio.Task[Buffer]] = {}

    # -- the mapping that the pool uses ------------------------------------------

    def __contains__(self, checksum: str) -> bool:
        return checksum in self._buffers

    def __len__(self) -> int:
        return len(self._buffers)

    def __setitem__(self, checksum: str, content: bytes) -> None:
        self.add(Buffer(content, checksum=Checksum(checksum)))

    def get(self, checksum: str, default: bytes | None = None) -> bytes | None:
        """Return the bytes with this checksum if they are at hand."""
        with self._lock:
            buffer = self._buffers.get(checksum)
            if buffer is None:
                return default
            self._buffers.move_to_end(checksum)
        return buffer.content

    # -- cache -------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Bytes held."""
        return self._size

    def add(self, buffer: Buffer) -> None:
        """Keep a buffer at hand; the least recently used ones make room."""
        size = len(buffer)
        if size > self.capacity:
            return
        checksum = buffer.get_checksum().hex()
        with self._lock:
            if checksum in self._buffers:
                self._buffers.move_to_end(checksum)
                return
            self._buffers[checksum] = buffer
            self._size += size
            while self._size > self.capacity or len(self._buffers) > MAX_BUFFERS:
                _, evicted = self._buffers.popitem(last=False)
                self._size -= len(evicted)

    def clear(self) -> None:
        """Drop all buffers."""
        with self._lock:
            self._buffers.clear()
            self._size = 0

    def keep(self, buffer: Buffer) -> None:
        """Keep a buffer that is stored nowhere else, for some time if it is large."""
        self.add(buffer)
        if buffer.get_checksum().hex() not in self:
            buffer.tempref(scratch=True)

    def add_contents(self, results: Iterable[TransformationResult]) -> None:
        """Keep the small buffers that have come with results."""
        for result in results:
            if result.content is not None and result.result_checksum is not None:
                checksum = Checksum(result.result_checksum)
                self.add(Buffer(result.content, checksum=checksum))

    def at_hand(self, checksum: str) -> Buffer | None:
        """Return a buffer without any communication, or None."""
        content = TRIVIAL_CHECKSUMS.get(checksum)
        if content is not None:
            return Buffer(content, checksum=Checksum(checksum))
        with self._lock:
            buffer = self._buffers.get(checksum)
            if buffer is not None:
                self._buffers.move_to_end(checksum)
                return buffer
        return get_buffer_cache().get(Checksum(checksum))

    def take_over(self, checksum: str) -> None:
        """Keep an uploaded buffer in this store, which is bounded.

        Seamless' own cache, which receives results, would keep it for half a minute,
        without a limit on the total size.
        """
        if not has_hashserver():
            return
        buffer = self.at_hand(checksum)
        entry = get_buffer_cache().strong_cache.get(Checksum(checksum))
        if buffer is not None and entry is not None and entry.tempref is not None:
            self.add(buffer)
            entry.tempref.clear()

    async def resolve(self, checksum: str) -> Buffer:
        """Return a buffer from the cache or from a hashserver.

        Concurrent calls for one checksum share the request.

        Parameters
        ----------
        checksum
            64 hexadecimal digits.

        Raises
        ------
        seamless.CacheMissError
            If the buffer cannot be found.
        ServiceUnavailable
            If the hashserver stays unreachable.
        """
        buffer = self.at_hand(checksum)
        if buffer is None:
            task = self._fetching.get(checksum)
            if task is None:
                task = asyncio.create_task(self._fetch(checksum))
                self._fetching[checksum] = task
                task.add_done_callback(lambda _: self._fetching.pop(checksum, None))
            buffer = await asyncio.shield(task)
        self.add(buffer)
        return buffer

    async def resolve_all(self, checksums: Iterable[str]) -> list[Buffer]:
        """Return several buffers, in any order; missing ones are fetched concurrently.

        Raises
        ------
        seamless.CacheMissError, ServiceUnavailable
            See `resolve`.
        """
        found = []
        elsewhere = []
        for checksum in checksums:
            buffer = self.at_hand(checksum)
            if buffer is None:
                elsewhere.append(checksum)
            else:
                self.add(buffer)
                found.append(buffer)
        if elsewhere:
            found += await asyncio.gather(*map(self.resolve, elsewhere))
        return found

    async def size_of(self, checksum: str) -> int | None:
        """Return the length of a buffer, None if it cannot be found."""
        try:
            buffer = await self.resolve(checksum)
        except CacheMissError:
            return None
        return len(buffer)

    async def _fetch(self, checksum: str) -> Buffer:
        return await HASHSERVER.call(Checksum(checksum).resolution)


def contents_at_hand(checksums: Iterable[str]) -> dict[str, bytes]:
    """Return the small buffers that are in this process's cache; see `WITH_JOB`."""
    contents = {}
    total = 0
    for checksum in checksums:
        buffer = get_buffer_cache().get(Checksum(checksum))
        if buffer is not None and len(buffer) <= WITH_JOB:
            total += len(buffer)
            if total > 4 * WITH_JOB:
                break
            contents[checksum] = buffer.content
    return contents


async def write_to_hashserver(checksum: str, buffer: Buffer) -> None:
    """Write a buffer; wait for a hashserver that is away.

    Raises
    ------
    UploadError
        The message names the checksum and the reason.
    """
    size = len(buffer)
    try:
        written = await HASHSERVER.call(lambda: write(Checksum(checksum), buffer))
    except Exception as error:
        raise UploadError(
            f"Buffer {checksum} ({size} bytes) could not be written to the "
            f"hashserver: {error}"
        ) from error
    if not written:
        raise UploadError(
            f"Buffer {checksum} ({size} bytes) was not accepted by any hashserver"
        )
    _forget_failed_write(checksum)


def _forget_failed_write(checksum: str) -> None:
    """Make the background writer forget a write that failed there and worked here.

    Otherwise it would keep the buffer, and the failure, for ever.
    """
    with buffer_writer._lock:
        entry = buffer_writer._entries.get(Checksum(checksum))
        if entry is not None and entry.future.done():
            del buffer_writer._entries[entry.checksum]


async def _is_stored(checksum: str) -> bool:
    """Ask the hashserver; raise an error that `is_outage` recognises if it is away."""
    from seamless_remote import buffer_remote

    (length,) = await buffer_remote.get_buffer_lengths([Checksum(checksum)])
    if not length:
        # get_buffer_lengths hides connection errors: a missing buffer and an
        # unreachable server look alike.
        await HASHSERVER.check()
    return bool(length)


async def _await_background_write(checksum: str) -> bool | None:
    """Wait for Seamless' background writer; None if it does not write the buffer."""
    write_order.hurry(Checksum(checksum))
    try:
        # Without the shield, cancelling one caller would cancel the write for all.
        return await asyncio.shield(
            buffer_writer.await_existing_task(Checksum(checksum))
        )
    except Exception as error:  # noqa: BLE001 - whatever it was, we write ourselves
        logger.debug("Writing buffer %s failed (%r), trying again", checksum, error)
        return False


async def ensure_uploaded(checksum: str, buffer: Buffer | None) -> None:
    """Return once the hashserver has the buffer.

    Normally, Seamless' background writer is already writing the buffer; a write that
    failed there is repeated here, where it can wait for the hashserver.

    Parameters
    ----------
    checksum
        64 hexadecimal digits.
    buffer
        None if it is not in this process; then the hashserver must have it.

    Raises
    ------
    UploadError
        The message names the checksum and the reason.
    ServiceUnavailable
        If the hashserver stays unreachable.
    """
    from seamless_remote import buffer_remote

    if checksum in TRIVIAL_CHECKSUMS or not buffer_remote.has_write_server():
        return
    written = await _await_background_write(checksum)
    if written:
        return
    if written is None:
        # The background writer forgets successful writes, and only those.
        entry = get_buffer_cache().strong_cache.get(Checksum(checksum))
        if entry is not None and entry.remote_registered and entry.buffer is not None:
            return
    if buffer is not None:
        await write_to_hashserver(checksum, buffer)
        return
    if not await HASHSERVER.call(lambda: _is_stored(checksum)):
        raise UploadError(
            f"Buffer {checksum} is neither in this worker nor on a hashserver"
        )


async def await_pending_uploads(checksums: Iterable[str]) -> None:
    """Wait until this process's pending uploads of `checksums` have been written.

    Raises
    ------
    UploadError
        If a write failed, also at the second try.
    """
    from seamless_remote import buffer_remote

    if not buffer_remote.has_write_server():
        return

    async def wait(checksum: str) -> None:
        if await _await_background_write(checksum) is False:
            buffer = get_buffer_cache().get(Checksum(checksum))
            if buffer is not None:
                await write_to_hashserver(checksum, buffer)

    pending = [c for c in set(checksums) if Checksum(c) in buffer_writer._entries]
    if pending:
        await asyncio.gather(*map(wait, pending))

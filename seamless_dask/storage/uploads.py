"""Writes buffers that Seamless processes have made to the hashserver.

Seamless' background writer sends a promise ahead of each buffer, because readers may
come before it has been written. Here a checksum is passed on only after its buffer has
been written, so the promise is omitted, which saves half of the requests.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Mapping

from seamless import Buffer, Checksum
from seamless.checksum.calculate_checksum import TRIVIAL_CHECKSUMS

from .cache import BufferStore, ensure_uploaded, write_to_hashserver

#: written checksums that are remembered, so that they are not written again
REMEMBERED = 100_000


class Uploads:
    """Buffers on their way to the hashserver; lives on one event loop.

    Parameters
    ----------
    buffers
        The buffers of this process; uploaded buffers are kept there, too.
    """

    def __init__(self, buffers: BufferStore) -> None:
        self._buffers = buffers
        #: {checksum: its request}
        self._pending: dict[str, asyncio.Task[None]] = {}
        #: written checksums, the latest last
        self._written: OrderedDict[str, None] = OrderedDict()
        #: buffers that are not written yet; `wait` tries again those that failed
        self._failed: dict[str, Buffer] = {}

    def received(self, contents: Mapping[str, bytes] | None) -> None:
        """Keep and write buffers from a Seamless process, {checksum: bytes}."""
        for checksum, content in (contents or {}).items():
            self.made(Buffer(content, checksum=Checksum(checksum)))

    def made(self, buffer: Buffer) -> None:
        """Keep and write a buffer that a Seamless process has made."""
        self._buffers.add(buffer)
        self.add(buffer)

    def add(self, buffer: Buffer) -> None:
        """Start to write a buffer, unless that has been done."""
        from seamless_remote import buffer_remote

        checksum = buffer.get_checksum().hex()
        if checksum in TRIVIAL_CHECKSUMS or checksum in self._pending:
            return
        if not buffer_remote.has_write_server():
            # Without a hashserver, only this process's cache can keep it.
            buffer.tempref()
            return
        if checksum in self._written:
            self._written.move_to_end(checksum)
            return
        self._start(checksum, buffer)

    def _start(self, checksum: str, buffer: Buffer) -> asyncio.Task[None]:
        task = asyncio.create_task(self._write(checksum, buffer))
        self._pending[checksum] = task
        return task

    async def _write(self, checksum: str, buffer: Buffer) -> None:
        self._failed[checksum] = buffer
        try:
            await write_to_hashserver(checksum, buffer)
            del self._failed[checksum]
            self._written[checksum] = None
            if len(self._written) > REMEMBERED:
                self._written.popitem(last=False)
        finally:
            del self._pending[checksum]

    def is_written(self, checksum: str) -> bool:
        """Whether this object has written a buffer, as far as it remembers."""
        return checksum in self._written

    async def ensure(self, checksum: str, buffer: Buffer | None) -> None:
        """Return once the hashserver has a buffer; any process may write it.

        Parameters
        ----------
        checksum
            64 hexadecimal digits.
        buffer
            None if it is not in this process.

        Raises
        ------
        UploadError, ServiceUnavailable
            See `seamless_dask.storage.cache.ensure_uploaded`.
        """
        await self.wait([checksum])
        if not self.is_written(checksum):
            await ensure_uploaded(checksum, buffer)

    async def wait(self, checksums: Iterable[str]) -> None:
        """Wait until the added buffers among `checksums` have been written.

        Raises
        ------
        UploadError, ServiceUnavailable
            If one cannot be written. It is kept, and another `wait` tries again.
        """
        tasks = []
        for checksum in set(checksums):
            task = self._pending.get(checksum)
            if task is None and checksum in self._failed:
                task = self._start(checksum, self._failed[checksum])
            if task is not None:
                tasks.append(asyncio.shield(task))
        if tasks:
            await asyncio.gather(*tasks)

"""Buffers that do not travel with messages, between a Dask worker and its processes.

Answers what the code of seamless-transformer in a process asks for: a piece of shared
memory to fill or to read. What is large stays there, see
`seamless_dask.shared_buffers`. Runs on the event loop of seamless-transformer's pool.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

from seamless import Buffer, Checksum
from seamless_transformer.worker import _Pointer

from .buffers import has_hashserver
from .child_values import KEEP_SCRATCH
from .shared_buffers import SUPPORTED, Loan, SharedBuffer, take

if TYPE_CHECKING:
    from .pool import Pool

#: marks shared memory whose content is written by us and not by Seamless' writer
_OURS = "seamless_dask"


class Exchange:
    """Answers the processes of a pool.

    Parameters
    ----------
    pool
        Whose buffers are handed out.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._manager: Any = None

    def install(self, manager: Any) -> None:
        """Take these requests over.

        Parameters
        ----------
        manager
            seamless-transformer's pool.
        """
        self._manager = manager
        for name, handler in (
            ("download", self.download),
            ("downloaded", self._downloaded),
            ("ref_op", self.refer),
            ("upload", self._filled),
            (KEEP_SCRATCH, self._keep_scratch),
        ):
            manager._manager.add_parent_handler(name, handler)

    async def download(
        self, handle: Any, payload: dict[str, Any]
    ) -> dict[str, Any] | None:
        """Say where a process can read a buffer; None if that cannot be had."""
        checksum = Checksum(payload["checksum"]).hex()
        buffer = self._pool.buffers.at_hand(checksum)
        if buffer is None:
            # The original would block the pool's event loop while it fetches.
            runtime = self._pool.runtime_of(None)
            found = asyncio.run_coroutine_threadsafe(
                runtime.nested.has_buffer(handle.name, checksum), runtime.loop
            )
            if not await asyncio.wrap_future(found):
                return None
            buffer = self._pool.buffers.at_hand(checksum)
        if isinstance(buffer, SharedBuffer):
            pointer = self._lend(buffer)
        else:
            pointer = await self._manager._handle_download(handle, payload)
        self._pool.segments_of(handle.name).add(pointer["key"])
        return pointer

    def _lend(self, buffer: SharedBuffer) -> dict[str, Any]:
        """Let a process read a buffer where it is; `_downloaded` ends that."""
        key = uuid.uuid4().hex
        self._manager._pointers[key] = _Pointer(key, Loan(buffer), len(buffer), {})
        return {"key": key, "name": buffer.path, "size": len(buffer)}

    async def _downloaded(self, handle: Any, payload: dict[str, Any]) -> None:
        self._pool.segments_of(handle.name).discard(payload["pointer"]["key"])
        await self._manager._handle_downloaded(handle, payload)

    async def refer(self, handle: Any, payload: dict[str, Any]) -> Any:
        """Take note that a process has made a buffer that is not small.

        Returns
        -------
        dict or int or None
            Shared memory for the process to fill, if we do not have the buffer.
        """
        if payload["op"] == "tempref" and SUPPORTED and has_hashserver():
            checksum = Checksum(payload["checksum"]).hex()
            buffer = self._pool.buffers.at_hand(checksum)
            if buffer is not None:
                self._made(handle, buffer)
                return 0
            answer = await self._manager._allocate_pointer(
                payload["length"],
                {"checksum": checksum, "direction": "upload", _OURS: True},
            )
        else:
            answer = await self._manager._handle_ref_op(handle, payload)
        if isinstance(answer, dict):
            self._pool.segments_of(handle.name).add(answer["key"])
        return answer

    async def _filled(self, handle: Any, payload: dict[str, Any]) -> Any:
        key = payload["pointer"]["key"]
        self._pool.segments_of(handle.name).discard(key)
        if _OURS not in payload["pointer"]["metadata"]:
            return await self._manager._handle_upload(handle, payload)
        # Nothing waits from here on: the memory has an owner at any time.
        pointer = self._manager._pointers.pop(key)
        checksum = Checksum(pointer.metadata["checksum"])
        try:
            buffer = take(pointer.shm.name, pointer.size, checksum)
        finally:
            pointer.shm.unlink()
        self._made(handle, buffer)
        return {"checksum": checksum.hex()}

    def _made(self, handle: Any, buffer: Buffer) -> None:
        """Have a buffer written; that begins before the job can end."""
        key = next(iter(self._pool.jobs_of(handle.name)), None)
        runtime = self._pool.runtime_of(key)
        runtime.loop.call_soon_threadsafe(runtime.made, buffer)

    async def _keep_scratch(self, _handle: Any, payload: dict[str, Any]) -> None:
        checksum = Checksum(payload["checksum"])
        self._pool.buffers.keep(Buffer(payload["content"], checksum=checksum))

"""Exchanges buffers between a Dask worker and its processes, outside of messages.

Answers the requests of seamless-transformer's code in a process: it gets a piece of
shared memory to fill or to read. Large buffers stay there, see
`seamless_dask.storage.shared_memory`. Runs on the event loop of seamless-transformer's pool.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from seamless import Buffer, Checksum
from seamless.caching.buffer_cache import get_buffer_cache
from seamless_transformer.worker import _Pointer

from ..child.values import KEEP_SCRATCH
from ..neighbours.services import has_hashserver
from ..storage.cache import BufferStore
from ..storage.shared_memory import (
    CONTENT,
    PLAIN,
    SUPPORTED,
    Loan,
    SharedBuffer,
    SharedMemory,
)

logger = logging.getLogger(__name__)

#: marks shared memory whose content this package uploads, not Seamless' writer
_OURS = "seamless_dask"


class BufferRequests:
    """Answers the processes of a pool.

    Parameters
    ----------
    buffers
        The buffers that are handed out.
    segments_of
        Returns the keys of the shared memory for a process, given by name.
    find
        Gets a buffer that this process does not have, for another process. Called with
        its name and the checksum.
    made
        Has a buffer uploaded that a process has made. Called with its name and the
        buffer.
    """

    def __init__(
        self,
        buffers: BufferStore,
        segments_of: Callable[[str], set[str]],
        find: Callable[[str, str], Awaitable[Buffer | None]],
        made: Callable[[str, Buffer], object],
    ) -> None:
        self._buffers = buffers
        self._segments_of = segments_of
        self._find = find
        self._made = made
        self._manager: Any = None

    def install(self, manager: Any) -> None:
        """Replace the pool's own handlers of these requests.

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
        """Return where a process can read a buffer; None if it cannot be obtained."""
        checksum = Checksum(payload["checksum"]).hex()
        buffer = self._buffers.at_hand(checksum)
        if buffer is None:
            # The original handler would block the pool's event loop while it fetches.
            buffer = await self._find(handle.name, checksum)
            if buffer is None:
                return None
        if not SUPPORTED:
            answer = await self._manager._handle_download(handle, payload)
            self._segments_of(handle.name).add(answer["key"])
            return answer
        if payload.get(PLAIN):
            return {CONTENT: buffer.content}
        try:
            return self._lend(handle, buffer)
        except OSError as error:
            logger.warning("A buffer goes through the pipe: %s", error)
            return {CONTENT: buffer.content}

    def _lend(self, handle: Any, buffer: Buffer) -> dict[str, Any]:
        """Let a process read a buffer; `_downloaded` ends that.

        Raises
        ------
        OSError
            If the buffer is not in shared memory, and cannot be put there.
        """
        memory: Loan | SharedMemory
        if isinstance(buffer, SharedBuffer):
            memory, path = Loan(buffer), buffer.path
        else:
            memory = SharedMemory(buffer.content)
            path = memory.path
        return self._pointer(handle, memory, path, len(buffer), {})

    def _pointer(
        self,
        handle: Any,
        memory: Loan | SharedMemory | None,
        path: str | None,
        size: int,
        metadata: dict[str, Any],
    ) -> dict[str, Any]:
        """Keep memory for a process; return the pointer that the process gets."""
        key = uuid.uuid4().hex
        self._manager._pointers[key] = _Pointer(key, memory, size, metadata)
        self._segments_of(handle.name).add(key)
        return {"key": key, "name": path, "size": size, "metadata": metadata}

    async def _downloaded(self, handle: Any, payload: dict[str, Any]) -> None:
        self._segments_of(handle.name).discard(payload["pointer"]["key"])
        await self._manager._handle_downloaded(handle, payload)

    async def refer(self, handle: Any, payload: dict[str, Any]) -> Any:
        """Note that a process has made a buffer that is not small.

        Returns
        -------
        dict or int or None
            Shared memory for the process to fill, if we do not have the buffer.
        """
        if not SUPPORTED:
            answer = await self._manager._handle_ref_op(handle, payload)
            if isinstance(answer, dict):
                self._segments_of(handle.name).add(answer["key"])
            return answer
        checksum = Checksum(payload["checksum"])
        ours = payload["op"] == "tempref" and has_hashserver()
        if ours:
            buffer = self._buffers.at_hand(checksum.hex())
            if buffer is not None:
                self._made(handle.name, buffer)
                return 0
        elif payload["op"] == "decref":
            return await self._manager._handle_ref_op(handle, payload)
        else:
            checksum.incref() if payload["op"] == "incref" else checksum.tempref()
            if get_buffer_cache().get(checksum) is not None:
                return 0
        metadata = {"checksum": checksum.hex(), _OURS: ours}
        try:
            memory = SharedMemory()
        except OSError as error:
            logger.warning("A buffer goes through the pipe: %s", error)
            return self._pointer(handle, None, None, payload["length"], metadata)
        return self._pointer(handle, memory, memory.path, payload["length"], metadata)

    async def _filled(self, handle: Any, payload: dict[str, Any]) -> Any:
        key = payload["pointer"]["key"]
        self._segments_of(handle.name).discard(key)
        if not SUPPORTED:
            return await self._manager._handle_upload(handle, payload)
        # There is no `await` from here on, so the memory has an owner at any time.
        pointer = self._manager._pointers.pop(key)
        checksum = Checksum(pointer.metadata["checksum"])
        content = payload.get(CONTENT)
        if content is None:
            buffer = pointer.shm.take(pointer.size, checksum)
        else:
            buffer = Buffer(content, checksum=checksum)
            if pointer.shm is not None:
                pointer.shm.unlink()
        if pointer.metadata[_OURS]:
            self._made(handle.name, buffer)
        else:
            # `refer` has already taken a reference to it.
            get_buffer_cache().register(checksum, buffer, size=len(buffer))
        return {"checksum": checksum.hex()}

    async def _keep_scratch(self, _handle: Any, payload: dict[str, Any]) -> None:
        checksum = Checksum(payload["checksum"])
        self._buffers.keep(Buffer(payload["content"], checksum=checksum))

"""The interface of the Dask workers that the pool of a process serves."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from seamless import Buffer

from ..storage.uploads import Uploads


class Executing(Protocol):
    """The tasks that a worker executes."""

    def __contains__(self, key: str) -> bool:
        """Whether a task is one of them; from any thread."""

    def caller_waits(self, process: str | None, key: str | None) -> dict[str, Any]:
        """Note that one of them waits for a process that it has started."""


class Answers(Protocol):
    """Answers the Seamless processes of one worker, on the worker's event loop."""

    async def answer(self, process: str, request: dict[str, Any]) -> dict[str, Any]:
        """Answer a call of a transformation that runs in a process."""

    async def buffer(self, process: str, checksum: str) -> Buffer | None:
        """Return a buffer that a process asks for; None if it cannot be obtained."""


class User(Protocol):
    """A worker that a pool serves: `seamless_dask.worker.task_runner.TaskRunner`."""

    loop: asyncio.AbstractEventLoop

    @property
    def running(self) -> Executing:
        """The tasks that it executes."""

    @property
    def nested(self) -> Answers:
        """Answers its processes."""

    @property
    def uploads(self) -> Uploads:
        """Writes the buffers that its processes have made."""

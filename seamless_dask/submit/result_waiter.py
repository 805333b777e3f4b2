"""Gets the results of a client's tasks, even after a loss of the connection."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import dask

from scheduler_ext.messages import RUNS_AGAIN

from ..cluster import scheduler
from .registry import Entry

if TYPE_CHECKING:
    from distributed import Client, Future

    from ..types import TransformationResult
    from .pace import Pace

logger = logging.getLogger(__name__)


class Results:
    """Waits for tasks; submits them again if the scheduler has forgotten them.

    Parameters
    ----------
    client
        The client that has submitted the tasks.
    local
        Looks up a finished task's result in this process by its key.
    pace
        Limits the client's submissions.
    """

    def __init__(
        self, client: Client, local: Callable[[Any], Any] | None, pace: Pace
    ) -> None:
        self._client = client
        self._pace = pace
        self._local = local
        # Reentrant: when a task is submitted again, so are its dependencies.
        self._lock = threading.RLock()

    async def of(self, entry: Entry) -> TransformationResult:
        """Return the result of a task, once it has ended.

        Raises
        ------
        asyncio.CancelledError, concurrent.futures.CancelledError
            If it was cancelled.
        ConnectionError
            If the client was closed after it had lost the scheduler.
        Exception
            The exception that the task has raised.
        """
        while True:
            anchor = entry.anchor
            try:
                return await self._of_attempt(entry, anchor)
            except (asyncio.CancelledError, concurrent.futures.CancelledError):
                if entry.outcome.done():
                    raise
                lost = entry.renewed or _was_disconnected(anchor)
                if self._client.status in ("closing", "closed"):
                    address = scheduler.rpc(self._client).address
                    what = "lost" if lost else "closed"
                    raise ConnectionError(
                        f"the connection to the scheduler at {address} was {what}"
                    ) from None
                if not _was_disconnected(anchor):
                    raise
            await self._pace.keep()
            self._renew(entry)

    async def _of_attempt(self, entry: Entry, future: Future) -> TransformationResult:
        state = future._state
        if state is not None:
            await state.wait()
            result = entry.pushed if state.status == "finished" else None
            if result is None and self._local is not None:
                result = self._local(future.key)
            if result is not None:
                return result
        return await self._client.gather(future, asynchronous=True)

    def as_argument(self, entry: Entry) -> Future | TransformationResult:
        """Return the argument by which a dependent task gets the result of a task."""
        outcome = entry.outcome
        if outcome.done() and not outcome.cancelled():
            return outcome.result()
        self._renew(entry)
        return entry.anchor

    def _renew(self, entry: Entry) -> None:
        """Submit a task again if the scheduler has lost this client, with its tasks.

        If the task still runs, or has finished, nothing is executed again.
        """
        with self._lock:
            if _was_disconnected(entry.anchor):
                logger.info("The scheduler was gone: %s is submitted again", entry.key)
                with dask.annotate(**{RUNS_AGAIN: True}):
                    entry.anchor = entry.submit()
                self._pace.sent()
                entry.renewed = True


def _was_disconnected(future: Any) -> bool:
    """Whether a Dask future was cancelled because its client lost the scheduler."""
    exception = getattr(future._state, "exception", None)
    return getattr(exception, "reason", None) == "scheduler-connection-lost"

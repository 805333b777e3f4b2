"""Gets the results of a client's tasks, even after a loss of the connection."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import dask

from scheduler_ext.messages import RUNS_AGAIN

from ..cluster import scheduler
from ..neighbours.transformation import upstream_first
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
        # A closed client does not know it any more.
        self._address = scheduler.rpc(client).address
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
            If the client was closed, maybe after it had lost the scheduler; or if the
            scheduler does not answer for as long as a client looks for a lost one.
        Exception
            The exception that the task has raised.
        """
        # when the first of the last requests was made, all of them without an answer
        unanswered: float | None = None
        while True:
            anchor = entry.anchor
            try:
                return await self._of_attempt(entry, anchor)
            except (asyncio.CancelledError, concurrent.futures.CancelledError):
                if entry.outcome.done():
                    raise
                self._check_open(lost=entry.renewed or _was_disconnected(anchor))
                if not _was_disconnected(anchor):
                    raise
            except OSError as error:
                if error is getattr(anchor._state, "exception", None):
                    raise  # the task has raised it
                self._check_open(lost=True)
                now = time.monotonic()
                unanswered = now if unanswered is None else unanswered
                if now - unanswered >= self._client._timeout:
                    raise self._no_connection("lost") from error
                logger.info("No answer to the request for %s: %r", entry.key, error)
                # By then the client may have noticed that the connection is lost.
                await asyncio.sleep(scheduler.RETRY_INTERVAL)
                continue
            unanswered = None
            await self._renew_in_time(entry)

    def _check_open(self, *, lost: bool) -> None:
        if self._client.status in ("closing", "closed"):
            raise self._no_connection("lost" if lost else "closed") from None

    def _no_connection(self, what: str) -> ConnectionError:
        return ConnectionError(
            f"the connection to the scheduler at {self._address} was {what}"
        )

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
        if _has_result(entry):
            return entry.outcome.result()
        self._renew(entry)
        return entry.anchor

    async def _renew_in_time(self, entry: Entry) -> None:
        """Like `_renew`, as fast as the scheduler can follow."""
        await self._pace.keep()
        for each in _disconnected(entry):
            await self._pace.keep()
            if entry.outcome.done():
                return  # it was cancelled meanwhile
            self._renew(each)

    def _renew(self, entry: Entry) -> None:
        """Submit a task again if the scheduler has lost this client, with its tasks.

        If the task still runs, or has finished, nothing is executed again.
        """
        with self._lock:
            for each in _disconnected(entry):
                logger.info("The scheduler was gone: %s is submitted again", each.key)
                with dask.annotate(**{RUNS_AGAIN: True}):
                    each.anchor = each.submit()
                self._pace.sent()
                each.renewed = True


def _has_result(entry: Entry) -> bool:
    return entry.outcome.done() and not entry.outcome.cancelled()


def _disconnected(entry: Entry) -> list[Entry]:
    """The tasks to submit again for one of them, each after those that it needs."""

    def ends(each: Entry) -> bool:
        has_result = each is not entry and _has_result(each)
        return has_result or not _was_disconnected(each.anchor)

    return list(upstream_first(entry, ends, lambda each: each.dependencies))


def _was_disconnected(future: Any) -> bool:
    """Whether a Dask future was cancelled because its client lost the scheduler."""
    exception = getattr(future._state, "exception", None)
    return getattr(exception, "reason", None) == "scheduler-connection-lost"

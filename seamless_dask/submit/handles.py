"""The handles that callers hold on tasks, and their replacements afterwards."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from ..types import TransformationFutures, TransformationResult
from .mailbox import mailboxes
from .registry import Entry

if TYPE_CHECKING:
    pass


async def until_done(outcome: concurrent.futures.Future[Any]) -> None:
    """Wait for a future; cancelling the wait does not cancel the future.

    Any object with ``add_done_callback`` is accepted.

    Unlike `asyncio.wrap_future`, this does not go through the event loop's pipe if the
    loop's own thread sets the future, as in a Dask worker.
    """
    loop = asyncio.get_running_loop()
    thread = threading.get_ident()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def done(_: object) -> None:
        if threading.get_ident() == thread:
            wake()
        elif not loop.is_closed():
            mailboxes.of(loop).put(wake)

    outcome.add_done_callback(done)
    await waiter


class EntryKeeper(Protocol):
    """Counts the handles on each task."""

    def hold(self, entry: Entry) -> None:
        """Count one more handle on a task."""

    def unhold(self, entry: Entry, *, cancel: bool) -> None:
        """Give a handle back; with `cancel`, the last one cancels the task."""


class Handle:
    """One caller's hold on a task; releasing it never touches other handles.

    Safe to use from any thread. `cancelled` and `done` never raise, and `result`
    needs no communication once `done` is true.

    Parameters
    ----------
    keeper
        Counts the handles.
    entry
        The task.
    convert
        Converts the task's result into the return value of `result`.
    """

    def __init__(
        self,
        keeper: EntryKeeper,
        entry: Entry,
        convert: Callable[[TransformationResult], Any],
    ) -> None:
        self._keeper = keeper
        self._entry = entry
        self._convert = convert
        self._released = False
        self._cancelled = False
        keeper.hold(entry)

    @property
    def key(self) -> str:
        """Key of the Dask task."""
        return self._entry.key

    def done(self) -> bool:
        """Whether the task has ended, successfully or not."""
        return self._cancelled or self._entry.outcome.done()

    def cancelled(self) -> bool:
        """Whether the task was cancelled, here or on the cluster."""
        return self._cancelled or self._entry.outcome.cancelled()

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the result.

        Parameters
        ----------
        timeout
            Seconds; None waits as long as it takes.

        Raises
        ------
        concurrent.futures.CancelledError, TimeoutError
        """
        if self._cancelled:
            raise concurrent.futures.CancelledError(self._entry.key)
        return self._convert(self._entry.outcome.result(timeout))

    async def wait(self) -> Any:
        """Like `result`, without blocking the event loop."""
        if self._cancelled:
            raise asyncio.CancelledError(self._entry.key)
        outcome = self._entry.outcome
        await until_done(outcome)
        if outcome.cancelled():
            raise asyncio.CancelledError(self._entry.key)
        return self._convert(outcome.result())

    def release(self, *, cancel: bool = False) -> None:
        """Give the handle back; repeated calls change nothing.

        Parameters
        ----------
        cancel
            If there is no other handle and the task has not ended, cancel it. Otherwise
            it runs to its end and its result is stored.
        """
        # When the interpreter ends, a thread that holds the client's lock may have been
        # stopped for good.
        if self._released or sys.is_finalizing():
            return
        self._released = True
        if cancel and not self._entry.outcome.done():
            self._cancelled = True
        self._keeper.unhold(self._entry, cancel=cancel)


class Ended:
    """Replaces a handle after its task has ended: keeps the key and the outcome.

    It holds no task on the cluster, and no buffer.

    Parameters
    ----------
    key
        Key of the Dask task.
    outcome
        Return value of `result`.
    """

    def __init__(self, key: str | None, outcome: Any) -> None:
        self.key = key
        self._outcome = outcome

    def done(self) -> bool:
        """Return True."""
        return True

    def cancelled(self) -> bool:
        """Return False: a cancelled transformation keeps no such handle."""
        return False

    def result(self, timeout: float | None = None) -> Any:
        """Return the outcome at once."""
        return self._outcome

    def release(self, *, cancel: bool = False) -> None:
        """Do nothing: there is nothing left to release."""


def ended(
    futures: TransformationFutures, result: TransformationResult
) -> TransformationFutures:
    """Return the futures that a transformation keeps after its task has ended."""
    key = getattr(futures.base, "key", None)
    return TransformationFutures(
        base=Ended(key, replace(result, content=None)),
        thin=Ended(key, result.thin()),
        tf_checksum=result.tf_checksum,
    )


def under_way(futures: TransformationFutures | None) -> bool:
    """Whether the futures of a transformation hold a task (are not `Ended`)."""
    return futures is not None and not isinstance(futures.base, Ended)

"""Begins evaluations, some at a time, so that the first ones go on while others arrive.

An event loop that is given thousands of coroutines at once runs the first step of each
before the second step of any.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from ..garbage import search
from .client_loop import ClientLoop

#: evaluations that begin in one turn of the event loop
AT_A_TIME = 50

_Waiting = tuple[Coroutine[Any, Any, None], concurrent.futures.Future[None]]


class Intake:
    """The evaluations of one client that have not begun.

    Parameters
    ----------
    loop
        The client's event loop.
    is_full
        Whether evaluations have to wait; `wake` must be called when they need not.
    """

    def __init__(self, loop: ClientLoop, is_full: Callable[[], bool]) -> None:
        self._loop = loop
        self._is_full = is_full
        self._waiting: deque[_Waiting] = deque()
        #: whether a call of `_take` is scheduled
        self._scheduled = False

    def put(
        self, coroutine: Coroutine[Any, Any, None]
    ) -> concurrent.futures.Future[None]:
        """Begin a coroutine on the loop when its turn comes; see `ClientLoop.start`.

        Cancelling the returned future cancels it.

        Raises
        ------
        ForkedDriverError, ClientClosed
            As `ClientLoop.start` does.
        """
        self._loop.check(coroutine)
        future: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._loop.call_soon(self._arrive, coroutine, future)
        search.add(self._loop.asyncio_loop)
        future.add_done_callback(self._count)
        if self._waiting and not self._loop.is_current():
            # Without this a thread that starts thousands lets the loop have Python's
            # lock only every few milliseconds.
            time.sleep(0)
        return future

    def __len__(self) -> int:
        """Evaluations that have not begun."""
        return len(self._waiting)

    def _arrive(
        self,
        coroutine: Coroutine[Any, Any, None],
        future: concurrent.futures.Future[None],
    ) -> None:
        self._waiting.append((coroutine, future))
        self.wake()

    def _count(self, future: concurrent.futures.Future[None]) -> None:
        if future.cancelled():
            search.cancelled()
        search.remove(self._loop.asyncio_loop)

    def wake(self) -> None:
        """Go on; called on the loop."""
        if self._waiting and not self._scheduled:
            self._scheduled = True
            self._loop.asyncio_loop.call_soon(self._take)

    def exit(self) -> None:
        """Let the interpreter end without what has not begun."""
        search.end()
        if self._loop.asyncio_loop.is_running() and not self._loop.of_parent:
            self._loop.call_soon(self._give_up)

    def _give_up(self) -> None:
        while self._waiting:
            coroutine, future = self._waiting.popleft()
            coroutine.close()
            future.cancel()

    def _take(self) -> None:
        self._scheduled = False
        begun = 0
        while self._waiting and begun < AT_A_TIME:
            if self._waiting[0][1].cancelled():
                self._waiting.popleft()[0].close()
                continue
            if self._is_full():
                return
            self._begin(*self._waiting.popleft())
            begun += 1
        self.wake()

    def _begin(
        self,
        coroutine: Coroutine[Any, Any, None],
        future: concurrent.futures.Future[None],
    ) -> None:
        task = self._loop.asyncio_loop.create_task(coroutine)
        task.add_done_callback(functools.partial(_copy, future))
        future.add_done_callback(functools.partial(self._cancel, task))

    def _cancel(
        self, task: asyncio.Task[None], future: concurrent.futures.Future[None]
    ) -> None:
        closed = self._loop.asyncio_loop.is_closed()
        if future.cancelled() and not task.done() and not closed:
            self._loop.call_soon(task.cancel)


def _copy(future: concurrent.futures.Future[None], task: asyncio.Task[None]) -> None:
    """Let a future end as a task has ended."""
    if task.cancelled():
        future.cancel()
        future.set_running_or_notify_cancel()
        return
    error = task.exception()
    if not future.set_running_or_notify_cancel():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)

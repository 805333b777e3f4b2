"""Begins evaluations, some at a time, so that the first ones go on while others arrive.

An event loop that is given thousands of coroutines at once runs the first step of each
before the second step of any.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

from ..garbage import search
from .client_loop import ClientLoop

#: evaluations that begin in one turn of the event loop
AT_A_TIME = 50

_Future = concurrent.futures.Future[None]
_Coroutine = Coroutine[Any, Any, None]


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
        #: in order of arrival; those that are cancelled leave it at once
        self._waiting: OrderedDict[_Future, _Coroutine] = OrderedDict()
        #: called on the loop when one of them was cancelled
        self.on_fewer: Callable[[], object] = lambda: None
        #: whether a call of `_take` is scheduled
        self._scheduled = False

    def put(self, coroutine: _Coroutine) -> _Future:
        """Begin a coroutine on the loop when its turn comes; see `ClientLoop.start`.

        Cancelling the returned future cancels it.

        Raises
        ------
        ForkedDriverError, ClientClosed
            As `ClientLoop.start` does.
        """
        self._loop.check(coroutine)
        future: _Future = concurrent.futures.Future()
        self._loop.call_soon(self._arrive, coroutine, future)
        search.add(self._loop.asyncio_loop)
        future.add_done_callback(self._ended)
        if self._waiting and not self._loop.is_current():
            # Without this a thread that starts thousands lets the loop have Python's
            # lock only every few milliseconds.
            time.sleep(0)
        return future

    def __len__(self) -> int:
        """Evaluations that have not begun."""
        return len(self._waiting)

    def _arrive(self, coroutine: _Coroutine, future: _Future) -> None:
        self._waiting[future] = coroutine
        if future.cancelled():
            self._drop(future)
        self.wake()

    def _ended(self, future: _Future) -> None:
        if future.cancelled():
            search.cancelled()
        search.remove(self._loop.asyncio_loop)
        if future in self._waiting and not self._loop.asyncio_loop.is_closed():
            self._loop.call_soon(self._drop, future)

    def _drop(self, future: _Future) -> None:
        """Forget what was cancelled: it holds its transformation."""
        coroutine = self._waiting.pop(future, None)
        if coroutine is not None:
            coroutine.close()
            self.on_fewer()

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
            future, coroutine = self._waiting.popitem(last=False)
            coroutine.close()
            future.cancel()

    def _take(self) -> None:
        self._scheduled = False
        begun = 0
        while self._waiting and begun < AT_A_TIME:
            if self._is_full():
                return
            future, coroutine = self._waiting.popitem(last=False)
            if future.cancelled():
                coroutine.close()
                continue
            self._begin(coroutine, future)
            begun += 1
        self.wake()

    def _begin(self, coroutine: _Coroutine, future: _Future) -> None:
        task = self._loop.asyncio_loop.create_task(coroutine)
        task.add_done_callback(functools.partial(_copy, future))
        future.add_done_callback(functools.partial(self._cancel, task))

    def _cancel(self, task: asyncio.Task[None], future: _Future) -> None:
        closed = self._loop.asyncio_loop.is_closed()
        if future.cancelled() and not task.done() and not closed:
            self._loop.call_soon(task.cancel)


def _copy(future: _Future, task: asyncio.Task[None]) -> None:
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

"""Waits for an evaluation that runs in the thread of a client.

The thread may disappear: the client is closed, or this is a forked process, which has no
threads of its parent. Then the end of the evaluation would never be reported, so waiting
callers check regularly whether its event loop still runs.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import weakref
from collections.abc import Coroutine
from typing import Any

from ..per_loop import WhileUsed
from .forked_drivers import ForkedDriverError
from .mailbox import mailboxes

#: seconds between two such checks
LOOK_INTERVAL = 2.0


_ENDED: concurrent.futures.Future[None] = concurrent.futures.Future()
_ENDED.set_result(None)
_CANCELLED: concurrent.futures.Future[None] = concurrent.futures.Future()
_CANCELLED.cancel()
_CANCELLED.set_running_or_notify_cancel()


class Ongoing:
    """An evaluation on another event loop.

    Parameters
    ----------
    future
        Done when the evaluation has ended.
    loop
        The event loop on which it runs.
    """

    #: whether a caller who waited for it was interrupted or cancelled and has stopped it;
    #: others who wait for it begin another one
    given_up = False
    #: whether it has ended; unlike `done`, costs nothing to read
    _ended = False

    def __init__(
        self,
        future: concurrent.futures.Future[None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._future = future
        self._loop = loop
        self._process = os.getpid()
        future.add_done_callback(self._end)

    def _end(self, future: concurrent.futures.Future[None]) -> None:
        """Keep only the outcome: a transformation may be kept for hours."""
        if future.cancelled():
            self._future = _CANCELLED
        elif future.exception() is None:
            self._future = _ENDED
        self._ended = True

    @property
    def of_parent(self) -> bool:
        """Whether it goes on in the process from which this one was forked."""
        return self._process != os.getpid()

    @property
    def place(self) -> tuple[asyncio.AbstractEventLoop, int]:
        """The event loop on which it runs, and the id of its process."""
        return self._loop, self._process

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._future.done()

    def cancel(self) -> None:
        """Stop it, unless it has ended."""
        if not self.of_parent and not self._future.done():
            self._future.cancel()

    def give_up(self) -> None:
        """Stop it because a caller who waits for it does so no more."""
        self.given_up = True
        self.cancel()

    def cancelled(self) -> bool:
        """Whether it was stopped, by `cancel` or from elsewhere."""
        return self._future.cancelled()

    def result(self) -> None:
        """Block until it has ended.

        Raises
        ------
        concurrent.futures.CancelledError
            If it was cancelled.
        ConnectionError
            If it cannot go on, because the client was closed.
        ForkedDriverError
            If it runs in the parent of this process.
        """
        future = self._future
        while not future.done():
            self.check()
            concurrent.futures.wait([future], LOOK_INTERVAL)
        future.result()

    async def wait(self) -> None:
        """Wait until it has ended, successfully or not.

        Raises
        ------
        ConnectionError, ForkedDriverError
            As `result` does.
        """
        if self._future.done():
            return
        self.check()
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        def done(_: object) -> None:
            if not loop.is_closed():
                mailboxes.of(loop).put(wake)

        waiters = _waiters.of(loop)
        try:
            waiters.add(waiter, self)
            self._future.add_done_callback(done)
            await waiter
        finally:
            waiters.discard(waiter, self)

    def check(self) -> None:
        """Check that it has ended or still runs in this process.

        Raises
        ------
        ConnectionError, ForkedDriverError
            As `result` does.
        """
        if self._future.done():
            return
        if self.of_parent:
            raise ForkedDriverError(self._process)
        if not self._loop.is_running():
            raise ClientClosed


def stop(
    evaluation: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop
) -> None:
    """Stop an evaluation that was perhaps handed to an event loop, and perhaps began.

    Looks through all tasks of the loop. For an interrupt in the meantime: afterwards
    `Ongoing.cancel` is there.
    """
    if loop.is_running():
        mailboxes.of(loop).put(_stop, evaluation)


def _stop(evaluation: Coroutine[Any, Any, None]) -> None:
    for task in asyncio.all_tasks():
        if task.get_coro() is evaluation:
            task.cancel()
            return
    evaluation.close()  # so that a task that awaits it ends at once


class ClientClosed(ConnectionError):
    """The client was closed, so its evaluations do not go on."""

    def __init__(self) -> None:
        super().__init__(
            "The Dask client of this process is closed: set another one with "
            "seamless_dask.set_seamless_dask_client, or call seamless.config.init() in "
            "a new process"
        )


class _Waiters:
    """Those who wait on one event loop; one timer serves them all.

    There may be a hundred thousand. Whether an evaluation still runs depends only on the
    event loop and the process that it began on.

    Those who wait in the main thread may be interrupted by Ctrl-C, and the interrupt may
    come when asyncio has taken a call that is due, but has not made it. Whoever lets the
    loop go on after that must not wait for ever.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._timer: asyncio.TimerHandle | None = None
        self._places: dict[
            tuple[asyncio.AbstractEventLoop, int],
            dict[asyncio.Future[None], Ongoing],
        ] = {}

    def add(self, waiter: asyncio.Future[None], ongoing: Ongoing) -> None:
        """Let an error end the waiting if the evaluation cannot go on."""
        self._places.setdefault(ongoing.place, {})[waiter] = ongoing
        if self._timer is None or self._is_lost(self._timer):
            self._wait()

    def discard(self, waiter: asyncio.Future[None], ongoing: Ongoing) -> None:
        """Forget one who waits no more."""
        waiting = self._places.get(ongoing.place)
        if waiting is not None:
            waiting.pop(waiter, None)
            if not waiting:
                del self._places[ongoing.place]
        self._end_if_none()

    def _end_if_none(self) -> None:
        if not self._places and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_lost(self, timer: asyncio.TimerHandle) -> bool:
        """Whether an interrupt has lost it, or else it is very late."""
        loop = self._loop()
        assert loop is not None
        return loop.time() > timer.when() + LOOK_INTERVAL

    def _wait(self) -> None:
        loop = self._loop()
        assert loop is not None
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(LOOK_INTERVAL, self._look)

    def _look(self) -> None:
        self._wait()  # first: an interrupt in here must not end the looking
        loop = self._loop()
        assert loop is not None
        mailboxes.of(loop).empty()
        for place, waiting in list(self._places.items()):
            self._look_at(waiting)
            if not waiting:
                self._places.pop(place, None)
        self._end_if_none()

    def _look_at(self, waiting: dict[asyncio.Future[None], Ongoing]) -> None:
        """Look at those whose evaluations have begun at the same place."""
        goes_on = False
        for waiter in list(waiting):
            ongoing = waiting.get(waiter)
            if ongoing is None or (goes_on and not ongoing._ended):
                continue
            try:
                ongoing.check()
            except (ClientClosed, ForkedDriverError) as error:
                if not waiter.done():
                    waiter.set_exception(error)
                continue
            if not ongoing.done:
                goes_on = True  # nor can the others have stopped
            elif not waiter.done():
                waiter.set_result(None)  # its wake-up was lost, or is on its way
            else:
                del waiting[waiter]


#: that of an event loop; the timer and those who wait keep it
_waiters = WhileUsed(_Waiters)

"""Lets what begins on an event loop begin some at a time.

A script that awaits a hundred thousand transformations at once makes as many asyncio tasks,
and all of them begin in one turn of its event loop. In that turn, which takes a minute,
nothing else happens on that loop: neither Ctrl-C nor anything else that the script awaits.
"""

from __future__ import annotations

import asyncio
from collections import deque

from ..garbage import search
from ..per_loop import WhileUsed

#: how many begin in one turn of an event loop
AT_A_TIME = 50


class Starts:
    """Those who want to begin on one event loop, in order of arrival.

    Parameters
    ----------
    at_a_time
        How many begin in one turn of the loop.
    """

    def __init__(self, at_a_time: int = AT_A_TIME) -> None:
        self._at_a_time = at_a_time
        #: how many have begun in this turn
        self._begun = 0
        #: how many turns have ended
        self._ended = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def turn(self) -> None:
        """Wait until it is the caller's turn; at once if few begin."""
        loop = asyncio.get_running_loop()
        if self._waiting or self._begun == self._at_a_time:
            waiter: asyncio.Future[None] = loop.create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                search.cancelled()
                raise
            return
        if self._begun == 0:
            self._schedule(loop, self._ended)
        self._begun += 1

    def _schedule(self, loop: asyncio.AbstractEventLoop, turn: int) -> None:
        """Let a turn end when the loop has made the calls that are due.

        Twice: an interrupt, Ctrl-C for instance, may come when the loop has taken one of
        the calls and has not made it, or anywhere in the call. The second one then makes
        up for it, otherwise it does nothing.
        """
        loop.call_soon(self._next, loop, turn)
        loop.call_soon(self._next, loop, turn)

    def _next(self, loop: asyncio.AbstractEventLoop, turn: int) -> None:
        """End a turn, and begin the next one."""
        if turn != self._ended:
            return
        self._begun = 0
        while self._waiting and self._begun < self._at_a_time:
            if not self._waiting[0].done():
                self._begun += 1
                self._waiting[0].set_result(None)
            self._waiting.popleft()
        if self._begun or self._waiting:
            self._schedule(loop, turn + 1)
        self._ended = turn + 1


#: those of an event loop; the loop keeps them while some wait or have begun in this turn
_starts = WhileUsed(lambda _: Starts())


async def turn() -> None:
    """Wait until it is the caller's turn on the running event loop."""
    await _starts.of(asyncio.get_running_loop()).turn()

"""Lets Seamless' background writer write first what somebody waits for.

It writes in order of arrival. A driver script that makes a hundred thousand
transformations gives it the inputs of all of them, and then the first transformation that
is submitted would wait until all these are written.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from seamless import Checksum
from seamless.caching import buffer_writer

from .replacing import extend

logger = logging.getLogger(__name__)

#: buffers that are written at a time; the others wait, and those that are needed pass them
AT_A_TIME = 32

_Writing = Callable[[Any], Awaitable[None]]


class WriteOrder:
    """Who writes next, on one event loop.

    Parameters
    ----------
    at_a_time
        How many may write at the same time.
    """

    def __init__(self, at_a_time: int = AT_A_TIME) -> None:
        self.loop = asyncio.get_running_loop()
        self._free = at_a_time
        self._waiting: OrderedDict[Checksum, asyncio.Future[None]] = OrderedDict()
        self._needed: OrderedDict[Checksum, asyncio.Future[None]] = OrderedDict()
        #: what is needed and has not arrived yet, or is being written
        self._expected: set[Checksum] = set()

    def __len__(self) -> int:
        """Return how many wait; from any thread."""
        return len(self._waiting) + len(self._needed)

    def hurry(self, checksum: Checksum) -> None:
        """Let a buffer that arrives, or has arrived, pass those that nobody needs."""
        turn = self._waiting.pop(checksum, None)
        if turn is not None:
            self._needed[checksum] = turn
        elif checksum not in self._needed:
            self._expected.add(checksum)

    async def write(
        self, checksum: Checksum, writing: Callable[[], Awaitable[None]]
    ) -> None:
        """Write when it is the turn of this buffer."""
        try:
            if self._free > 0 or checksum in self._waiting or checksum in self._needed:
                self._free -= 1  # one that was given up and comes again does not wait
            else:
                await self._turn(checksum)
            try:
                await writing()
            finally:
                self._next()
        finally:
            self._expected.discard(checksum)

    async def _turn(self, checksum: Checksum) -> None:
        turn: asyncio.Future[None] = self.loop.create_future()
        waiting = self._needed if checksum in self._expected else self._waiting
        waiting[checksum] = turn
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was this one's turn
                self._next()
            raise

    def _next(self) -> None:
        self._free += 1
        while self._free > 0 and len(self):
            self._begin_first()

    def begin_all(self) -> None:
        """Let all write that wait now, however many there are."""
        while len(self):
            self._begin_first()

    def _begin_first(self) -> None:
        _, turn = (self._needed or self._waiting).popitem(last=False)
        if not turn.cancelled():
            self._free -= 1
            turn.set_result(None)


#: that of the writer's present event loop
_order: WriteOrder | None = None


def install() -> None:
    """Make this change in this process; idempotent."""
    extend(buffer_writer, "_process_entry", _in_order)


def hurry(checksum: Checksum) -> None:
    """Let the background writer soon write a buffer that it has; from any thread."""
    entry, loop = buffer_writer._entries.get(checksum), buffer_writer._loop
    if entry is None or loop is None or len(buffer_writer._entries) <= AT_A_TIME:
        return

    def arrange() -> None:
        if not entry.future.done():  # it may have failed, and then nobody writes it
            _order_of(loop).hurry(checksum)

    try:
        # The buffer may be on its way to that loop: this comes after it.
        loop.call_soon_threadsafe(arrange)
    except RuntimeError:
        logger.debug("The background writer ends while %s is needed", checksum)


def _order_of(loop: asyncio.AbstractEventLoop) -> WriteOrder:
    global _order
    if _order is None or _order.loop is not loop:
        _order = WriteOrder()
    return _order


def _in_order(original: _Writing) -> _Writing:
    @functools.wraps(original)
    async def process_entry(entry: Any) -> None:
        order = _order_of(asyncio.get_running_loop())

        async def writing() -> None:
            await original(entry)
            if _found_no_server(entry.future):
                # Otherwise each group of them would wait for a health check of its own.
                order.begin_all()

        await order.write(entry.checksum, writing)

    return process_entry


def _found_no_server(future: concurrent.futures.Future[bool]) -> bool:
    """Whether a write has failed since the hashserver did not answer a health check."""
    if not future.done() or future.cancelled():
        return False
    return isinstance(future.exception(), RuntimeError)

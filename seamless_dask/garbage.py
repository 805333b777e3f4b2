"""When Python's search for garbage leaves objects out.

A hundred thousand transformations are ten million objects. Each full search of them takes
seconds, in which no thread of the process runs, and Python repeats it whenever their number
has grown by a quarter: half of the time of a driver script, and of its end after Ctrl-C.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

#: transformations whose objects take long to search
MANY = 1_000
#: seconds after which objects that were left out because of cancelled transformations are
#: part of it again: a driver script that was interrupted has ended by then. Also seconds
#: until the next look for event loops that were closed.
CALM = 10.0


class GarbageSearch:
    """Python's search for garbage; it leaves out what is there while much is under way.

    What is there is left out whenever `many` more are under way than ever since there were
    few: garbage that is left out with it stays until there are few again, but it does not
    add up. What an event loop that is closed had under way does not count. What is there
    is also left out whenever `many` more were cancelled, for some seconds: the exceptions
    and their frames are millions of objects as well. A program that goes on and cancels all
    the time needs the search, or its memory would grow.

    Parameters
    ----------
    many
        See above; half as many are few.
    """

    def __init__(self, many: int = MANY) -> None:
        self._many = many
        self._reset()
        os.register_at_fork(after_in_child=self._forget)

    def _reset(self) -> None:
        # Reentrant: the search may run in here, and what it deletes may cancel something.
        self._lock = threading.RLock()
        #: changes that are to be counted, and whether one is being counted
        self._changes: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._counting = False
        #: how many are under way on each event loop, and together
        self._on: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, int] = (
            weakref.WeakKeyDictionary()
        )
        self._under_way = 0
        #: how many must be under way so that what is there is left out again
        self._next = self._many
        #: runs while that is more than `many`: looks for event loops that were closed
        self._look: threading.Timer | None = None
        self._cancelled = 0
        #: runs while cancelled ones are left out
        self._timer: threading.Timer | None = None
        #: full searches at the time when that ended
        self._before = -1
        #: how many have come under way so far
        self._added = 0
        #: whether the interpreter is about to end: there are no new threads then
        self._ends = False

    def _forget(self) -> None:
        """In a forked process nothing is under way, and the timer does not run."""
        left_out = self.leaves_out
        self._reset()
        if left_out:
            gc.unfreeze()

    @property
    def leaves_out(self) -> bool:
        """Whether anything is left out at present."""
        return self._next > self._many or self._timer is not None

    def add(self, loop: asyncio.AbstractEventLoop) -> None:
        """Count what has come under way on an event loop; from any thread."""
        self._count(self._add, loop)

    def remove(self, loop: asyncio.AbstractEventLoop) -> None:
        """Count what has ended, once for each that was added; from any thread."""
        self._count(self._remove, loop)

    def cancelled(self) -> None:
        """Count what is cancelled; from any thread."""
        self._count(self._cancel)

    def end(self) -> None:
        """Leave out what is there if it may be much: the interpreter is about to end.

        At its end Python searches again and again.
        """
        with self._lock:
            self._ends = True
            for timer in (self._timer, self._look):
                if timer is not None:
                    timer.cancel()
            if self._added > self._many:
                gc.freeze()

    def _count(self, change: Callable[..., None], *arguments: Any) -> None:
        """Make a change, or have the change under way followed by it."""
        self._changes.append((change, arguments))
        with self._lock:
            while self._changes and not self._counting:
                self._counting = True
                try:
                    change, arguments = self._changes.popleft()
                    change(*arguments)
                finally:
                    self._counting = False

    def _add(self, loop: asyncio.AbstractEventLoop) -> None:
        self._on[loop] = self._on.get(loop, 0) + 1
        self._under_way += 1
        self._added += 1
        if self._under_way >= self._next:
            self._leave_closed_loops()
        if self._under_way >= self._next:
            self._next += self._many
            gc.freeze()
            self._look_later()

    def _remove(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop in self._on:
            self._on[loop] -= 1
            self._under_way -= 1
            self._include_if_few()

    def _cancel(self) -> None:
        self._cancelled += 1
        if self._cancelled % self._many == 0 and not self._ends:
            self._leave_out_for_some_time()

    def _leave_closed_loops(self) -> None:
        """Count no more what was under way on loops that are closed: it never ends."""
        for loop in list(self._on):
            if loop.is_closed():
                del self._on[loop]
        self._under_way = sum(self._on.values())
        self._include_if_few()

    def _look_later(self) -> None:
        if self._look is None and not self._ends:
            self._look = _start_timer(self._count, self._looked)

    def _looked(self) -> None:
        self._look = None
        self._leave_closed_loops()
        if self._next > self._many:
            self._look_later()

    def _include_if_few(self) -> None:
        if self._under_way <= self._many // 2 and self._next > self._many:
            self._next = self._many
            self._include()

    def _leave_out_for_some_time(self) -> None:
        if self._timer is None:
            if _full_searches() == self._before:
                return  # nothing was searched since the last time
            self._timer = _start_timer(self._count, self._calm)
            if self._timer is None:
                return
        gc.freeze()

    def _calm(self) -> None:
        self._timer = None
        self._before = _full_searches()
        self._include()

    def _include(self) -> None:
        if not self.leaves_out and not self._ends:
            gc.unfreeze()


def _start_timer(
    function: Callable[..., object], *arguments: Any
) -> threading.Timer | None:
    """Have a function called after `CALM`; None if there can be no further thread."""
    timer = threading.Timer(CALM, function, arguments)
    timer.daemon = True
    try:
        timer.start()
    except RuntimeError as error:
        logger.debug("No timer for the search for garbage: %r", error)
        return None
    return timer


def _full_searches() -> int:
    return gc.get_stats()[-1]["collections"]


#: that of this process
search = GarbageSearch()

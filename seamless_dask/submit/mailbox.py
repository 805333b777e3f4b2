"""Calls functions on event loops of other threads, many for one wake-up.

Waking a loop costs a system call, during which another thread gets Python's lock; with
thousands of wake-ups, threads spend their time waiting for each other.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from ..per_loop import PerLoop


class Mailbox:
    """What is to be called on one event loop; any thread may put something in.

    Parameters
    ----------
    loop
        The event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        # Reentrant: see `PerLoop`.
        self._lock = threading.RLock()
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._woken = False

    def put(self, callback: Callable[..., object], *arguments: Any) -> None:
        """Have a function called; in order, and together with others.

        Raises
        ------
        RuntimeError
            If the loop is closed.
        """
        loop = self._loop()
        assert loop is not None
        with self._lock:
            self._calls.append((callback, arguments))
            if self._woken:
                return
            try:
                loop.call_soon_threadsafe(self.empty)
            except RuntimeError:
                self._calls.clear()
                raise
            # Last: an interrupt before it costs one more wake-up. After the lock is
            # released the mailbox may have been emptied.
            self._woken = True

    def empty(self) -> None:
        """Schedule what was put in; called on the loop, by anybody.

        An interrupt may let something be called twice, but loses nothing.
        """
        with self._lock:
            self._woken = False
            number = len(self._calls)
        loop = self._loop()
        assert loop is not None
        try:
            for _ in range(number):
                callback, arguments = self._calls[0]
                # Each on its own, so that an error concerns no other one.
                loop.call_soon(callback, *arguments)
                self._calls.popleft()
        except BaseException:
            loop.call_soon(self.empty)
            raise


#: that of an event loop: ``mailboxes.of(loop)``
mailboxes = PerLoop(Mailbox)

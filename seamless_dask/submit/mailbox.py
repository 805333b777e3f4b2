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
            self._woken = True
        try:
            loop.call_soon_threadsafe(self._empty)
        except RuntimeError:
            with self._lock:
                self._woken = False
                self._calls.clear()
            raise

    def _empty(self) -> None:
        with self._lock:
            self._woken = False
            calls, self._calls = self._calls, deque()
        loop = self._loop()
        assert loop is not None
        for callback, arguments in calls:
            # Each on its own, so that an error concerns no other one.
            loop.call_soon(callback, *arguments)


#: that of an event loop: ``mailboxes.of(loop)``
mailboxes = PerLoop(Mailbox)

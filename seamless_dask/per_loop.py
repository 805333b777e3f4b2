"""One object for each event loop."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerLoop(Generic[T]):
    """One object for each event loop, made when it is first asked for.

    Parameters
    ----------
    make
        Makes one for an event loop. It must not refer to the loop, which would then be
        kept for ever.
    """

    def __init__(self, make: Callable[[asyncio.AbstractEventLoop], T]) -> None:
        self._make = make
        self._of: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, T] = (
            weakref.WeakKeyDictionary()
        )
        self._lock = threading.Lock()
        # A thread that a forked process does not have may hold it.
        fresh = self._lock._at_fork_reinit  # type: ignore[attr-defined]
        os.register_at_fork(after_in_child=fresh)

    def of(self, loop: asyncio.AbstractEventLoop) -> T:
        """Return that of an event loop; from any thread."""
        with self._lock:
            found = self._of.get(loop)
            if found is None:
                found = self._of[loop] = self._make(loop)
            return found

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

    A forked process has none of its parent: a thread that it does not have may be at
    work on one.

    Parameters
    ----------
    make
        Makes one for an event loop. It must not refer to the loop, which would then be
        kept for ever.
    """

    def __init__(self, make: Callable[[asyncio.AbstractEventLoop], T]) -> None:
        self._make = make
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        # Reentrant: code of the user may run in here, as a signal handler or as a
        # finaliser, and cancel something.
        self._lock = threading.RLock()
        self._of: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, T] = (
            weakref.WeakKeyDictionary()
        )

    def of(self, loop: asyncio.AbstractEventLoop) -> T:
        """Return that of an event loop; from any thread."""
        with self._lock:
            found = self._of.get(loop)
            if found is None:
                found = self._of.setdefault(loop, self._make(loop))
            return found


class WhileUsed(Generic[T]):
    """Like `PerLoop`, for objects that may refer to the loop.

    Each lives as long as something else refers to it; then there is a new one.

    Parameters
    ----------
    make
        Makes one for an event loop.
    """

    def __init__(self, make: Callable[[asyncio.AbstractEventLoop], T]) -> None:
        self._make = make
        self._references: PerLoop[list[weakref.ref[T]]] = PerLoop(lambda _: [])

    def of(self, loop: asyncio.AbstractEventLoop) -> T:
        """Return that of an event loop; in the thread of the loop."""
        known = self._references.of(loop)
        found = known[0]() if known else None
        if found is None:
            found = self._make(loop)
            known[:] = [weakref.ref(found)]
        return found

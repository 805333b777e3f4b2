"""When Python's search for garbage leaves objects out."""

from __future__ import annotations

import gc
import threading

#: seconds after which objects that were left out are part of it again: a driver script
#: that was interrupted has ended by then
CALM = 10.0


class GarbageSearch:
    """Python's search for garbage; what is there can be left out for some seconds.

    A program that goes on and cancels all the time needs it, or its memory would grow.
    """

    def __init__(self) -> None:
        # Reentrant: the search may run in here, and what it deletes may cancel something.
        self._lock = threading.RLock()
        self._timer: threading.Timer | None = None
        #: full searches at the time when all objects were included again
        self._before = -1

    def leave_out(self) -> None:
        """Leave out what is there, unless nothing was searched since the last time."""
        with self._lock:
            if self._timer is None:
                if _full_searches() == self._before:
                    return
                # Not on the loop of the client, which may be closed by then.
                self._timer = threading.Timer(CALM, self._include)
                self._timer.daemon = True
                self._timer.start()
            gc.freeze()

    def end(self) -> None:
        """Include nothing again: the interpreter is about to end."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()

    def _include(self) -> None:
        with self._lock:
            self._timer = None
            self._before = _full_searches()
            gc.unfreeze()


def _full_searches() -> int:
    return gc.get_stats()[-1]["collections"]

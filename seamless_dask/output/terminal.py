"""The terminal of a driver script: streamed output, and lines that change.

What arrives is printed by a thread of its own, because writing to a terminal or a pipe may
block, and the event loop of the client must not.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from collections import deque
from time import monotonic
from typing import Any

from scheduler_ext.functions import DIGITS

from .printer import BAR_INTERVAL, Printer
from .region import Region, changes

logger = logging.getLogger(__name__)

#: events that wait to be printed; the oldest are left out if there are more
MAX_WAITING = 1000
#: seconds between two states of the lines that change
REDRAW = 0.5
#: seconds that the end of a transformation waits for its output to be printed
FLUSH = 2.0

_terminal: Terminal | None = None
_creation = threading.Lock()


class Terminal:
    """Prints output of transformations; any thread may call."""

    def __init__(self) -> None:
        self._region = Region()
        self._printer = Printer(self._region)
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._waiting: deque[Any] = deque()
        #: numbers of events that have arrived, and that were printed or left out
        self._arrived = self._done = 0
        self._left_out = 0
        #: lines about the progress of all transformations
        self._status: list[str] = []
        #: those that were printed last where lines cannot change, and when (monotonic)
        self._printed: list[str] = []
        self._printed_at = -BAR_INTERVAL
        #: whether it cannot print any more
        self._broken = False
        self._started = False
        atexit.register(self._at_exit)

    @classmethod
    def of_this_process(cls) -> Terminal:
        """Return the terminal of this process."""
        global _terminal
        with _creation:
            if _terminal is None or _terminal._process != os.getpid():
                _terminal = cls()
            return _terminal

    def guard(self) -> None:
        """Notice what else is written; code may keep the streams as they are now."""
        self._region.guard()

    def _start(self) -> None:
        if not self._started:
            self._started = True
            threading.Thread(
                target=self._run, name="seamless-output", daemon=True
            ).start()

    def show(self, event: Any) -> None:
        """Print a `scheduler_ext.outputs.Event`, soon."""
        with self._changed:
            self._start()
            self._waiting.append(event)
            self._arrived += 1
            if len(self._waiting) > MAX_WAITING:
                self._waiting.popleft()
                self._left_out += 1
                self._done += 1
            self._changed.notify_all()

    def set_status(self, lines: list[str]) -> None:
        """Show these lines below everything else, soon; none removes them."""
        with self._changed:
            self._start()
            self._status = lines
            self._changed.notify_all()

    def flush(self, timeout: float = FLUSH) -> None:
        """Wait until all that has arrived is printed."""
        with self._changed:
            wanted = self._arrived
            self._changed.wait_for(
                lambda: self._done >= wanted or self._broken, timeout
            )

    def _run(self) -> None:
        try:
            while True:
                self._step()
        except (OSError, ValueError) as error:  # no reader any more, or it is closed
            logger.info("No output is shown any more: %r", error)
        except Exception:
            logger.exception("No output is shown any more")
        with self._changed:
            self._broken = True
            self._changed.notify_all()

    def _step(self) -> None:
        with self._changed:
            busy = bool(self._status or self._printer.unfinished())
            self._changed.wait_for(
                lambda: self._waiting or (self._status and not busy),
                REDRAW if busy else None,
            )
            event = self._waiting.popleft() if self._waiting else None
            left_out, self._left_out = self._left_out, 0
            status, more = self._status, bool(self._waiting)
        if event is not None:
            if left_out:
                logger.warning(
                    "The output of transformations comes faster than it can be "
                    "printed: %d messages are left out",
                    left_out,
                )
            self._print(event)
        if not more:
            self._region.draw([*self._printer.unfinished(), *status])
            self._print_status(status)
        if event is not None:
            with self._changed:
                self._done += 1
                self._changed.notify_all()

    def _print_status(self, status: list[str]) -> None:
        """Print the progress from time to time where lines cannot change."""
        stream = sys.stderr
        if not status or changes(stream) or stream is None:
            return
        now = monotonic()
        if status != self._printed and now - self._printed_at >= BAR_INTERVAL:
            self._region.print("\n".join([*status, ""]), stream)
            self._printed, self._printed_at = status, now

    def _print(self, event: Any) -> None:
        label = f"{event.name} {(event.checksum or '')[:DIGITS]}".rstrip()
        self._printer.show(
            event.key,
            label,
            event.pieces,
            begins=event.number == 0,
            ended=event.ended,
        )

    def _at_exit(self) -> None:
        if self._process == os.getpid():
            self.flush()
            self._region.close()

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
from collections.abc import Callable
from time import monotonic
from typing import Any, TextIO

from scheduler_ext.functions import DIGITS

from .printer import BAR_INTERVAL, Printer
from .region import Region, changes

logger = logging.getLogger(__name__)

#: events that wait to be printed, and characters of their text; the oldest are left out
#: if there are more
MAX_WAITING = 10_000
MAX_TEXT = 16 * 1024 * 1024
#: seconds between two warnings about what is left out
WARNING_INTERVAL = 30.0
#: seconds between two states of the lines that change
REDRAW = 0.5
#: seconds without anything printed until nobody waits any longer for output to be printed
FLUSH = 2.0

_terminal: Terminal | None = None
#: held while one is made
creation = threading.Lock()


class Terminal:
    """Prints output of transformations; any thread may call."""

    def __init__(self) -> None:
        self._region = Region()
        self._printer = Printer(self._write)
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._waiting: deque[Any] = deque()
        #: numbers of events that have arrived, and that were printed or left out
        self._arrived = self._done = 0
        #: characters of those that wait
        self._text = 0
        #: how many were left out since the last warning about it, and when (monotonic)
        #: that was
        self._left_out = 0
        self._warned_at = -WARNING_INTERVAL
        #: lines about the progress of all transformations
        self._status: list[str] = []
        #: those that were printed last where lines cannot change, and when (monotonic)
        self._printed: list[str] = []
        self._printed_at = -BAR_INTERVAL
        #: streams that could not be written when it was tried last, by their id
        self._unwritten: set[int] = set()
        #: whether its thread has ended
        self._broken = False
        self._thread: threading.Thread | None = None
        #: whether the process is ending
        self._closed = False
        atexit.register(self._at_exit)

    @classmethod
    def of_this_process(cls) -> Terminal:
        """Return the terminal of this process."""
        global _terminal
        with creation:
            if _terminal is None or _terminal._process != os.getpid():
                _terminal = cls()
            return _terminal

    def guard(self) -> None:
        """Notice what else is written; code may keep the streams as they are now."""
        self._region.guard()

    def _start(self) -> None:
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(
                target=self._run, name="seamless-output", daemon=True
            )
            self._thread.start()

    def show(self, event: Any) -> None:
        """Print a `scheduler_ext.outputs.Event`, soon."""
        with self._changed:
            self._start()
            self._waiting.append(event)
            self._arrived += 1
            self._text += _length(event)
            while len(self._waiting) > MAX_WAITING or (
                self._text > MAX_TEXT and len(self._waiting) > 1
            ):
                self._text -= _length(self._waiting.popleft())
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
        """Wait until all that has arrived is printed.

        Parameters
        ----------
        timeout
            Seconds without anything printed after which it returns nevertheless. A slow
            terminal takes as long as it needs.
        """
        with self._changed:
            wanted = self._arrived
            while self._done < wanted and not self._broken:
                before = self._done
                if not self._changed.wait_for(
                    lambda: self._done > before or self._broken,  # noqa: B023
                    timeout,
                ):
                    return

    def _run(self) -> None:
        try:
            while not self._closed:
                self._step()
        except Exception:  # a bug of ours must not concern those who wait
            logger.exception("No output is shown any more")
        with self._changed:
            self._broken = True
            self._changed.notify_all()

    def _step(self) -> None:
        with self._changed:
            busy = bool(self._status or self._printer.unfinished())
            self._changed.wait_for(
                lambda: self._waiting or (self._status and not busy) or self._closed,
                REDRAW if busy else None,
            )
            event = self._waiting.popleft() if self._waiting else None
            if event is not None:
                self._text -= _length(event)
            status, more = self._status, bool(self._waiting)
        if monotonic() - self._warned_at >= WARNING_INTERVAL:
            self._warn_of_left_out()
        if event is not None:
            self._print(event)
        if not more:
            lines = [*self._printer.unfinished(), *status]
            self._try(lambda: self._region.draw(lines), sys.stderr)
            self._print_status(status)
        if event is not None:
            with self._changed:
                self._done += 1
                self._changed.notify_all()

    def _warn_of_left_out(self) -> None:
        with self._changed:
            number, self._left_out = self._left_out, 0
        if number:
            self._warned_at = monotonic()
            logger.warning(
                "The output of transformations comes faster than it can be printed: %d "
                "messages are left out",
                number,
            )

    def _print_status(self, status: list[str]) -> None:
        """Print the progress from time to time where lines cannot change."""
        stream = sys.stderr
        if not status or changes(stream) or stream is None:
            return
        now = monotonic()
        if status != self._printed and now - self._printed_at >= BAR_INTERVAL:
            self._write("\n".join([*status, ""]), stream)
            self._printed, self._printed_at = status, now

    def _write(self, text: str, stream: TextIO) -> None:
        self._try(lambda: self._region.print(text, stream), stream)

    def _try(self, write: Callable[[], None], stream: TextIO | None) -> None:
        """Write if that is possible: the stream may be closed, or have no reader.

        The other stream may be written nevertheless, and this one later: code may have
        replaced it for some time.
        """
        try:
            write()
        except (OSError, ValueError) as error:
            if id(stream) not in self._unwritten:
                self._unwritten.add(id(stream))
                logger.info("Output cannot be shown: %r", error)
        else:
            self._unwritten.discard(id(stream))

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
        if self._process != os.getpid():
            return
        self.flush()
        with self._changed:
            left, self._closed = len(self._waiting), True
            self._waiting.clear()
            self._changed.notify_all()
        if left:
            logger.warning(
                "The script ends before all output of transformations is printed: %d "
                "messages are left out",
                left,
            )
        if self._thread is not None:
            # Python aborts if a thread still writes when it ends.
            self._thread.join()
        self._warn_of_left_out()
        self._try(self._region.close, sys.stderr)


def _length(event: Any) -> int:
    """Characters of an event."""
    return sum(len(text) for _, text, _ in event.pieces)

"""Prints the output of transformations: lines with the name in front, and bars.

The standard output of a transformation goes to the standard output of this process, the
standard error to the standard error.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import monotonic
from typing import TextIO

from scheduler_ext.outputs import STREAMS

from .pieces import cleaned
from .region import changes
from .screen import Screen

#: transformations whose unfinished lines are remembered
MAX_SHOWN = 1000
#: seconds between two states of a bar where lines cannot change
BAR_INTERVAL = 30.0
#: seconds without output after which an unfinished line is not shown any more
STALE = 600.0


@dataclass
class _Shown:
    """The output of one transformation that has not ended."""

    label: str
    screens: dict[int, Screen] = field(
        default_factory=lambda: {stream: Screen() for stream in STREAMS}
    )
    #: time (monotonic) of the last output
    changed: float = 0.0
    #: time (monotonic) at which a bar was printed last, and its state
    printed: float = 0.0
    bar: str = ""


class Printer:
    """Prints what has arrived; called by one thread at a time.

    Parameters
    ----------
    write
        Writes whole lines on a stream, such as `Region.print`.
    """

    def __init__(self, write: Callable[[str, TextIO], None]) -> None:
        self._write = write
        self._shown: OrderedDict[str, _Shown] = OrderedDict()

    def show(
        self,
        key: str,
        label: str,
        pieces: Iterable[tuple[int, str, int]],
        *,
        begins: bool = False,
        ended: bool = False,
    ) -> None:
        """Print output of a transformation.

        Parameters
        ----------
        key
            Identifies the transformation.
        label
            Is printed in front of each line.
        pieces
            See `scheduler_ext.outputs.Piece`.
        begins
            Whether it is the first output since its code began.
        ended
            Whether there will be no more.
        """
        if begins and key in self._shown:
            self._end(self._shown.pop(key))
            self._print(1, label, ["[begins again]"])
        shown = self._shown.setdefault(key, _Shown(label))
        shown.changed = monotonic()
        for stream, text, dropped in pieces:
            screen = shown.screens[stream]
            lines = [f"[... {dropped} bytes left out ...]"] if dropped else []
            self._print(stream, label, lines + screen.feed(cleaned(text)))
        if ended:
            self._end(self._shown.pop(key))
        elif not changes(sys.stderr):
            self._print_bar(shown)
        while len(self._shown) > MAX_SHOWN:
            self._end(self._shown.popitem(last=False)[1])

    def unfinished(self) -> list[str]:
        """Return the lines that may still change, in the order in which they began."""
        since = monotonic() - STALE
        return [
            f"{shown.label} | {line}"
            for shown in self._shown.values()
            if shown.changed > since
            for screen in shown.screens.values()
            for line in screen.unfinished()
        ]

    def end(self) -> None:
        """Print what is unfinished."""
        while self._shown:
            self._end(self._shown.popitem(last=False)[1])

    def _end(self, shown: _Shown) -> None:
        for stream, screen in shown.screens.items():
            self._print(stream, shown.label, screen.end())

    def _print_bar(self, shown: _Shown) -> None:
        """Print the state of a bar from time to time."""
        lines = [line for each in shown.screens.values() for line in each.unfinished()]
        bar = " ".join(lines)
        if not shown.printed:
            shown.printed = monotonic()
        if bar and bar != shown.bar and monotonic() - shown.printed >= BAR_INTERVAL:
            self._print(2, shown.label, [bar])
            shown.bar, shown.printed = bar, monotonic()

    def _print(self, stream: int, label: str, lines: list[str]) -> None:
        target = sys.stdout if stream % 2 else sys.stderr
        if lines and target is not None:
            text = "".join(f"{label} | {line}\n" for line in lines)
            self._write(text, target)

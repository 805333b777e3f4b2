"""Lines at the bottom of a terminal that change: progress bars, and a line of progress.

Other output of the process stays readable. While such lines are shown, writing to
``sys.stdout`` and ``sys.stderr`` removes them first, also by code that has kept these
objects, such as handlers of `logging`. They come back with the next `draw`, once the other
output has ended its line.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, TextIO

#: columns of a notebook, and lines of it that may change
NOTEBOOK = 100, 1
#: lines of a terminal that change, at the most
MAX_LINES = 8


def encodable(text: str, stream: TextIO) -> str:
    """Return a text that a stream can write."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def is_notebook(stream: Any) -> bool:
    """Whether a stream is shown by a notebook, which knows "\\r" but no more."""
    return type(stream).__module__.partition(".")[0] == "ipykernel"


def changes(stream: Any) -> bool:
    """Whether lines on a stream can change: it is a terminal, or in a notebook."""
    if stream is None or getattr(stream, "closed", True):
        return is_notebook(stream)
    if is_notebook(stream):
        return True
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


class Region:
    """The lines of ``sys.stderr`` that change; any thread may call."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._process = os.getpid()
        #: the stream on which the lines are shown, None: none are
        self._shown_on: TextIO | None = None
        self._lines: list[str] = []
        #: whether other output has begun a line and not ended it
        self._within = False
        #: the streams whose `write` is ours, and theirs
        self._guarded: dict[int, tuple[TextIO, Callable[[str], int]]] = {}

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines instead of those before; none removes them."""
        with self.lock:
            stream = sys.stderr
            if not lines or not changes(stream):
                self.close()
                return
            self._guard()
            if self._within:
                return
            columns, most = (
                NOTEBOOK
                if is_notebook(stream)
                else (shutil.get_terminal_size().columns, MAX_LINES)
            )
            shown = [encodable(line, stream)[: columns - 1] for line in lines][-most:]
            if shown == self._lines and stream is self._shown_on:
                return
            self._write(stream, self._codes_to_erase() + "\n".join(shown))
            self._shown_on, self._lines = stream, shown

    def close(self) -> None:
        """Remove the lines, and leave the streams as they were."""
        with self.lock:
            self._erase()
            for stream, theirs in self._guarded.values():
                if getattr(stream.write, "ours", None) is self:
                    del stream.write
                    if stream.write != theirs:
                        stream.write = theirs  # type: ignore[method-assign]
            self._guarded.clear()
            self._within = False

    def print(self, text: str, stream: TextIO) -> None:
        """Write whole lines on a stream, above the lines that change."""
        with self.lock:
            self._erase()
            self._write(stream, encodable(text, stream))

    def _write(self, stream: TextIO, text: str) -> None:
        _, write = self._guarded.get(id(stream), (stream, stream.write))
        write(text)
        stream.flush()

    def _erase(self) -> None:
        stream = self._shown_on
        if stream is not None:
            codes, self._lines, self._shown_on = self._codes_to_erase(), [], None
            self._write(stream, codes)

    def _codes_to_erase(self) -> str:
        if not self._lines:
            return ""
        if is_notebook(self._shown_on):
            return "\r" + " " * len(self._lines[0]) + "\r"
        return "\r\x1b[K" + "\x1b[1A\x1b[K" * (len(self._lines) - 1)

    def _guard(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            if stream is None or id(stream) in self._guarded or not changes(stream):
                continue
            theirs = stream.write
            try:
                stream.write = self._guarding(theirs)  # type: ignore[method-assign]
            except AttributeError:  # a stream that does not allow it
                continue
            self._guarded[id(stream)] = stream, theirs

    def _guarding(self, theirs: Callable[[str], int]) -> Callable[[str], int]:
        @functools.wraps(theirs)
        def write(text: str) -> int:
            if os.getpid() != self._process:  # a fork may have copied a held lock
                return theirs(text)
            with self.lock:
                if text:
                    self._erase()
                    self._within = not text.endswith("\n")
                return theirs(text)

        write.ours = self  # type: ignore[attr-defined]
        return write

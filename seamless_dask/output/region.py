"""Lines at the bottom of a terminal that change: progress bars, and a line of progress.

Other output of the process stays readable. Writing to ``sys.stdout`` and ``sys.stderr``
removes these lines first, also by code that has kept the streams, such as handlers of
`logging`; they come back with the next `draw`, below a line that the other output has not
ended, such as a bar. What bypasses the streams (``os.write``, child processes) is not
known of.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from rich.cells import cell_len, set_cell_size

#: columns of a notebook, and lines of it that may change
NOTEBOOK = 100, 1
#: lines of a terminal that change, at the most
MAX_LINES = 8
#: values of ``TERM`` for terminals that cannot move the cursor
DUMB = ("dumb", "unknown")


def encodable(text: str, stream: TextIO) -> str:
    """Return a text that a stream can write."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def width_of(text: str) -> int:
    """Return the columns of a terminal that a line takes."""
    return cell_len(text.expandtabs())


def fitting(text: str, columns: int) -> str:
    """Return the beginning of a line that takes at most so many columns."""
    text = text.expandtabs()
    return set_cell_size(text, columns) if cell_len(text) > columns else text


def size_of(stream: TextIO) -> os.terminal_size:
    """Return columns and lines of the terminal that a stream is.

    Not of the standard output, which may be a file.
    """
    try:
        size = os.get_terminal_size(stream.fileno())
    except (AttributeError, OSError, ValueError):  # it has no descriptor
        return shutil.get_terminal_size()
    # a pseudo-terminal of which nobody has set the size has no columns
    return size if size.columns and size.lines else shutil.get_terminal_size()


def is_notebook(stream: Any) -> bool:
    """Whether a stream is shown by a notebook, which knows "\\r" but no more."""
    return type(stream).__module__.partition(".")[0] == "ipykernel"


def changes(stream: Any) -> bool:
    """Whether lines on a stream can change: it is a terminal, or in a notebook."""
    if is_notebook(stream):
        return True
    if stream is None or getattr(stream, "closed", True):
        return False
    return bool(stream.isatty()) and os.environ.get("TERM") not in DUMB


class Region:
    """The lines of ``sys.stderr`` that change; any thread may call."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._process = os.getpid()
        #: the stream on which the lines are shown, None: none are
        self._shown_on: TextIO | None = None
        self._lines: list[str] = []
        #: the line that other output has begun and not ended; None: it cannot be known,
        #: so nothing is shown until it ends
        self._begun: str | None = ""
        #: the streams whose `write` is ours, and theirs
        self._guarded: dict[int, tuple[TextIO, Callable[[str], int]]] = {}

    def guard(self) -> None:
        """Notice what is written from now on, until `close`."""
        with self.lock:
            for stream in (sys.stdout, sys.stderr):
                if id(stream) in self._guarded or not changes(stream):
                    continue
                theirs = stream.write
                try:
                    stream.write = self._guarding(theirs)  # type: ignore[method-assign]
                except AttributeError:  # a stream that does not allow it
                    continue
                self._guarded[id(stream)] = stream, theirs

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines instead of those before; none removes them."""
        with self.lock:
            stream = sys.stderr
            if not lines or not changes(stream):
                self._erase()
                return
            self.guard()
            notebook = is_notebook(stream)
            if notebook:
                columns, most = NOTEBOOK
            else:
                columns, rows = size_of(stream)
                most = max(1, min(MAX_LINES, rows - 1))
            begun = self._begun
            if begun is None or (begun and (notebook or width_of(begun) >= columns)):
                return
            shown = [fitting(encodable(line, stream), columns - 1) for line in lines]
            shown = shown[-most:]
            if shown == self._lines and stream is self._shown_on:
                return
            self._erase()
            self._write(stream, ("\n" if begun else "") + "\n".join(shown))
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
            self._begun = ""

    def print(self, text: str, stream: TextIO) -> None:
        """Write whole lines on a stream, above the lines that change."""
        with self.lock:
            text = encodable(text, stream)
            self._erase()
            if not changes(stream) or self._begun == "":
                self._write(stream, text)
            elif self._begun is None or is_notebook(stream):
                self._write(stream, f"\n{text}")
                self._begun = ""
            else:
                self._write(stream, f"\r\x1b[K{text}{self._begun}")

    def _write(self, stream: TextIO, text: str) -> None:
        _, write = self._guarded.get(id(stream), (stream, stream.write))
        write(text)
        stream.flush()

    def _erase(self) -> None:
        """Remove the lines; the cursor goes back to where other output was."""
        stream = self._shown_on
        if stream is None:
            return
        if is_notebook(stream):
            codes = "\r" + " " * width_of(self._lines[0]) + "\r"
        else:
            codes = "\r\x1b[K" + "\x1b[1A\x1b[K" * (len(self._lines) - 1)
            if self._begun:
                codes += f"\x1b[1A\r{self._begun}"
        self._lines, self._shown_on = [], None
        self._write(stream, codes)

    def _guarding(self, theirs: Callable[[str], int]) -> Callable[[str], int]:
        @functools.wraps(theirs)
        def write(text: str) -> int:
            if os.getpid() != self._process:  # a fork may have copied a held lock
                return theirs(text)
            with self.lock:
                if text:
                    self._erase()
                    self._begun = _begun(self._begun, text)
                return theirs(text)

        write.ours = self  # type: ignore[attr-defined]
        return write


def _begun(before: str | None, text: str) -> str | None:
    """The line that has been begun and not ended after a text; None: not known.

    Codes that move the cursor, or a line that "\\r" overwrites in part, are not followed.
    """
    _, end, last = text.rpartition("\n")
    if "\x1b" in text:
        return "" if end and not last else None
    if not end:
        if before is None:
            return None
        last = before + last
    overwritten, back, state = last.rpartition("\r")
    if not back:
        return last
    old = overwritten.rpartition("\r")[2]
    return state + old[len(state) :] if state else None

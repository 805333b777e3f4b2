"""Makes lines and progress bars of the pieces of one stream, as a terminal would.

Pure. Progress bars begin each state with "\\r"; nested ones move up with "ESC [ A".
"""

from __future__ import annotations

import re

#: characters of a line; longer ones are broken
MAX_LINE = 8 * 1024
#: lines between which the cursor moves, at the most
MAX_ROWS = 16

_TOKENS = re.compile(r"(\n|\r|\x1b\[[0-9]{0,3}A)")
_UP = re.compile(r"\x1b\[([0-9]{0,3})A")


class Screen:
    """The last lines of a stream, which may still change."""

    def __init__(self) -> None:
        self._rows = [""]
        self._row = 0
        #: whether the next text overwrites the line
        self._fresh = False
        #: how many lines the cursor has moved up
        self._depth = 0

    def feed(self, text: str) -> list[str]:
        """Add text; return the lines that are complete now."""
        lines: list[str] = []
        for token in _TOKENS.split(text):
            if token == "\n":
                self._row += 1
                self._fresh = True
                if self._row == len(self._rows):
                    self._rows.append("")
                lines += self._complete(MAX_ROWS)
            elif token == "\r":
                self._fresh = True
            elif moves := _UP.fullmatch(token):
                up = min(MAX_ROWS, int(moves[1] or 1))
                self._depth = min(MAX_ROWS - 1, max(self._depth, up))
                self._row = max(0, self._row - up)
            elif token:
                lines += self._write(token)
        return lines + self._complete(1 + self._depth)

    def _write(self, text: str) -> list[str]:
        whole = text if self._fresh else self._rows[self._row] + text
        self._fresh = False
        lines = [whole[n : n + MAX_LINE] for n in range(0, len(whole), MAX_LINE) or [0]]
        self._rows[self._row] = lines.pop()
        return lines

    def _complete(self, kept: int) -> list[str]:
        """Return the lines that cannot change any more, and forget them."""
        number = max(0, min(self._row, len(self._rows) - kept))
        lines, self._rows = self._rows[:number], self._rows[number:]
        self._row -= number
        return [line.rstrip() for line in lines if line.strip() or not self._depth]

    def unfinished(self) -> list[str]:
        """Return the lines that may still change: bars, or a line without an end."""
        return [row.rstrip() for row in self._rows if row.strip()]

    def end(self) -> list[str]:
        """Return the remaining lines, and begin anew."""
        lines = self.unfinished()
        self.__init__()  # type: ignore[misc]
        return lines

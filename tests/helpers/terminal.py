"""What a terminal shows of the bytes that it gets."""

from __future__ import annotations

import fcntl
import re
import struct
import termios


def set_size(descriptor: int, columns: int, rows: int = 50) -> None:
    """Set the size of a pseudo-terminal; a new one has no columns."""
    size = struct.pack("HHHH", rows, columns, 0, 0)
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, size)


def screen(record: str) -> list[str]:
    """What a terminal shows at the end."""
    rows: list[str] = [""]
    row = column = 0
    for token in re.findall(r"\x1b\[[0-9]*[AKm]|\r|\n|[^\x1b\r\n]+", record):
        if token == "\n":
            row += 1
            rows += [""] * (row == len(rows))
        elif token == "\r":
            column = 0
        elif token.endswith("A") and token[0] == "\x1b":
            row = max(0, row - int(token[2:-1] or 1))
        elif token.endswith("m") and token[0] == "\x1b":
            continue
        elif token.endswith("K") and token[0] == "\x1b":
            rows[row] = rows[row][:column]
        else:
            old = rows[row].ljust(column)
            rows[row] = old[:column] + token + old[column + len(token) :]
            column += len(token)
    return [each.rstrip() for each in rows if each.strip()]

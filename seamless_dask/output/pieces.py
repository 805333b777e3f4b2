"""Makes pieces of text that can be sent from what the code of users has written.

Pure. The bytes may be anything: cut characters, no UTF-8 at all, NUL, codes that move the
cursor or set the title of a terminal. A piece is text that any message can carry and any
terminal can show, and it is small: the newest text wins.
"""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

#: bytes of UTF-8 that a piece has at the most
LIMIT = 8 * 1024
#: bytes of a stream that are looked at for one piece; progress bars shrink to their last
#: state
WINDOW = 1024 * 1024

#: codes of a terminal: with parameters, with text up to a mark, others
_CODES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~]?)"
)
#: the only code that is kept, since nested progress bars need it: up some lines
_UP = re.compile(r"\x1b\[[0-9]{0,3}A")
#: control characters, and marks that change the direction of writing
_REMOVED = {
    number: None
    for number in (
        *(n for n in range(32) if chr(n) not in "\t\n\r\x1b"),
        *range(0x7F, 0xA0),
        *(0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)),
    )
}


class Piece(NamedTuple):
    """The newest text of a stream."""

    text: str
    #: bytes of the stream before it that are left out
    dropped: int
    #: bytes of the stream that it accounts for
    consumed: int


def piece_of(raw: bytes, skipped: int = 0, *, final: bool = False) -> Piece:
    """Return the newest text of a stream.

    Parameters
    ----------
    raw
        What was written and not taken yet.
    skipped
        Number of bytes before `raw` that are not there any more.
    final
        Whether no more bytes come. Otherwise a character that is not complete yet is
        left for the next piece.
    """
    excess = max(0, len(raw) - WINDOW)
    begin = excess
    if begin or skipped:
        while begin < min(len(raw), excess + 3) and raw[begin] & 0xC0 == 0x80:
            begin += 1  # not in the middle of a character
    text, used = codecs.utf_8_decode(raw[begin:], "replace", final)
    text, dropped = _newest(_collapsed(cleaned(text)))
    return Piece(text, skipped + begin + dropped, begin + used)


def cleaned(text: str) -> str:
    """Return a text without control characters; "\\r", "\\n", tabs and "up" stay."""
    if text.isprintable():
        return text
    if "\x1b" in text:
        text = _CODES.sub(lambda code: code[0] if _UP.fullmatch(code[0]) else "", text)
    text = text.translate(_REMOVED)
    return text.encode("utf-8", "replace").decode("utf-8")


def _collapsed(text: str) -> str:
    """Leave out what later text on the same line has overwritten."""
    if "\r" not in text:
        return text
    lines = text.split("\n")
    return "\n".join(
        [*map(_last_state, lines[:-1]), _last_state(lines[-1], complete=False)]
    )


def _last_state(line: str, *, complete: bool = True) -> str:
    states = line.split("\r")
    if len(states) == 1 or "\x1b" in line:
        return line
    last = max((n for n, state in enumerate(states) if state), default=0)
    begin = "\r" if last else ""
    end = "\r" if last + 1 < len(states) and not complete else ""
    return f"{begin}{states[last]}{end}"


def _newest(text: str) -> tuple[str, int]:
    """Return the end of a text, and the number of bytes that it leaves out.

    Progress bars among them do not count: they have newer states.
    """
    data = text.encode("utf-8")
    if len(data) <= LIMIT:
        return text, 0
    cut = len(data) - LIMIT
    line_end = data.find(b"\n", cut - 1)
    if 0 <= line_end < len(data) - 1:
        cut = line_end + 1
    else:
        while data[cut] & 0xC0 == 0x80:
            cut += 1
    dropped = data[:cut].split(b"\n")
    counted = sum(len(line) + 1 for line in dropped if b"\r" not in line)
    return data[cut:].decode("utf-8"), min(cut, counted)

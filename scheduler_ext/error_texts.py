"""Texts of errors: their last line, their beginning, and the transformation to ask for.

The number in a traceback (``transformer-in-process-...``) belongs to the code, not to
the transformation, and a caller gets the error of what it called. So the last line of each
error ends with the transformation that failed first; callers keep that.
"""

from __future__ import annotations

import re
from typing import Any

from .functions import DIGITS, MAX_NAME, clean

#: Bytes of an error that the scheduler keeps, from its beginning
MAX_BYTES = 4_096
#: Characters of its last line
MAX_LINE = 300

_POINTER = re.compile(
    rf"(?:^| )(\[transformation (.{{1,{MAX_NAME}}}?) failed; for more: "
    rf"python -m seamless_dask\.status why ([0-9a-f]{{{DIGITS}}})\])",
    re.MULTILINE,
)
#: the title of a section that seamless-transformer adds, such as "Standard output"
_SECTION = re.compile(r"^\*{10,}\n\* \w", re.MULTILINE)


def with_pointer(text: str, name: str, checksum: str) -> str:
    """Let the last line of an error end with the checksum to ask ``why`` for.

    It gets a line of its own behind what a transformation has printed. An error that names
    one already, from a transformation that was called, keeps it.
    """
    found = list(_POINTER.finditer(text))
    if found:
        last = found[-1]
        pointer = last[1]
        behind = text[last.end() :]
        if last[0] == pointer:  # at the beginning of a line, which has nothing else
            behind = behind.removeprefix("\n")
        text = text[: last.start()] + behind
    else:
        pointer = (
            f"[transformation {clean(name) or 'unnamed'} failed; for more: "
            f"python -m seamless_dask.status why {checksum[:DIGITS]}]"
        )
    body = text.rstrip()
    if not body:
        return f"{pointer}\n"
    separator = "\n" if _SECTION.search(body) else " "
    return f"{body}{separator}{pointer}\n"


def origin(text: str) -> str | None:
    """The name and first digits of what failed first, ``score 5d41402abc4b``.

    None if the text does not say it.
    """
    found = _POINTER.findall(text)
    return " ".join(found[-1][1:]) if found else None


def last_line(text: str) -> str:
    """The line that says most: the last one of the error, without what was printed."""
    section = _SECTION.search(text)
    body = _POINTER.sub("", text if section is None else text[: section.start()])
    for line in reversed(body[-8 * MAX_LINE :].splitlines()):
        if any(c.isalnum() for c in line):
            return clean(line, MAX_LINE)
    return ""


def beginning(text: Any, limit: int = MAX_BYTES) -> str:
    """The first bytes of an error, as a text that can be sent and shown.

    Line ends and tabulators stay; other control characters become "?".
    """
    if not isinstance(text, str):
        return ""
    kept = text[:limit].encode("utf-8", "backslashreplace")[:limit]
    readable = kept.decode("utf-8", "ignore")
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in readable)

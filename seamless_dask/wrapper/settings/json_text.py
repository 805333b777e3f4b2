"""Reads JSON from outside, with a limit for the depth of nesting."""

from __future__ import annotations

import json
from typing import Any

#: People do not nest more deeply, and code that handles the value is recursive.
DEEPEST = 100
TOO_DEEP = f"is nested more than {DEEPEST} levels deep"


def parse(text: str | bytes) -> Any:
    """Return the value of a JSON text. Raises `ValueError`, also if it is too deep."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [
            item
            for outer in level
            if isinstance(outer, (dict, list))
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return value
    raise ValueError(TOO_DEEP)

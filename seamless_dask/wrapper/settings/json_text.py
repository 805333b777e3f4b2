"""JSON that others wrote: objects, lists and values, in each other to a sensible depth."""

from __future__ import annotations

import json
from typing import Any

#: Whatever is nested deeper was not written by people, and what handles it recurses.
DEEPEST = 100
TOO_DEEP = f"is nested more than {DEEPEST} levels deep"


def parse(text: str | bytes) -> Any:
    """Return what the text means. Raises `ValueError`, also where others run out of stack."""
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

"""Reads JSON from outside: no key occurs twice, and the depth of nesting has a limit."""

from __future__ import annotations

import json
from typing import Any

#: People do not nest more deeply, and code that handles the value is recursive.
DEEPEST = 100
TOO_DEEP = f"is nested more than {DEEPEST} levels deep"


def parse(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises `ValueError`, also if it is too deep, or if an object has a key twice.
    """
    try:
        value = json.loads(text, object_pairs_hook=_object)
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


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without repeated keys, of which JSON would keep the last one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = ", ".join(repr(key) for key in found if keys.count(key) > 1)
        raise ValueError(f"{twice} is written twice")
    return found

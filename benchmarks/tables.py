"""Finds the tables of a process that grow: dicts, lists, sets and queues without a bound."""

from __future__ import annotations

import functools
import gc
import reprlib
from collections import deque
from collections.abc import Iterator
from typing import Any

_CACHE = type(functools.lru_cache(len))
_KINDS = (dict, list, set, deque)


def tables(least: int) -> Iterator[Any]:
    """Yield every table of this process with at least so many entries."""
    gc.collect()
    seen: set[int] = set()
    # Python's garbage collector does not know a dict that refers to nothing but names and
    # numbers; but what refers to the dict, it knows.
    for holder in gc.get_objects():
        for found in (holder, *gc.get_referents(holder)):
            if isinstance(found, _KINDS) and len(found) >= least:
                if id(found) not in seen:
                    seen.add(id(found))
                    yield found


def lengths() -> dict[int, int]:
    """Return {id: number of entries} of the tables of this process."""
    return {id(table): len(table) for table in tables(10)}


def grown(before: dict[int, int], by: int) -> list[str]:
    """Describe the tables that have got at least so many entries more.

    Tables with a bound are left out: queues with a maximum, our bounded tables, and
    caches of functions. So are those that had next to nothing before, such as the last
    message: what is kept for ever is there from the beginning.

    Parameters
    ----------
    before
        What `lengths` has returned in this process.
    by
        A number of entries.
    """
    found = [
        table
        for table in tables(by)
        if id(table) in before
        and len(table) - before[id(table)] >= by
        and not _is_bounded(table)
    ]
    ours = {id(found)}
    return [_describe(table, before.get(id(table), 0), ours) for table in found]


def _is_bounded(table: Any) -> bool:
    if getattr(table, "maxlen", None) or getattr(table, "_limit", None):
        return True
    return any(
        isinstance(holder, _CACHE) and holder.cache_info().maxsize is not None
        for holder in gc.get_referrers(table)
    )


def _describe(table: Any, before: int, ours: set[int]) -> str:
    entries = list(table)[:2]
    return (
        f"{type(table).__name__} of {_owner(table, ours)}: {before} -> {len(table)} "
        f"entries, such as {reprlib.repr(entries)}"
    )


def _owner(table: Any, ours: set[int]) -> str:
    """Where a table is: the attribute or variable that refers to it."""
    for holder in gc.get_referrers(table):
        if id(holder) in ours:
            continue
        if isinstance(holder, dict):
            names = [name for name, value in holder.items() if value is table]
            for owner in gc.get_referrers(holder):
                if getattr(owner, "__dict__", None) is holder:
                    return f"{type(owner).__name__}.{names[0]}"
            if "__name__" in holder:
                return f"{holder['__name__']}.{names[0]}"
        for name in getattr(type(holder), "__slots__", ()):
            if getattr(holder, name, None) is table:
                return f"{type(holder).__name__}.{name}"
        if hasattr(holder, "__dict__"):
            for name, value in vars(holder).items():
                if value is table:
                    return f"{type(holder).__name__}.{name}"
    return "an unknown object"

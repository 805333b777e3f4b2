"""Numbers and lists in words, for people."""

from __future__ import annotations

from collections.abc import Iterable

from dask.utils import format_bytes


def count(number: int, noun: str) -> str:
    """Such as ``1 worker`` or ``3 workers``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def listed(names: Iterable[str], total: int = 0) -> str:
    """The names, and how many more there are of ``total``."""
    names = list(names)
    more = total - len(names)
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")


def span(seconds: float) -> str:
    """Such as ``3.2 s``, ``4 min`` or ``2.5 h``."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def size(number: float) -> str:
    """A number of bytes, such as ``1.21 GiB``."""
    return format_bytes(int(number))

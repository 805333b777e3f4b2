"""Numbers and lists in words, for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from dask.utils import format_bytes

#: reasons of a batch system that a text names at most, and characters of one
MOST_REASONS = 3
LONGEST_REASON = 60


def count(number: int, noun: str) -> str:
    """Such as ``1 worker`` or ``3 workers``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def listed(names: Iterable[str], total: int = 0) -> str:
    """The names, and how many more there are of ``total``."""
    names = list(names)
    more = total - len(names)
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")


def reasons(numbers: Mapping[str, int]) -> str:
    """Such as `` (Priority)`` or `` (2 Priority, 1 Resources)``; at most `MOST_REASONS`."""
    if not numbers:
        return ""
    if len(numbers) == 1:
        return f" ({next(iter(numbers))[:LONGEST_REASON]})"
    frequent = sorted(numbers.items(), key=lambda each: -each[1])[:MOST_REASONS]
    named = [f"{number} {reason[:LONGEST_REASON]}" for reason, number in frequent]
    return f" ({listed(named, len(numbers))})"


def sentence(*parts: str) -> str:
    """The parts that are not empty, with commas between them."""
    return ", ".join(part for part in parts if part)


def more_announced(number: int) -> str:
    """Such as ``7 more announced by driver scripts``; empty if there are none."""
    return f"{number} more announced by driver scripts" if number else ""


def span(seconds: float) -> str:
    """Such as ``3.2 s``, ``4 min`` or ``2.5 h``."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def size(number: float) -> str:
    """A number of bytes, such as ``1.21 GiB``."""
    return format_bytes(int(number))


def moment(seconds_ago: float) -> str:
    """Such as ``5 s ago``."""
    return f"{rough(seconds_ago)} ago"


def rough(seconds: float) -> str:
    """Like :func:`span`, without fractions of seconds; never below 0."""
    return f"{max(0.0, seconds):.0f} s" if seconds < 120 else span(seconds)


def clock(unix: float | None) -> str:
    """The time of the day, ``?`` if it is not known."""
    return "?" if unix is None else datetime.fromtimestamp(unix).strftime("%H:%M:%S")


def day_and_clock(unix: float) -> str:
    """Such as ``2026-01-31 17:05``."""
    return datetime.fromtimestamp(unix).strftime("%Y-%m-%d %H:%M")

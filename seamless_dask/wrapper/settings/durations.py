"""Durations and amounts of memory as people write them in parameters.

Two notations for time: Dask's (``"10m"``, ``"90 s"``) and that of batch systems
(``"01:00:00"``, ``"2-12:00:00"``). Numbers are seconds, but not for a walltime and not
for memory: there every batch system has a unit of its own for numbers without one. Digits
are those of ASCII.
"""

from __future__ import annotations

import math
import re
from typing import Any

from dask.utils import parse_bytes, parse_timedelta

# ASCII: the text goes to the batch system, which knows no other digits.
_CLOCK = re.compile(
    r"(?:(?P<days>\d+)-)?(?P<hours>\d+):(?P<minutes>\d{2}):(?P<seconds>\d{2})",
    re.ASCII,
)
_DAYS_ONLY = re.compile(
    r"(?P<days>\d+)-(?P<hours>\d+)(?::(?P<minutes>\d{2}))?", re.ASCII
)
_BARE = re.compile(r"[-+]?[\d_.,]+(?:[eE][-+]?\d+)?", re.ASCII)
_AMOUNT = re.compile(r"[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?\s*[A-Za-z]*")
#: The longest duration that is allowed, in seconds: about 30 years.
LONGEST = 10**9
#: More memory than any machine has, in bytes.
MOST_MEMORY = 2**60
_SLURM_MEMORY = re.compile(
    r"(?P<number>\d+)\s*(?P<unit>[KMGT])(?:i?B)?", re.IGNORECASE | re.ASCII
)


def is_bare(value: str | int | float) -> bool:
    """Whether a value is a number, or a text that holds a number without a unit."""
    return not isinstance(value, str) or bool(_BARE.fullmatch(value.strip()))


def parse_clock(text: str) -> int | None:
    """Seconds in ``HH:MM:SS``, ``D-HH``, ``D-HH:MM`` or ``D-HH:MM:SS``, or None."""
    match = _CLOCK.fullmatch(text) or _DAYS_ONLY.fullmatch(text)
    if match is None:
        return None
    part = {name: int(value or 0) for name, value in match.groupdict().items()}
    if part.get("minutes", 0) > 59 or part.get("seconds", 0) > 59:
        raise ValueError("minutes and seconds go up to 59")
    hours = 24 * part.get("days", 0) + part.get("hours", 0)
    return 3600 * hours + 60 * part.get("minutes", 0) + part.get("seconds", 0)


def parse_duration(value: str | int | float, *, zero: bool = False) -> float:
    """Seconds in a duration of either notation; `zero` says whether it may be zero."""
    if isinstance(value, str):
        text = value.strip()
        clock = parse_clock(text)
        if clock is not None:
            seconds = float(clock)
        elif re.fullmatch(r"\d+:\d+", text):
            raise ValueError("MM:SS and HH:MM look alike, write HH:MM:SS")
        elif not text.isascii():  # Dask would take digits of any script
            raise ValueError("is not a duration")
        else:
            try:
                seconds = float(parse_timedelta(text))
            except (KeyError, ValueError, IndexError, OverflowError):
                raise ValueError("is not a duration") from None
    else:
        try:
            seconds = float(value)
        except OverflowError:
            seconds = math.inf
    if not math.isfinite(seconds):
        raise ValueError("is not finite")
    if seconds < 0 or (seconds == 0 and not zero):
        raise ValueError("is too short")
    if seconds > LONGEST:
        raise ValueError(f"is too long, {LONGEST} s is the most")
    return seconds


def is_duration(value: Any, *, zero: bool = False) -> bool:
    """Whether `parse_duration` can read a value of any type; a boolean is none."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return False
    try:
        parse_duration(value, zero=zero)
    except ValueError:
        return False
    return True


def format_duration(seconds: float) -> str:
    """The shortest exact Dask notation in whole units: ``"55m"``, ``"90s"``."""
    whole = math.floor(seconds)
    if whole % 60 == 0:
        return f"{whole // 60}m"
    return f"{whole}s"


def format_clock(seconds: float) -> str:
    """``HH:MM:SS``, which every batch system but LSF understands."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest:02d}"


def parse_memory(value: str | int) -> int:
    """Bytes in an amount of memory; it must be positive."""
    if isinstance(value, str) and not _AMOUNT.fullmatch(value.strip()):
        raise ValueError("is not an amount of memory")  # Dask would join "4 4GB"
    try:
        amount = int(parse_bytes(value))
    except OverflowError:
        raise ValueError("is not finite") from None
    except (ValueError, TypeError, KeyError):
        raise ValueError("is not an amount of memory") from None
    if amount <= 0:
        raise ValueError("must be more than zero")
    if amount > MOST_MEMORY:
        raise ValueError("is more than any machine has")
    return amount


def slurm_memory(value: str | int) -> str:
    """The value to write after ``--mem=``.

    A whole number with a unit keeps its number (``"54000MB"`` gives ``54000M``), because
    users of SLURM expect that. Other amounts are rounded up to mebibytes.
    """
    match = _SLURM_MEMORY.fullmatch(str(value).strip())
    if match is not None:
        return match["number"] + match["unit"].upper()
    return f"{math.ceil(parse_memory(value) / 2**20)}M"

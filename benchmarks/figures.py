"""Arithmetic of the benchmarks: medians, spreads, ratios; no measuring here.

No figure goes without the number of measurements behind it, so a :class:`Spread`
carries its count and prints it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that ``share`` percent do not exceed; nan without values."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    rank = math.ceil(share / 100 * len(ordered))
    return ordered[max(0, rank - 1)]


@dataclass(frozen=True)
class Spread:
    """Several measurements of one quantity."""

    count: int
    least: float
    median: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """The spread of some values; None if there are none."""
        kept = list(values)
        if not kept:
            return None
        return cls(len(kept), min(kept), statistics.median(kept), max(kept))

    def text(self, digits: int = 3) -> str:
        """For example ``1.32 (1.21-1.40, n=5)``."""
        least, median, most = (
            rounded(value, digits) for value in (self.least, self.median, self.most)
        )
        if self.count == 1:
            return f"{median} (n=1)"
        return f"{median} ({least}-{most}, n={self.count})"


@dataclass(frozen=True)
class Measured:
    """One quantity of a report."""

    what: str
    unit: str
    spread: Spread
    note: str = ""


def measured(what: str, unit: str, values: Iterable[float], note: str = "") -> Measured:
    """The quantity that these values belong to; there must be some."""
    spread = Spread.of(values)
    assert spread is not None
    return Measured(what, unit, spread, note)


def rounded(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, but all that are before the point."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    after = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{after}f}"


def ratios(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Spread | None:
    """How often ``ours`` is ``theirs``; both are {number of the repeat: rate}.

    Only what was measured in the same repeat is compared, one after the other in time,
    so that a machine that slows down for a while slows down both.
    """
    return Spread.of(
        ours[repeat] / theirs[repeat]
        for repeat in sorted(ours.keys() & theirs.keys())
        if theirs[repeat] > 0
    )


def table(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns with two spaces between them; the first is aligned to the left."""
    cells = [[str(cell) for cell in row] for row in (heading, *rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        first, *others = zip(row, widths, strict=True)
        line = [first[0].ljust(first[1]), *(c.rjust(w) for c, w in others)]
        lines.append("  ".join(line).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def markdown_table(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The same for a page of documentation."""
    lines = [list(heading), ["---"] + ["---:"] * (len(heading) - 1)]
    lines += [[str(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

"""Checks whether the installed packages fit: ``--check``."""

from __future__ import annotations

import json
from collections.abc import Sequence

from scheduler_ext.version import __version__

from ..neighbours.check import Neighbour, report


def show(*, as_json: bool) -> int:
    """Print the result; return the exit code."""
    neighbours = report()
    ok = all(each.ok for each in neighbours)
    if as_json:
        found = {"version": __version__, "ok": ok, "packages": as_data(neighbours)}
        print(json.dumps(found, indent=2))
    else:
        print(f"seamless-dask {__version__}\n{as_text(neighbours)}")
    return 0 if ok else 1


def as_text(neighbours: Sequence[Neighbour]) -> str:
    """Return a line for each package, and one for each name that is missing."""
    rows = [
        (
            each.distribution,
            each.version or "not installed",
            each.allowed or "any",
            _count(len(each.names)),
            "ok" if each.ok else "NOT OK",
        )
        for each in neighbours
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row, each in zip(rows, neighbours, strict=True):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
        lines += [f"    {problem}" for problem in each.problems()]
    return "\n".join(lines)


def as_data(neighbours: Sequence[Neighbour]) -> list[dict[str, object]]:
    """Return the same with all names, for JSON."""
    return [
        {
            "package": each.distribution,
            "version": each.version,
            "allowed": each.allowed,
            "ok": each.ok,
            "names": [
                {
                    "name": str(entry),
                    "use": entry.use.value,
                    "reason": entry.reason,
                    "ok": entry not in each.missing,
                }
                for entry in (*each.names, *each.missing)
            ],
        }
        for each in neighbours
    ]


def _count(names: int) -> str:
    return "1 name" if names == 1 else f"{names} names" if names else ""

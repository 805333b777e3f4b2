"""Formats the report "where the time went" for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from scheduler_ext.view.documents import duration
from scheduler_ext.view.durations import REASONS
from scheduler_ext.view.phrases import count, day_and_clock, rough
from scheduler_ext.view.report_page import COLUMNS, WAITS, cells

from .tables import HEADING, table, text

Answer = Mapping[str, Any]

#: Columns of the chart of the slots, and its signs from empty to full
CHART = 60
_SIGNS = " ▁▂▃▄▅▆▇█"


def report(answer: Answer) -> RenderableType:
    """For `scheduler_ext.view.operations.Operations.report`; what matters comes last."""
    names = answer["names"]
    waits = [
        (row["name"], *(duration(row["waits"][reason]) for reason in REASONS))
        for row in names
    ]
    parts: list[RenderableType] = [
        *table(
            "Time spent waiting, all transformations together",
            [COLUMNS[0][0], *(WAITS[reason][0] for reason in REASONS)],
            waits,
            numbers=range(1, len(REASONS) + 1),
        ),
        *table(
            "By name" if names else "No transformation has ended",
            [heading for heading, _ in COLUMNS],
            [cells(row) for row in names],
            numbers=range(1, len(COLUMNS)),
        ),
        text(f"slots in use  {_chart(answer['slots'])}"),
        Text(
            f"{count(answer['total'], 'transformation')} ended from "
            f"{day_and_clock(answer['since'])} to {day_and_clock(answer['time'])}, "
            f"{rough(answer['time'] - answer['since'])}",
            style=HEADING,
        ),
    ]
    return Group(*parts)


def _chart(slots: Answer) -> str:
    """The share of the slots that were in use, from the beginning until now."""
    used, capacity = slots["used"], slots["capacity"]
    columns = min(CHART, len(used))
    if not columns:
        return "not measured"
    signs = []
    for column in range(columns):
        part = slice(column * len(used) // columns, (column + 1) * len(used) // columns)
        most = sum(each or 0 for each in capacity[part])
        share = sum(each or 0 for each in used[part]) / most if most else 0.0
        signs.append(_SIGNS[round(min(1.0, share) * (len(_SIGNS) - 1))])
    available = sum(each or 0 for each in capacity)
    mean = 100 * sum(each or 0 for each in used) / available if available else 0
    most = max((each or 0 for each in capacity), default=0)
    return f"|{''.join(signs)}|  {mean:.0f} % of up to {most:g}"

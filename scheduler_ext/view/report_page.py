"""The report "where the time went" as a page in HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .documents import document, duration, escape
from .durations import REASONS
from .phrases import day_and_clock, rough, size

Answer = Mapping[str, Any]

#: (heading, explanation)
COLUMNS = (
    ("name", "name of the function"),
    ("count", "transformations that have ended"),
    ("computed", "their code ran to its end"),
    ("cached", "their results were found in the database by a worker"),
    ("failed", "their code, an input or Dask failed"),
    ("otherwise", "cancelled, or nobody wanted them any more"),
    ("total", "time that their code ran, their calls included"),
    ("median", "half of them ran no longer"),
    ("p95", "95 % of them ran no longer"),
    ("longest", "the longest run"),
    ("CPU", "CPU time of the Seamless processes"),
    ("memory", "most memory that a Seamless process had"),
)
#: {reason: (heading, explanation)}
WAITS = {
    "inputs": ("inputs", "transformations on which they depend had not ended"),
    "worker": ("workers", "no worker was connected"),
    "slot": ("slots", "no slot was free"),
    "process": ("processes", "their calls had ended, but their process was in use"),
    "around": (
        "around the code",
        "on a worker: inputs were fetched, a process started, the result stored",
    ),
}
_WIDTH, _HEIGHT = 1000, 160


def report(answer: Answer) -> str:
    """What :meth:`.operations.Operations.report` has answered."""
    cluster = answer["cluster"]
    seconds = max(0.0, answer["time"] - answer["since"])
    where = ", ".join(filter(None, (cluster["project"], cluster["cluster"])))
    parts = [
        f"<p>{escape(where)}{'; ' if where else ''}{day_and_clock(answer['since'])} to "
        f"{day_and_clock(answer['time'])}, {escape(rough(seconds))}; "
        f"{answer['total']} transformations ended</p>",
        "<h2>Slots in use</h2>",
        _slots(answer["slots"]),
        "<h2>By name</h2>",
        _table(COLUMNS, [cells(row) for row in answer["names"]]),
        "<h2>Time spent waiting, all transformations together</h2>",
        _table(
            [COLUMNS[0], *(WAITS[reason] for reason in REASONS)],
            [
                [row["name"], *(duration(row["waits"][reason]) for reason in REASONS)]
                for row in answer["names"]
            ],
        ),
        "<p class='note'>Times that the code ran contain the time in which it waited for "
        "its calls. Medians and p95 are exact to 2.5 %. "
        f"{answer['nested_cache_hits']} calls had their results in the database before "
        "they became tasks; results that driver scripts found are not known here.</p>",
    ]
    nav = (
        ("all transformations", "../seamless"),
        ("failures", "failures"),
        ("JSON", "report.json"),
    )
    return document("Where the time went", nav, parts)


def cells(row: Answer) -> list[Any]:
    """The cells of COLUMNS for a name."""
    return [
        row["name"],
        *(row[each] for each in ("count", "computed", "cached", "failed", "otherwise")),
        *(duration(row[each]) for each in ("total", "median", "p95", "longest", "cpu")),
        "-" if row["memory"] is None else size(row["memory"]),
    ]


def _table(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[Any]]) -> str:
    """The first column is a text, the others are numbers."""
    if not rows:
        return "<p>None has ended.</p>"
    kinds = ["", *[' class="number"'] * (len(columns) - 1)]
    head = "".join(
        f'<th{kind} title="{escape(text)}">{escape(heading)}</th>'
        for kind, (heading, text) in zip(kinds, columns, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{kind}>{escape(cell)}</td>"
            for kind, cell in zip(kinds, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _slots(slots: Answer) -> str:
    """A chart, as steps, in SVG."""
    used, capacity = slots["used"], slots["capacity"]
    if not used:
        return "<p>Nothing was measured.</p>"
    most = max((each or 0 for each in (*used, *capacity)), default=0) or 1
    step = _WIDTH / len(used)

    def steps(values: Sequence[float | None]) -> list[str]:
        points, y = [], float(_HEIGHT)
        for place, value in enumerate(values):
            if value is not None:  # otherwise as before: the scheduler was busy
                y = _HEIGHT * (1 - value / most)
            points += [
                f"{place * step:.1f},{y:.1f}",
                f"{(place + 1) * step:.1f},{y:.1f}",
            ]
        return points

    area = " ".join([f"0,{_HEIGHT}", *steps(used), f"{_WIDTH},{_HEIGHT}"])
    seconds = len(used) * slots["interval"]
    available = sum(each or 0 for each in capacity)
    share = 100 * sum(each or 0 for each in used) / available if available else 0
    return (
        f'<svg viewBox="0 -4 {_WIDTH} {_HEIGHT + 8}" width="100%" height="{_HEIGHT}" '
        'preserveAspectRatio="none" role="img" aria-label="Slots in use over time">'
        f'<polygon points="{area}" fill="#56b4e9" opacity="0.7"/>'
        f'<polyline points="{" ".join(steps(capacity))}" fill="none" stroke="#666" '
        'stroke-width="1.5" stroke-dasharray="6 4" vector-effect="non-scaling-stroke"/>'
        "</svg>"
        f"<p class='note'>Blue: slots in use; dashed: slots of all workers, at most "
        f"{most:g}. From left to right {rough(seconds)}, in steps of "
        f"{slots['interval']:g} s. {share:.0f} % of the slots were in use.</p>"
    )

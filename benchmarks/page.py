"""The results as one HTML page with plots, which needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bokeh.layouts import column
from bokeh.models import (
    ColumnDataSource,
    DataRange1d,
    FactorRange,
    HoverTool,
    LayoutDOM,
    Range1d,
)
from bokeh.models.annotations import LabelSet, Whisker
from bokeh.models.widgets import Div
from bokeh.palettes import Category10
from bokeh.plotting import figure, save
from bokeh.resources import INLINE
from figures import Spread
from report import Line
from usage import KINDS

_WIDTH = 1100
#: pixels per bar of a plot with horizontal bars
_BAR = 17
_COLOURS = Category10[10]


def write(
    path: Path,
    lines: Sequence[Line],
    runs: Sequence[Mapping[str, Any]],
    machine: str,
) -> None:
    """Write the page."""
    head = Div(
        text="<h1>Nested throughput</h1><p>Bars are medians, whiskers go from the "
        "least to the most of all repeats (their number is shown when pointing at a "
        f"bar).</p><p>{machine}</p>"
    )
    parts: list[LayoutDOM] = [
        head,
        _spreads(
            "Transformations per second",
            {
                (line.workload, line.backend): line.rate
                for line in lines
                if line.rate is not None
            },
            log=True,
        ),
        _spreads(
            "Rate as a multiple of the jobserver's",
            {
                (line.workload, line.backend): line.to_jobserver
                for line in lines
                if line.to_jobserver is not None
            },
        ),
        _cpu(lines),
        _latencies(runs),
        _spreads(
            "Share of the slots in which a leaf slept",
            {
                (line.workload, line.backend): line.efficiency
                for line in lines
                if line.efficiency is not None
            },
        ),
        _problems(lines),
    ]
    save(column(*parts), filename=path, resources=INLINE, title="Nested throughput")


def _spreads(
    title: str, spreads: Mapping[tuple[str, str], Spread], *, log: bool = False
) -> LayoutDOM:
    if not spreads:
        return Div(text=f"<h3>{title}</h3><p>not measured</p>")
    # Bokeh draws the first factor at the bottom.
    factors = list(spreads)[::-1]
    backends = list(dict.fromkeys(backend for _, backend in spreads))
    source = ColumnDataSource(
        {
            "at": factors,
            "median": [spreads[factor].median for factor in factors],
            "least": [spreads[factor].least for factor in factors],
            "most": [spreads[factor].most for factor in factors],
            "text": [spreads[factor].text() for factor in factors],
            "colour": [_COLOURS[backends.index(backend)] for _, backend in factors],
        }
    )
    lowest = min(spread.least for spread in spreads.values())
    left = lowest / 2 if log and lowest > 0 else 0.0
    # with room for the text at the end of the longest bar
    most = max(spread.most for spread in spreads.values()) * (6 if log else 1.3)
    plot = figure(
        y_range=FactorRange(factors=factors),
        x_range=Range1d(start=left, end=most),
        x_axis_type="log" if log else "linear",
        title=title,
        width=_WIDTH,
        height=120 + _BAR * len(factors) + 12 * len({name for name, _ in factors}),
        tools="save",
    )
    plot.hbar(
        y="at", left=left, right="median", height=0.8, color="colour", source=source
    )
    plot.add_layout(
        Whisker(
            base="at", lower="least", upper="most", dimension="width", source=source
        )
    )
    plot.add_tools(HoverTool(tooltips=[("", "@at: @text")]))
    plot.add_layout(
        LabelSet(
            x="most", y="at", text="text", source=source, x_offset=8, y_offset=-7,
            text_font_size="9px",
        )
    )  # fmt: skip
    _upright(plot)
    return plot


def _cpu(lines: Sequence[Line]) -> LayoutDOM:
    measured = [line for line in lines if line.cpu]
    if not measured:
        return Div()
    factors = [(line.workload, line.backend) for line in measured][::-1]
    kinds = [kind for kind in KINDS if any(kind in line.cpu for line in measured)]
    data: dict[str, Any] = {"at": factors}
    for kind in kinds:
        data[kind] = [
            line.cpu[kind].median if kind in line.cpu else 0.0
            for line in reversed(measured)
        ]
    plot = figure(
        y_range=FactorRange(factors=factors),
        x_range=DataRange1d(start=0),
        title="CPU milliseconds per transformation, by kind of process",
        width=_WIDTH,
        height=160 + _BAR * len(factors) + 12 * len({name for name, _ in factors}),
        tools="save",
    )
    plot.hbar_stack(
        kinds,
        y="at",
        height=0.8,
        color=_COLOURS[: len(kinds)],
        source=ColumnDataSource(data),
        legend_label=kinds,
    )
    plot.add_tools(HoverTool(tooltips=[("", "@at"), ("$name", "@$name{0.00} ms")]))
    plot.add_layout(plot.legend[0], "right")
    _upright(plot)
    return plot


def _latencies(runs: Sequence[Mapping[str, Any]]) -> LayoutDOM:
    """For each backend the share of single calls that ended within a time."""
    calls: dict[str, list[float]] = {}
    for run in runs:
        if run["problem"] is None and run["latencies"]:
            some = calls.setdefault(run["backend"], [])
            some += [1000 * seconds for seconds in run["latencies"]]
    if not calls:
        return Div()
    plot = figure(
        title="One call at a time: share of calls that took no longer",
        x_axis_type="log",
        x_axis_label="milliseconds",
        y_axis_label="% of calls",
        width=_WIDTH,
        height=350,
        tools="save",
    )
    for number, (backend, values) in enumerate(calls.items()):
        plot.step(
            sorted(values),
            [100 * (rank + 1) / len(values) for rank in range(len(values))],
            mode="after",
            color=_COLOURS[number],
            line_width=2,
            legend_label=f"{backend} (n={len(values)})",
        )
    plot.legend.location = "bottom_right"
    return plot


def _problems(lines: Sequence[Line]) -> LayoutDOM:
    items = "".join(
        f"<li>{line.workload}, {line.backend}: {line.problem}</li>"
        for line in lines
        if line.problem
    )
    return Div(text=f"<h3>Did not work</h3><ul>{items}</ul>" if items else "")


def _upright(plot: Any) -> None:
    """Names of workloads would be turned by 90 degrees."""
    plot.yaxis.group_label_orientation = "horizontal"
    plot.ygrid.grid_line_color = None

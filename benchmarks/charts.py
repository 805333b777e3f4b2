"""Line charts as SVG text, side by side in one picture; small enough to commit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

#: distinguishable without colour vision (Okabe and Ito), each with a marker of its own
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MARKERS = ("circle", "square", "diamond", "triangle", "cross", "ring")

_WIDTH = 330
_LEFT, _RIGHT, _TOP = 52, 12, 34
_PLOT_HEIGHT = 170
#: pixels from the plot to the legend, and per line of it
_LEGEND, _LINE = 46, 14

Point = tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """One plot: ``lines`` is {label: points}; an axis is linear or logarithmic."""

    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, Sequence[Point]]
    log_x: bool = False
    log_y: bool = False


def svg(charts: Sequence[Chart]) -> str:
    """All charts in one row."""
    width = _WIDTH * len(charts)
    lines = max(len(chart.lines) for chart in charts)
    height = _TOP + _PLOT_HEIGHT + _LEGEND + _LINE * lines
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="10">'
    )
    # A page may be dark: the picture brings its own background.
    parts = [head, f'<rect width="{width}" height="{height}" fill="white"/>']
    for number, chart in enumerate(charts):
        parts.append(f'<g transform="translate({number * _WIDTH} 0)">')
        parts += _chart(chart)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"]) + "\n"


@dataclass(frozen=True)
class _Axis:
    """Where the values of one direction go: ``start`` to ``end`` are pixels."""

    ticks: tuple[float, ...]
    start: float
    end: float
    log: bool

    def at(self, value: float) -> float:
        low, high = self._scaled(self.ticks[0]), self._scaled(self.ticks[-1])
        share = (self._scaled(value) - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 1)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value

    @classmethod
    def around(
        cls, values: Iterable[float], start: float, end: float, log: bool
    ) -> _Axis:
        kept = [value for value in values if value > 0 or not log]
        ticks = _log_ticks(kept) if log else _linear_ticks(kept)
        return cls(tuple(ticks), start, end, log)


def _log_ticks(values: Sequence[float]) -> list[float]:
    low = math.floor(math.log10(min(values)))
    high = max(low + 1, math.ceil(math.log10(max(values))))
    return [10.0**power for power in range(low, high + 1)]


def _linear_ticks(values: Sequence[float]) -> list[float]:
    """From zero, in steps that are easy to read."""
    most = max(max(values), 1e-9)
    rough = most / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(n * power for n in (1, 2, 2.5, 5, 10) if n * power >= rough)
    return [step * n for n in range(math.ceil(most / step - 1e-9) + 1)]


def _chart(chart: Chart) -> list[str]:
    points = [point for line in chart.lines.values() for point in line]
    bottom = _TOP + _PLOT_HEIGHT
    x = _Axis.around((p[0] for p in points), _LEFT, _WIDTH - _RIGHT, chart.log_x)
    y = _Axis.around((p[1] for p in points), bottom, _TOP, chart.log_y)
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts = [
        f'<text x="{_WIDTH / 2}" y="16" text-anchor="middle" font-size="12" '
        f'font-weight="bold">{escape(chart.title)}</text>',
        f'<text x="{middle}" y="{bottom + 28}" text-anchor="middle">'
        f"{escape(chart.x_label)}</text>",
        f'<text transform="translate(12 {_TOP + _PLOT_HEIGHT / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(chart.y_label)}</text>',
    ]
    for tick in x.ticks:
        at = x.at(tick)
        parts.append(f'<path d="M{at} {bottom}v4" stroke="#555"/>')
        parts.append(
            f'<text x="{at}" y="{bottom + 14}" text-anchor="middle">{tick:,g}</text>'
        )
    for tick in y.ticks:
        at = y.at(tick)
        parts.append(f'<path d="M{_LEFT} {at}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{_LEFT - 4}" y="{at + 3}" text-anchor="end">{tick:,g}</text>'
        )
    for number, (label, line) in enumerate(chart.lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        marker = _MARKERS[number % len(_MARKERS)]
        places = [(x.at(a), y.at(b)) for a, b in line]
        path = " ".join(f"{a},{b}" for a, b in places)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" '
            'stroke-width="1.5"/>'
        )
        parts += [_marker(marker, a, b, colour) for a, b in places]
        legend = bottom + _LEGEND + number * _LINE
        parts.append(_marker(marker, _LEFT + 6, legend - 3, colour))
        parts.append(f'<text x="{_LEFT + 16}" y="{legend}">{escape(label)}</text>')
    return parts


def _marker(name: str, x: float, y: float, colour: str) -> str:
    if name in ("circle", "ring"):
        fill = colour if name == "circle" else "white"
        return f'<circle cx="{x}" cy="{y}" r="3" fill="{fill}" stroke="{colour}"/>'
    path = {
        "square": "m-3-3h6v6h-6z",
        "diamond": "m0-4l4 4l-4 4l-4-4z",
        "triangle": "m0-4l4 7h-8z",
        "cross": "m-3-3l6 6m0-6l-6 6",
    }[name]
    return f'<path d="M{x} {y}{path}" fill="{colour}" stroke="{colour}"/>'

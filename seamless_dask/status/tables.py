"""Tables that fit into any terminal, for :mod:`seamless_dask.status.view`."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

HEADING = "bold"
#: Least width of the columns that may be broken into lines, and their headings
SENTENCE = 24
_SENTENCES = ("reason", "what it does")


def table(
    title: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[Any]],
    numbers: Iterable[int] = (),
) -> list[RenderableType]:
    """A title and, if there are rows, a table; columns in ``numbers`` are right-aligned."""
    if not rows:
        return [Text(title, style="dim")]
    texts = [[text(value) for value in row] for row in rows]
    body = _Rows(headings, texts, set(numbers))
    return [Text(title, style=HEADING), Padding(body, (0, 0, 1, 2))]


@dataclass(frozen=True)
class _Rows:
    """A table or, if the terminal is too narrow for it, a sentence for each row."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Text]]
    numbers: Collection[int]

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for position, heading in enumerate(self.headings):
            widest = max(len(heading), *(row[position].cell_len for row in self.rows))
            table.add_column(
                heading,
                justify="right" if position in self.numbers else "left",
                min_width=SENTENCE if heading in _SENTENCES else widest,
            )
        for row in self.rows:
            table.add_row(*row)
        unlimited = options.update(max_width=sys.maxsize)
        needed = Measurement.get(console, unlimited, table).minimum
        if needed <= options.max_width:
            yield table
            return
        for row in self.rows:
            line = Text()
            for heading, value in zip(self.headings, row, strict=True):
                line.append(f", {heading} " if line else "").append_text(value)
            yield line


def text(value: Any) -> Text:
    """Return a value as plain text, without markup or control characters."""
    if isinstance(value, Text):
        return value
    return Text("-" if value is None else str(value))

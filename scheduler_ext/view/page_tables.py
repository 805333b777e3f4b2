"""The tables of the operators' page, as HTML in the Divs of Bokeh."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from bokeh.models.widgets import Div

from . import figures
from .figures import Row

#: Name in the menu, and path
PAGE = "seamless"
STYLE = """
.bk-clearfix { display: block !important; width: 100%; }
.facts { display: flex; flex-wrap: wrap; gap: 2px 22px; font: 12px sans-serif; }
.fact { white-space: nowrap; cursor: help; color: #111; }
.fact span { color: #555; margin-right: 5px; }
.links { margin-left: auto; }
.standing { font: 600 14px sans-serif; color: #222; margin: 8px 0 0; }
.cards { display: grid; gap: 8px; font-family: sans-serif;
  grid-template-columns: repeat(4, 1fr); margin-top: 4px; }
.card { border: 1px solid #ddd; border-left: 4px solid #0072b2; border-radius: 3px;
  padding: 5px 10px 6px 10px; min-height: 68px; cursor: help; }
.card.alarming { border-left-color: #c0392b; }
.title { color: #555; font-size: 12px; }
.value { color: #111; font-size: 16px; font-weight: 600; }
.note { color: #555; font-size: 12px; overflow-wrap: anywhere; }
.alarming .note { color: #c0392b; }
.heading { color: #222; font: 600 14px sans-serif; margin: 10px 0 4px; }
table { border-collapse: collapse; table-layout: fixed; width: 100%;
  font: 12px sans-serif; color: #222; }
th { text-align: left; font-weight: 600; color: #555; border-bottom: 1px solid #bbb;
  vertical-align: bottom; }
th[title] { cursor: help; }
th, td { padding: 3px 8px 3px 0; overflow: hidden; text-overflow: ellipsis; }
td { border-bottom: 1px solid #eee; white-space: nowrap; height: 1.25em; }
td.sentence { white-space: normal; overflow-wrap: anywhere; }
th.number, td.number { text-align: right; }
a { color: #0072b2; text-decoration: none; }
a:hover { text-decoration: underline; }
.group { font: 13px sans-serif; margin: 3px 0; color: #222; }
.group button { font: inherit; font-weight: 600; color: #0072b2; background: none;
  border: none; padding: 2px 0; cursor: pointer; text-align: left; }
.group .why { color: #555; }
.opened { margin: 0 0 8px 16px; }
.alarm { color: #fff; background: #c0392b; font: 600 13px sans-serif;
  padding: 6px 12px; border-radius: 3px; margin-top: 4px; overflow-wrap: anywhere; }
@media (min-width: 1600px) {
  .cards { grid-template-columns: repeat(8, 1fr); }
}
@media (max-width: 1000px) {
  th, td { white-space: normal; overflow-wrap: anywhere; padding-right: 5px; }
}
"""
#: Toggles a group: the tags of the model are the states of the groups that are open
_TOGGLE = (
    "const m = Bokeh.documents[0].get_model_by_name('waiting');"
    "m.tags = m.tags.includes('{0}') ? m.tags.filter(t => t !== '{0}')"
    " : [...m.tags, '{0}']"
)


class Places:
    """Keeps each row of a table where it is, as long as it is there.

    New rows take the places of those that are gone. Once half of the places are empty the
    rows move together.
    """

    def __init__(self) -> None:
        self._keys: list[Any] = []

    def put(self, rows: Sequence[Row]) -> list[Row | None]:
        """The rows by place; None: an empty place."""
        by_key = {row.get("key", number): row for number, row in enumerate(rows)}
        places = [key if key in by_key else None for key in self._keys]
        known = set(places)
        new = iter([key for key in by_key if key not in known])
        places = [next(new, None) if key is None else key for key in places]
        places += new
        if len(by_key) * 2 <= len(places):
            places = [key for key in places if key is not None]
        self._keys = places
        return [None if key is None else by_key[key] for key in places]


class Table:
    """A table under its heading; without rows the heading says so.

    ``widths`` are the widths of the columns in percent; ``numbers`` are the fields that
    are aligned to the right.
    """

    def __init__(
        self,
        name: str,
        fields: Mapping[str, str],
        widths: Sequence[int],
        numbers: Sequence[str] = (),
    ) -> None:
        self._rows = Rows(fields, widths, numbers)
        self._places = Places()
        self.root = Div(name=name, sizing_mode="stretch_width", stylesheets=[STYLE])

    def update(self, heading: str, rows: Sequence[Row]) -> None:
        """Show these rows; those with a key keep their places."""
        text = f'<div class="heading">{html.escape(heading)}</div>'
        set_if_new(self.root, "text", text + self._rows.html(self._places.put(rows)))


class Rows:
    """Writes a table without its heading."""

    def __init__(
        self,
        fields: Mapping[str, str],
        widths: Sequence[int],
        numbers: Sequence[str] = (),
    ) -> None:
        self._classes = {
            field: ' class="number"'
            if field in numbers
            else (' class="sentence"' if field in ("reason", "line") else "")
            for field in fields
        }
        columns = "".join(
            f'<col style="width: {width}%">'
            for _, width in zip(fields, widths, strict=True)
        )
        headings = "".join(
            f"<th{self._classes[field]}{title(figures.HELP.get(heading))}>"
            f"{html.escape(heading)}</th>"
            for field, heading in fields.items()
        )
        self._head = f"<colgroup>{columns}</colgroup><tr>{headings}</tr>"
        self._empty = f"<tr>{'<td></td>' * len(fields)}</tr>"

    def html(self, rows: Sequence[Row | None]) -> str:
        """The table; empty without rows."""
        if not rows:
            return ""
        lines = "".join(
            self._empty if row is None else f"<tr>{self._cells(row)}</tr>"
            for row in rows
        )
        return f"<table>{self._head}{lines}</table>"

    def _cells(self, row: Row) -> str:
        cells = []
        for field, style in self._classes.items():
            text = html.escape(str(row[field]))
            shown = text
            if field == "name" and row.get("checksum"):
                shown = f'<a href="{PAGE}/why/{row["checksum"]}">{text}</a>'
            cells.append(f'<td{style} title="{text}">{shown}</td>')
        return "".join(cells)


class Groups:
    """The transformations that wait, one line for each thing that they wait for.

    A click on a line shows the transformations; what is open belongs to one browser.
    """

    def __init__(self) -> None:
        fields = figures.GROUP_FIELDS
        self._rows = Rows(fields, (46, 10, 44))
        # a reason that all of a group have is in its line
        self._short = Rows({name: fields[name] for name in ("name", "age")}, (80, 20))
        self._shown: tuple[str, list[figures.GroupRows]] = ("", [])
        self.root = Div(
            name="waiting", tags=[], sizing_mode="stretch_width", stylesheets=[STYLE]
        )
        self.root.on_change("tags", self._toggled)

    def update(self, heading: str, groups: list[figures.GroupRows]) -> None:
        """Show these groups."""
        self._shown = heading, groups
        self._show()

    def _toggled(self, attr: str, old: Any, new: Any) -> None:
        self._show()

    def _show(self) -> None:
        heading, groups = self._shown
        parts = [f'<div class="heading">{html.escape(heading)}</div>']
        for group in groups:
            opened = group.state in self.root.tags
            reason = f"; {group.reason}" if group.reason else ""
            parts.append(
                f'<div class="group"><button onclick="{_TOGGLE.format(group.state)}" '
                f'aria-expanded="{str(opened).lower()}">{"▾" if opened else "▸"} '
                f"{html.escape(group.title)}</button> {html.escape(group.names)}"
                f'<span class="why">{html.escape(reason)}</span></div>'
            )
            if opened:
                table = self._short if group.reason else self._rows
                rows = table.html(group.rows) or "They came later than many others."
                parts.append(f'<div class="opened">{rows}</div>')
        set_if_new(self.root, "text", "".join(parts))


def title(text: str | None) -> str:
    """The attribute with an explanation, which is shown when the mouse is over it."""
    return f' title="{html.escape(text)}"' if text else ""


def set_if_new(model: Any, name: str, value: Any) -> None:
    """Assign a value only if it has changed, so that unchanged values are not sent."""
    if getattr(model, name) != value:
        setattr(model, name, value)

"""Pages in plain HTML, which need no network: one transformation, the failures.

Functions of the answers that go over the wire; they know nothing of the scheduler.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from .labels import joined, named, with_digits
from .phrases import listed, moment, rough

Answer = Mapping[str, Any]

_STYLE = """
body { font: 14px sans-serif; color: #222; margin: 16px auto; max-width: 1100px;
  padding: 0 14px; }
h1 { font-size: 20px; overflow-wrap: anywhere; }
h2 { font-size: 15px; margin: 22px 0 6px; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
.wide { overflow-x: auto; }
th { text-align: left; color: #555; border-bottom: 1px solid #bbb; }
th[title] { cursor: help; }
th, td { padding: 3px 10px 3px 0; vertical-align: top; overflow-wrap: break-word; }
th { white-space: nowrap; }
td { border-bottom: 1px solid #eee; }
td.number, th.number { text-align: right; white-space: nowrap; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 14px; }
dt { color: #555; }
dd { margin: 0; overflow-wrap: anywhere; }
pre { background: #f6f6f6; border-left: 4px solid #c0392b; padding: 8px 10px;
  overflow-x: auto; font-size: 12px; white-space: pre-wrap; overflow-wrap: anywhere; }
a { color: #0072b2; text-decoration: none; }
a:hover { text-decoration: underline; }
nav { font-size: 13px; color: #555; }
.state { font-weight: 600; }
.note { color: #555; font-size: 13px; }
@media (max-width: 900px) {
  table { font-size: 12px; }
  th, td { padding-right: 5px; }
}
"""


def document(title: str, nav: Sequence[tuple[str, str]], parts: Iterable[str]) -> str:
    """A whole page; ``nav`` are texts and relative addresses of links above it."""
    links = " · ".join(f'<a href="{escape(to)}">{escape(text)}</a>' for text, to in nav)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        f"<nav>{links}</nav><h1>{escape(title)}</h1>{''.join(parts)}</body></html>\n"
    )


def escape(value: Any) -> str:
    """Text for HTML, also inside quotation marks."""
    return html.escape(str(value))


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the cells are HTML."""
    head = "".join(f"<th>{escape(each)}</th>" for each in headings)
    body = "".join(
        f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


# -- one transformation ------------------------------------------------------------


def why(answer: Answer, asked: str) -> str:
    """What :meth:`.operations.Operations.why` has answered about ``asked``."""
    title = " ".join(filter(None, (answer["label"], answer["checksum"]))) or asked
    state = escape(f"{answer['state']}: {answer['reason']}")
    parts = [f'<p class="state">{state}</p>']
    if answer["matches"] is not None:
        parts += _matches(answer["matches"])
    ended = answer["ended"]
    if ended is not None and answer["state"] != "ended":
        before = f"before: {ended['ending']}, {moment(ended['seconds_ago'])}"
        parts.append(f"<p>{escape(before)}</p>")
    for task in answer["tasks"]:
        parts.append(_task(task))
        if task["chain"]:
            parts.append("<h2>What it waits for, each of them for the next</h2>")
            parts.append(_rows(task["chain"]))
    if answer["failure"] is not None:
        parts += _failure(answer["failure"], "")
    nav = (("all transformations", "../../seamless"), ("JSON", f"{quote(asked)}.json"))
    return document(title, nav, parts)


def unclear(asked: str, problems: Iterable[str]) -> str:
    """The question was not understood, or fits several."""
    items = "".join(f"<li>{escape(each)}</li>" for each in problems)
    nav = (("all transformations", "../../seamless"),)
    return document(asked, nav, [f"<ul>{items}</ul>"])


def _matches(matches: Answer) -> list[str]:
    if not matches["rows"]:
        return []
    shown, total = len(matches["rows"]), matches["total"]
    more = f"<p class='note'>{total}, of which {shown} are shown</p>"
    return [more if shown < total else "", _rows(matches["rows"])]


def _rows(rows: Iterable[Answer]) -> str:
    headings = ("transformation", "asked for, or ended", "worker", "state", "reason")
    return table(
        headings,
        (
            (
                _link(named(row), row["checksum"]),
                escape(moment(row["age_seconds"])),
                escape(row["worker_name"] or row["worker"] or ""),
                escape(row["state"]),
                escape(row["reason"]),
            )
            for row in rows
        ),
    )


def _link(text: str, checksum: str | None, folder: str = "") -> str:
    if checksum is None:
        return escape(text)
    return f'<a href="{folder}{quote(checksum)}">{escape(text)}</a>'


def _task(task: Answer) -> str:
    worker = ""
    if task["worker"] is not None:
        worker = f"{task['worker_name']} at {task['worker']}"
        if task["worker_seconds"] is not None:
            worker += f", assigned {moment(task['worker_seconds'])}"
    slot = task["slot"]
    place = ""
    if slot is not None:
        place = (
            f"place {slot['position']} of {slot['waiting']} that wait; "
            f"{slot['slots_in_use']} of {slot['capacity']} slots are in use"
        )
        if slot["held_by"]:
            place += f", by {listed(slot['held_by'])}"
    lines = {
        "asked for": moment(task["age_seconds"]),
        "worker": worker,
        "slot": place,
        "called by": listed(task["called_by"]["names"], task["called_by"]["total"]),
        "waits for": listed(task["waits_for"]["names"], task["waits_for"]["total"]),
        "Dask clients": task["clients"],
        "Dask task": task["key"] or "(no key)",
    }
    items = "".join(
        f"<dt>{name}</dt><dd>{escape(line)}</dd>"
        for name, line in lines.items()
        if line
    )
    return f"<dl>{items}</dl>"


# -- failures ----------------------------------------------------------------------


def failures(answer: Answer) -> str:
    """What :meth:`.failures.Failures.answer` has answered, the latest first."""
    total, shown = answer["total"], len(answer["failures"])
    numbers = listed(f"{number} {name}" for name, number in answer["by_name"].items())
    text = f"{total or 'None'} so far" + (f": {numbers}" if numbers else "")
    if shown < total:
        text += f"; the latest {shown} are shown"
    parts = [f"<p>{escape(text)}</p>"]
    for each in answer["failures"]:
        parts += _failure(each, "why/")
    nav = (("all transformations", "../seamless"), ("JSON", "failures.json"))
    return document("Failed transformations", nav, parts)


def _failure(failure: Answer, folder: str) -> list[str]:
    label = joined(failure["name"], failure["callers"])
    name = with_digits(label, failure["key"], failure["checksum"])
    clock = datetime.fromtimestamp(failure["time"]).strftime("%Y-%m-%d %H:%M:%S")
    where = f" on {failure['worker']}" if failure["worker"] else ""
    because = f" (because {failure['cause']} failed)" if failure["cause"] else ""
    return [
        f"<h2>{_link(name, failure['checksum'], folder)} failed{escape(where)} at "
        f"{clock}{escape(because)}</h2>",
        f"<pre>{escape(failure['text'].rstrip() or '(no text)')}</pre>",
    ]


def duration(seconds: float | None) -> str:
    """For tables; a dash if it is not known."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms" if seconds >= 0.0005 else "0 s"
    return f"{seconds:.1f} s" if seconds < 10 else rough(seconds)

"""Formats the answers of a scheduler for people, for :mod:`seamless_dask.status`.

For the answers see `scheduler_ext.view.explain`, `scheduler_ext.scaling` and
`scheduler_ext.view.workers`; this module knows nothing of connections.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from scheduler_ext.view.labels import joined, named, with_digits
from scheduler_ext.view.phrases import (
    count,
    listed,
    more_announced,
    reasons,
    rough,
    sentence,
    size,
    span,
)
from scheduler_ext.view.workers import PAUSED

from .tables import HEADING, table, text

#: Rows of each table; totals are exact
ROWS = 15
DECISIONS = 5
FAILURES = 10

_ALARM = "bold red"
_STATES = {"paused": _ALARM, "leaving": "yellow", "running": "green"}

Answer = Mapping[str, Any]


def status(
    address: str, answer: Answer, *, summary_first: bool = False
) -> RenderableType:
    """The whole cluster: tables, then the summary, which so stays on the screen."""
    summary: list[RenderableType] = [_head(address, answer), _summary(answer)]
    problems = _problems(answer)
    if problems:
        summary += [Text(f"! {problem}", style=_ALARM) for problem in problems]
        summary.append(Text())
    transformations = answer["transformations"]
    parts: list[RenderableType] = [
        *_workers(answer["workers"]),
        *_waiting(transformations),
        *_with_workers(transformations),
        *_failures(transformations["failures"]),
        *_decisions(answer["scaling"]["decisions"]),
    ]
    return Group(*(summary + parts if summary_first else parts + summary))


def why(answer: Answer) -> RenderableType:
    """One transformation and what it waits for, or all of one name."""
    title = " ".join(filter(None, (answer["label"], answer["checksum"])))
    parts: list[RenderableType] = [
        *([Text(title, style=HEADING)] if title else []),
        text(f"{answer['state']}: {answer['reason']}"),
    ]
    if answer["matches"] is not None:
        if not answer["found"]:
            return Group(*parts)
        return Group(*parts, Text(), *_matches(answer["matches"]))
    ended = answer["ended"]
    if ended is not None and answer["state"] != "ended":
        parts.append(
            text(f"before: {ended['ending']}, {span(ended['seconds_ago'])} ago")
        )
    for task in answer["tasks"]:
        parts += [Text(), _task(task)]
        chain = task["chain"]
        if chain:
            rows = [
                (str(number), named(row), _where(row), row["state"], row["reason"])
                for number, row in enumerate(chain, 1)
            ]
            parts.append(Text())
            parts += table(
                "What it waits for, each of them for the next:",
                ("", "transformation", "worker", "state", "reason"),
                rows,
            )
    if answer["failure"] is not None:
        parts += [Text(), *_error(answer["failure"])]
    return Group(*parts)


def failures(answer: Answer) -> RenderableType:
    """The last failures with their errors, the oldest first, and the numbers by name."""
    parts: list[RenderableType] = []
    for failure in reversed(answer["failures"]):
        parts += [*_error(failure), Text()]
    total, shown = answer["total"], len(answer["failures"])
    title = (
        f"{count(total, 'transformation')} failed" if total else "none failed so far"
    )
    if shown < total:
        title += f", the latest {shown} are shown"
    names = listed(f"{number} {name}" for name, number in answer["by_name"].items())
    parts.append(Text(f"{title}: {names}" if names else title, style=HEADING))
    return Group(*parts)


# -- the cluster -------------------------------------------------------------------


def _head(address: str, answer: Answer) -> Text:
    clock = datetime.now().strftime("%H:%M:%S")
    return Text.assemble(
        (address, HEADING), f"  at {clock}, Seamless plugin {answer['version']}"
    )


def _summary(answer: Answer) -> RenderableType:
    permissions, activity = answer["permissions"], answer["activity"]
    scaling, transformations = answer["scaling"], answer["transformations"]
    workers = answer["workers"]
    again, resumes = transformations["begun_again_total"], transformations["resumes"]
    lines = {
        "cluster": _cluster(answer["cluster"]),
        "workers": sentence(
            count(len(workers), "worker") if workers else "none",
            *(f"{n} {state}" for state, n in _conditions(workers).items()),
            f"{scaling['wanted']} wanted" if scaling["wanted"] is not None else "",
        ),
        "slots": sentence(
            f"{permissions['slots_in_use']} of {permissions['capacity']} in use",
            f"{permissions['lent']} lent by those that wait for calls",
        ),
        "nested calls": _calls(answer),
        "transformations": sentence(
            f"{transformations['waiting_total']} wait",
            more_announced(answer["announced"]),
            f"{transformations['with_workers_total']} with a worker",
            *_numbers(transformations["endings_total"]),
            f"code began again {count(again, 'time')}" if again else "",
        ),
        "Dask tasks": sentence(
            *_numbers(
                {
                    name: activity[name]
                    for name in ("processing", "waiting", "queued", "no_worker")
                }
            )
            or ["none unfinished"],
            f"{activity['finished_total']} finished",
            f"{activity['erred_total']} erred",
            f"idle for {span(activity['idle_seconds'])}"
            if activity["idle_seconds"]
            else "",
        ),
    }
    if resumes["waited"]:
        lines["resumed"] = (
            f"{count(resumes['waited'], 'transformation')} waited for "
            f"{'its' if resumes['waited'] == 1 else 'their'} process after the calls, "
            f"{span(resumes['seconds'])} together"
        )
    jobs = _numbers(scaling["jobs"])
    if jobs:
        lines["batch jobs"] = listed(jobs) + reasons(scaling["pending_reasons"])
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style=HEADING, no_wrap=True)
    grid.add_column()
    for name, line in lines.items():
        if line:
            grid.add_row(name, text(line))
    return Padding(grid, (0, 0, 1, 0))


def _cluster(cluster: Answer) -> str:
    """What is known of the cluster as a whole; may be empty."""
    ends, left = cluster["ends_in"], cluster["walltime_in"]
    return sentence(
        cluster["project"],
        cluster["cluster"],
        cluster["kind"].rpartition("::")[2],
        f"ends in {rough(ends)} unless there is work" if ends is not None else "",
        f"the oldest job ends in {rough(left)}" if left is not None else "",
    )


def _calls(answer: Answer) -> str:
    permissions, waiting = answer["permissions"], answer["waiting"]
    number = permissions["waiting"]
    reason = f": {waiting[0]['reason']}" if waiting else ""
    refused = permissions["refused_total"]
    fallbacks = permissions["fallbacks_total"]
    return sentence(
        f"{number} {'waits' if number == 1 else 'wait'} for a slot{reason}",
        f"{permissions['granted_total']} granted",
        f"{sum(refused.values())} refused"
        + (f" ({listed(_numbers(refused))})" if any(refused.values()) else "")
        + (f", {fallbacks} ran in driver scripts" if fallbacks else ""),
    )


def _problems(answer: Answer) -> list[str]:
    scaling = answer["scaling"]
    problems = []
    paused = _conditions(answer["workers"]).get("paused", 0)
    if paused:
        verb = "is" if paused == 1 else "are"
        problems.append(f"{count(paused, 'worker')} {verb} paused: {PAUSED}")
    if answer["stall"] is not None:
        problems.append(answer["stall"]["message"])
    error = scaling["submission_error"]
    if error is not None:
        retry = error["retry_at"]
        again = "" if retry is None else f", the next try is at {_clock(retry)}"
        problems.append(
            f"{count(error['failures'], 'submission')} in a row failed, the last at "
            f"{_clock(error['time'])}{again}: {error['message']}"
        )
    for node, exclusion in scaling["excluded_nodes"].items():
        problems.append(
            f"node {node} gets no jobs until {_clock(exclusion['until'])}: "
            f"{exclusion['reason']}"
        )
    return problems


def _workers(rows: Sequence[Answer]) -> list[RenderableType]:
    # workers with problems first; otherwise in the order of their arrival
    urgent = sorted(rows, key=lambda row: row["status"] == "running")
    headings = ["worker", "status", "processes", "slots", "top-level", "nested"]
    headings += ["calling", "storing", "load", "CPU", "memory"]
    return table(
        _title("Workers", "no worker is connected", len(rows), "first"),
        headings,
        [
            (
                row["name"] or row["address"],
                Text(row["status"], style=_STATES.get(row["status"], "")),
                row["processes_now"] or row["processes"],
                row["capacity"] or row["threads"],
                *(row[name] for name in ("top_level", "nested", "waiting", "storing")),
                _load(row),
                f"{row['cpu']:.0f} %",
                size(row["memory"])
                + (f" of {size(row['memory_limit'])}" if row["memory_limit"] else ""),
            )
            for row in urgent[:ROWS]
        ],
        numbers=range(headings.index("processes"), headings.index("memory")),
    )


def _load(row: Answer) -> str:
    slots = max(1, row["capacity"] or row["threads"])
    return f"{100 * row['executing'] / slots:.0f} %"


def _waiting(transformations: Answer) -> list[RenderableType]:
    rows = transformations["waiting"][:ROWS]
    return table(
        _title(
            "Transformations that wait",
            "no transformation waits",
            transformations["waiting_total"],
            "oldest",
        ),
        ("transformation", "asked for", "waits for", "reason"),
        [
            (named(row), _ago(row["age_seconds"]), row["state"], row["reason"])
            for row in rows
        ],
    )


def _with_workers(transformations: Answer) -> list[RenderableType]:
    rows = transformations["with_workers"][:ROWS]
    return table(
        _title(
            "Transformations with a worker",
            "no worker has a transformation",
            transformations["with_workers_total"],
            "oldest",
        ),
        ("transformation", "asked for", "worker", "state", "what it does"),
        [_cells(row) for row in rows],
    )


def _cells(row: Answer) -> tuple[str, ...]:
    """A transformation that has a worker, or had one."""
    age, worker = _ago(row["age_seconds"]), _where(row)
    return named(row), age, worker, row["state"], row["reason"]


def _failures(failures: Answer) -> list[RenderableType]:
    rows = failures["latest"][:FAILURES]
    return table(
        _title(
            "Failed transformations",
            "none so far",
            failures["total"],
            "latest",
            FAILURES,
        ),
        ("transformation", "time", "worker", "reason"),
        [
            (
                _failed(row),
                _ago(time.time() - row["time"]),
                row["worker"],
                row["line"] + _because(row),
            )
            for row in rows
        ],
    )


def _decisions(decisions: Sequence[Answer]) -> list[RenderableType]:
    return table(
        _title(
            "Scaling decisions",
            "the number of workers was not changed",
            len(decisions),
            "latest",
            DECISIONS,
        ),
        ("time", "workers", "reason"),
        [
            (
                f"{_clock(decision['time'])} ({_ago(time.time() - decision['time'])})",
                f"{decision['from']} -> {decision['to']}",
                decision["reason"],
            )
            for decision in reversed(decisions[-DECISIONS:])
        ],
    )


# -- one transformation ------------------------------------------------------------


def _task(task: Answer) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style=HEADING, no_wrap=True)
    grid.add_column(overflow="fold")
    slot = task["slot"]
    lines = {
        "task": task["key"] or "(no key)",
        "state": f"{task['state']}: {task['reason']}",
        "asked for": _ago(task["age_seconds"]),
        "worker": ""
        if task["worker"] is None
        else f"{_where(task)} at {task['worker']}"
        + (
            f", since {span(task['worker_seconds'])}"
            if task["worker_seconds"] is not None
            else ""
        ),
        "wanted by": count(task["clients"], "client"),
        "called by": listed(task["called_by"]["names"], task["called_by"]["total"]),
        "waits for": listed(task["waits_for"]["names"], task["waits_for"]["total"]),
        "slot": ""
        if slot is None
        else f"place {slot['position']} of {slot['waiting']} that wait; "
        f"{slot['slots_in_use']} of {slot['capacity']} slots are in use"
        + (f", by {listed(slot['held_by'])}" if slot["held_by"] else ""),
    }
    for name, line in lines.items():
        if line:
            grid.add_row(name, text(line))
    return grid


def _matches(matches: Answer) -> list[RenderableType]:
    """The transformations with one name."""
    rows = matches["rows"]
    return table(
        _title(
            "Transformations", "none", matches["total"], "most important", len(rows)
        ),
        ("transformation", "asked for, or ended", "worker", "state", "reason"),
        [_cells(row) for row in rows],
    )


def _error(failure: Answer) -> list[RenderableType]:
    """A failure, with the beginning of its error."""
    worker = f" on {failure['worker']}" if failure["worker"] else ""
    clock = datetime.fromtimestamp(failure["time"]).strftime("%Y-%m-%d %H:%M:%S")
    return [
        Text(
            f"{_failed(failure)} failed{worker} at {clock}{_because(failure)}:", _ALARM
        ),
        Padding(text(failure["text"].rstrip("\n") or "(no text)"), (0, 0, 0, 2)),
    ]


# -- pieces ------------------------------------------------------------------------


def _title(what: str, none: str, total: int, which: str, limit: int = ROWS) -> str:
    if not total:
        return f"{what}: {none}"
    shown = f", the {which} {limit} are shown" if total > limit else ""
    return f"{what}: {total}{shown}"


def _numbers(numbers: Mapping[str, int]) -> list[str]:
    return [f"{n} {name.replace('_', '-')}" for name, n in numbers.items() if n]


def _conditions(workers: Sequence[Answer]) -> dict[str, int]:
    """{condition: number of workers}, without running workers."""
    found: dict[str, int] = {}
    for row in workers:
        if row["status"] != "running":
            found[row["status"]] = found.get(row["status"], 0) + 1
    return found


def _name(row: Answer) -> str:
    return named(row)


def _failed(failure: Answer) -> str:
    label = joined(failure["name"], failure["callers"])
    return with_digits(label, failure["key"], failure["checksum"])


def _because(failure: Answer) -> str:
    return f" (because {failure['cause']} failed)" if failure["cause"] else ""


def _where(row: Answer) -> str:
    return str(row["worker_name"] or row["worker"] or "")


def _ago(seconds: float) -> str:
    return f"{span(max(0.0, seconds))} ago"


def _clock(unix: float | None) -> str:
    return "?" if unix is None else datetime.fromtimestamp(unix).strftime("%H:%M:%S")

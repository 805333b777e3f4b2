"""The content of the page, as rows of numbers and words; without Bokeh.

The number of rows is limited, however large the cluster is; totals are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from heapq import nlargest
from typing import Any

from distributed.metrics import monotonic, time

from . import explain
from .failures import Failure
from .labels import joined, named, with_digits
from .operations import Operations
from .phrases import count, listed, size, span
from .workers import executing, paused, processes, work

#: Rows of the tables
WORKERS_SHOWN = 20
TRANSFORMATIONS_SHOWN = 15
DECISIONS_SHOWN = 10
FAILURES_SHOWN = 10

Row = dict[str, Any]

#: {field: heading} of each table
WORKER_FIELDS = {
    "name": "worker",
    "processes": "processes",
    "slots": "slots",
    "top_level": "top-level",
    "nested": "nested",
    "waiting": "waiting for calls",
    "storing": "storing",
    "load": "load [% of slots]",
    "cpu": "CPU [% of a core]",
    "memory": "memory",
}
WAITING_FIELDS = {
    "name": "transformation",
    "age": "asked for",
    "state": "waits for",
    "reason": "reason",
}
RUNNING_FIELDS = {
    "name": "transformation",
    "age": "asked for",
    "held": "on it since",
    "worker": "worker",
    "state": "state",
    "reason": "what it does",
}
FAILURE_FIELDS = {
    "time": "time",
    "name": "transformation",
    "worker": "worker",
    "line": "error",
}
DECISION_FIELDS = {"time": "time", "change": "workers", "reason": "reason"}


@dataclass(frozen=True)
class Card:
    """A figure in large type, with a title and a note."""

    title: str
    value: str
    note: str
    #: whether it shows a problem
    alarming: bool = False


@dataclass(frozen=True)
class Figures:
    """Everything that changes on the page, except for the curves."""

    cards: list[Card]
    workers: list[Row]
    waiting: list[Row]
    running: list[Row]
    failures: list[Row]
    decisions: list[Row]
    #: above each table: the number of entries, and how many are shown
    workers_title: str
    waiting_title: str
    running_title: str
    failures_title: str
    decisions_title: str
    #: paused workers, a standstill, problems with the batch system
    problems: list[str]


def figures(operations: Operations) -> Figures:
    """The figures of this moment."""
    overview = explain.overview(
        operations.subject, monotonic(), limit=TRANSFORMATIONS_SHOWN
    )
    scaling = operations.scaling.snapshot()
    workers = _workers(operations)
    waiting = [_waiting_row(row) for row in overview["waiting"]]
    running = [_running_row(row) for row in overview["with_workers"]]
    failed = operations.failures
    failures = [_failure_row(each) for each in failed.latest(FAILURES_SHOWN)]
    decisions = [
        _decision_row(decision)
        for decision in reversed(scaling["decisions"][-DECISIONS_SHOWN:])
    ]
    return Figures(
        cards=_cards(operations, overview, scaling),
        workers=workers,
        waiting=waiting,
        running=running,
        failures=failures,
        decisions=decisions,
        workers_title=_title(
            "Workers",
            workers,
            len(operations.scheduler.workers),
            "busiest",
            "no worker is connected",
        ),
        waiting_title=_title(
            "Transformations that wait",
            waiting,
            overview["waiting_total"],
            "oldest",
            "no transformation waits",
        ),
        running_title=_title(
            "Transformations with a worker",
            running,
            overview["with_workers_total"],
            "oldest",
            "no worker has a transformation",
        ),
        failures_title=_title(
            "Failed transformations",
            failures,
            failed.total,
            "latest",
            "none so far",
        ),
        decisions_title=_title(
            "Scaling decisions",
            decisions,
            len(scaling["decisions"]),
            "latest",
            "the number of workers was not changed",
        ),
        problems=_stalls(operations) + _problems(scaling),
    )


def _title(what: str, rows: list[Row], total: int, which: str, none: str) -> str:
    if not total:
        return f"{what}: {none}"
    if len(rows) < total:
        return f"{what}: {total}, the {which} {len(rows)} are shown"
    return f"{what}: {total}"


# -- cards -------------------------------------------------------------------------


def _cards(
    operations: Operations, overview: dict[str, Any], scaling: dict[str, Any]
) -> list[Card]:
    statistics = operations.machine.statistics()
    refused = statistics.refused_total
    endings = operations.journal.endings
    failed = endings["failed"] + endings["erred"]
    ended = sum(endings.values())
    number = len(operations.scheduler.workers)
    jobs = {state: n for state, n in scaling["jobs"].items() if n}
    wanted = scaling["wanted"]
    return [
        Card(
            "Slots in use",
            f"{statistics.slots_in_use} of {statistics.capacity}",
            f"{statistics.executing} execute, {statistics.lent} wait for calls, "
            f"{statistics.storing} are being stored",
        ),
        Card(
            "Requests waiting",
            str(statistics.waiting),
            f"and {count(statistics.held, 'task')}, for a slot",
        ),
        Card(
            "Requests refused",
            str(sum(refused.values())),
            listed(f"{n} {kind}" for kind, n in refused.items() if n) or "none so far",
            # for want of capacity: it is tried again, then runs in the driver script
            alarming=bool(refused["cycle"] or refused["ceiling"]),
        ),
        Card(
            "Transformations",
            f"{overview['waiting_total']} + {overview['with_workers_total']}",
            "waiting + with a worker",
        ),
        Card(
            "Ended",
            str(ended),
            listed(f"{n} {ending}" for ending, n in endings.items() if n)
            or "none so far",
            alarming=failed > 0,
        ),
        Card(
            "Workers",
            str(number),
            f"{wanted} wanted" if wanted is not None else "scaling: none decided yet",
        ),
        Card(
            "Jobs",
            str(sum(jobs.values())),
            listed(f"{n} {state}" for state, n in jobs.items()) or "of no batch system",
            alarming=scaling["submission_error"] is not None,
        ),
    ]


# -- rows --------------------------------------------------------------------------


def _workers(operations: Operations) -> list[Row]:
    """The workers with the most tasks."""
    offers = operations.machine.offers()
    rows = []
    for ws in nlargest(
        WORKERS_SHOWN,
        operations.scheduler.workers.values(),
        key=lambda ws: len(ws.processing),
    ):
        least, _, slots = offers.get(ws.address, ("none", 0, ws.nthreads))
        row: Row = {
            "name": str(ws.name),
            "processes": processes(ws) or least,
            "slots": slots,
            **work(operations.machine, ws.address),
            "load": round(100 * executing(operations.machine, ws) / max(1, slots)),
            "cpu": f"{ws.metrics.get('cpu') or 0:.0f}",
            "memory": size(ws.metrics.get("memory") or 0),
        }
        rows.append(row)
    return rows


def _waiting_row(row: Row) -> Row:
    return {
        "name": named(row),
        "checksum": row["checksum"],
        "age": f"{span(row['age_seconds'])} ago",
        "state": row["state"],
        "reason": row["reason"],
    }


def _running_row(row: Row) -> Row:
    held = row["worker_seconds"]
    return {
        "name": named(row),
        "checksum": row["checksum"],
        "age": f"{span(row['age_seconds'])} ago",
        "held": "" if held is None else f"{span(held)} ago",
        "worker": row["worker_name"] or "",
        "state": row["state"],
        "reason": row["reason"],
    }


def _failure_row(failure: Failure) -> Row:
    label = joined(failure.name, failure.callers)
    because = f" (because {failure.cause} failed)" if failure.cause else ""
    return {
        "time": f"{span(max(0.0, time() - failure.time))} ago",
        "name": with_digits(label, failure.key, failure.checksum),
        "checksum": failure.checksum,
        "worker": failure.worker or "",
        "line": f"{failure.line}{because}",
    }


def _decision_row(decision: Row) -> Row:
    return {
        "time": f"{span(max(0.0, time() - decision['time']))} ago",
        "change": f"{decision['from']} → {decision['to']}",
        "reason": decision["reason"],
    }


def _stalls(operations: Operations) -> list[str]:
    problems = [paused(operations.scheduler)]
    stall = operations.watchdog.state()
    if stall is not None:
        problems.append(stall["message"])
    return [problem for problem in problems if problem]


def _problems(scaling: dict[str, Any]) -> list[str]:
    problems = []
    error = scaling["submission_error"]
    if error is not None:
        problems.append(
            f"{count(error['failures'], 'submission')} in a row failed, the last at "
            f"{_clock(error['time'])}, the next try is at {_clock(error['retry_at'])}: "
            f"{error['message']}"
        )
    for node, exclusion in scaling["excluded_nodes"].items():
        problems.append(
            f"Node {node} gets no jobs until {_clock(exclusion['until'])}: "
            f"{exclusion['reason']}"
        )
    return problems


def _clock(unix: float | None) -> str:
    return "?" if unix is None else datetime.fromtimestamp(unix).strftime("%H:%M:%S")

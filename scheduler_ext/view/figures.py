"""The content of the page, as rows of numbers and words; without Bokeh.

The number of rows is limited, however large the cluster is; totals are exact.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from heapq import nlargest
from itertools import islice
from typing import Any

from distributed.core import Status
from distributed.metrics import monotonic, time

from . import explain, groups
from .failures import Failure
from .labels import joined, named, with_digits
from .operations import Operations
from .phrases import moment, more_announced, sentence, size
from .summary import Card, Fact, cards, facts, problems, standing
from .workers import executing, usage, work

#: Rows of the tables
WORKERS_SHOWN = 20
TRANSFORMATIONS_SHOWN = 15
DECISIONS_SHOWN = 10
FAILURES_SHOWN = 10
#: Seconds for which the table has the same workers, if there are more
STEADY = 30.0

Row = dict[str, Any]

#: {field: heading} of each table
WORKER_FIELDS = {
    "name": "worker",
    "processes": "processes",
    "slots": "slots",
    "top_level": "top-level",
    "nested": "nested",
    "waiting": "wait for calls",
    "storing": "storing",
    "load": "load [% of slots]",
    "cpu": "CPU [% of a core]",
    "memory": "memory",
}
GROUP_FIELDS = {
    "name": "transformation",
    "age": "asked for",
    "reason": "reason",
}
RUNNING_FIELDS = {
    "name": "transformation",
    "age": "asked for",
    "held": "assigned",
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

#: {heading: explanation}, shown when the mouse is over it
HELP = {
    "processes": "Seamless processes that exist now; there are more under load",
    "slots": "transformations that may execute at a time",
    "top-level": "transformations that a driver script has started",
    "nested": "transformations that another one has called",
    "wait for calls": "transformations that wait for those they called; they take no slot",
    "storing": "transformations that have ended and whose results are being stored; they "
    "take no slot",
    "load [% of slots]": "share of the slots whose transformations execute",
    "CPU [% of a core]": "of the worker with its Seamless processes and all that they have "
    "started; 100 is one core",
    "memory": "of the worker with its Seamless processes and all that they have started",
    "assigned": "when a worker got it",
    "state": "assigned, running, calling (it waits for its calls) or storing",
}


@dataclass(frozen=True)
class GroupRows:
    """Transformations that wait for the same; the rows are shown when it is opened."""

    state: str
    title: str
    names: str
    reason: str
    rows: list[Row]


@dataclass(frozen=True)
class Figures:
    """Everything that changes on the page, except for the curves."""

    facts: list[Fact]
    #: a sentence about the whole cluster
    standing: str
    cards: list[Card]
    workers: list[Row]
    waiting: list[GroupRows]
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


class Choice:
    """Which workers are shown: the busiest, but the same ones for a while."""

    def __init__(self) -> None:
        self._addresses: list[str] = []
        self._at = float("-inf")

    def workers(self, operations: Operations, now: float) -> list[Any]:
        """Up to WORKERS_SHOWN workers, in the order of their names."""
        present = operations.scheduler.workers
        chosen = [present[a] for a in self._addresses if a in present]
        full = len(chosen) == min(WORKERS_SHOWN, len(present))
        if not full or now - self._at > STEADY:
            self._at = now
            chosen = nlargest(WORKERS_SHOWN, present.values(), key=_urgency)
            chosen.sort(key=lambda ws: _natural(str(ws.name)))
            self._addresses = [ws.address for ws in chosen]
        return chosen


def _urgency(ws: Any) -> tuple[bool, int]:
    return ws.status == Status.paused, len(ws.processing)


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts worker 9 before worker 10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def figures(operations: Operations, choice: Choice | None = None) -> Figures:
    """The figures of this moment."""
    now, subject = monotonic(), operations.subject
    scaling = operations.scaling.snapshot()
    cluster = operations.cluster()
    waiting_total, running_total = explain.totals(subject)
    workers = _workers(operations, choice or Choice(), now)
    waiting = _groups(operations, now)
    running = [
        _running_row(explain.row_of(subject, key, now))
        for key in islice(subject.journal.with_worker, TRANSFORMATIONS_SHOWN)
    ]
    failed = operations.failures
    failures = [_failure_row(each) for each in failed.latest(FAILURES_SHOWN)]
    decisions = [
        _decision_row(decision)
        for decision in reversed(scaling["decisions"][-DECISIONS_SHOWN:])
    ]
    return Figures(
        facts=facts(cluster),
        standing=standing(operations, cluster, waiting_total, running_total),
        cards=cards(operations, scaling, cluster, waiting_total, running_total),
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
            "none is connected",
        ),
        waiting_title="Waiting transformations: "
        + sentence(str(waiting_total or "none"), more_announced(operations.announced)),
        running_title=_title(
            "Transformations with a worker", running, running_total, "oldest", "none"
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
        problems=problems(operations, scaling),
    )


def _title(what: str, rows: list[Row], total: int, which: str, none: str) -> str:
    if not total:
        return f"{what}: {none}"
    if len(rows) < total:
        return f"{what}: {total}, the {which} {len(rows)} are shown"
    return f"{what}: {total}"


# -- rows --------------------------------------------------------------------------


def _workers(operations: Operations, choice: Choice, now: float) -> list[Row]:
    offers = operations.machine.offers()
    rows = []
    for ws in choice.workers(operations, now):
        least, _, slots = offers.get(ws.address, ("none", 0, ws.nthreads))
        used = usage(ws)
        row: Row = {
            "key": ws.address,
            "name": str(ws.name),
            "processes": used.processes or least,
            "slots": slots,
            **work(operations.machine, ws.address),
            "load": round(100 * executing(operations.machine, ws) / max(1, slots)),
            "cpu": f"{used.cpu or 0:.0f}",
            "memory": size(used.memory or 0),
        }
        rows.append(row)
    return rows


def _groups(operations: Operations, now: float) -> list[GroupRows]:
    found = groups.waiting(
        operations.subject,
        operations.functions,
        operations.states,
        operations.waits.by_state,
        now,
        TRANSFORMATIONS_SHOWN,
    )
    return [
        GroupRows(
            group.state,
            group.title,
            group.by_name,
            group.reason,
            [_waiting_row(row) for row in group.rows],
        )
        for group in found
    ]


def _waiting_row(row: Row) -> Row:
    return {
        "key": row["key"] or row["label"],
        "name": named(row),
        "checksum": row["checksum"],
        "age": moment(row["age_seconds"]),
        "reason": row["reason"],
    }


def _running_row(row: Row) -> Row:
    held = row["worker_seconds"]
    return {
        "key": row["key"],
        "name": named(row),
        "checksum": row["checksum"],
        "age": moment(row["age_seconds"]),
        "held": "" if held is None else moment(held),
        "worker": row["worker_name"] or "",
        "state": row["state"],
        "reason": row["reason"],
    }


def _failure_row(failure: Failure) -> Row:
    label = joined(failure.name, failure.callers)
    because = f" (because {failure.cause} failed)" if failure.cause else ""
    return {
        "time": moment(time() - failure.time),
        "name": with_digits(label, failure.key, failure.checksum),
        "checksum": failure.checksum,
        "worker": failure.worker or "",
        "line": f"{failure.line}{because}",
    }


def _decision_row(decision: Row) -> Row:
    return {
        "time": moment(time() - decision["time"]),
        "change": f"{decision['from']} → {decision['to']}",
        "reason": decision["reason"],
    }

"""Groups the transformations that wait by what they wait for.

Totals are exact. Names and rows come from the transformations that have waited longest, so
that the cost is bounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

from ..functions import Functions
from .explain import State, Subject, lease_row, row_of, waits_as
from .phrases import listed

#: Transformations that are looked at, of each Dask state and of those without a task
LOOKED_AT = 300
#: Dask states of tasks that wait
WAITING = ("waiting", "queued", "no-worker")
#: Names in a heading
NAMED = 6

#: {state: (what one of them does, what several do)}, in the order of the page
WORDS: dict[State, tuple[str, str]] = {
    "slot": ("waits for a slot", "wait for a slot"),
    "no-worker": ("waits for a worker", "wait for a worker"),
    "dependency": ("waits for its inputs", "wait for their inputs"),
    "queued": ("is held back by Dask", "are held back by Dask"),
    "submission": ("has a slot and is submitted", "have slots and are submitted"),
}


@dataclass
class Group:
    """Transformations that wait for the same."""

    state: State
    total: int = 0
    #: {name: number}, of those that were looked at
    names: Counter[str] = field(default_factory=Counter)
    #: the oldest ones, as :func:`.explain.overview` describes them
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Such as ``31 wait for a slot``."""
        one, several = WORDS[self.state]
        return f"{self.total} {one if self.total == 1 else several}"

    @property
    def by_name(self) -> str:
        """Such as ``28 score, 3 dock``; without numbers if not all were looked at."""
        common = self.names.most_common(NAMED)
        if not common:
            return ""
        if sum(self.names.values()) < self.total:
            return listed([name for name, _ in common] + ["…"])
        return listed((f"{n} {name}" for name, n in common), len(self.names))

    @property
    def reason(self) -> str:
        """The reason that they have in common, or empty."""
        reasons = {row["reason"] for row in self.rows}
        return reasons.pop() if len(reasons) == 1 else ""


def waiting(
    subject: Subject,
    functions: Functions,
    states: Mapping[str, int],
    by_state: Mapping[str, Mapping[str, Any]],
    now: float,
    limit: int,
) -> list[Group]:
    """The groups that are not empty, each with up to ``limit`` rows.

    ``states`` is the number of transformations in each Dask state, ``by_state`` has their
    keys, oldest first; ``now`` is monotonic seconds.
    """
    groups = {state: Group(state) for state in WORDS}
    by_needs = subject.machine.held_by_needs()
    startable = sum(number for number, fits in by_needs.values() if fits)
    _count(subject, groups, states, startable)

    def fits(key: str) -> bool:
        needs = subject.machine.held_needs(key)
        return needs is not None and by_needs[needs][1]

    ledger, tasks = subject.machine.ledger, subject.scheduler.tasks
    for lease in ledger.oldest_unsubmitted(LOOKED_AT):
        group = groups["slot" if lease.granted_at is None else "submission"]
        group.names[functions.shown(lease.request.key)] += 1
        if len(group.rows) < limit:
            group.rows.append(lease_row(subject, lease, now))
    keys = (islice(by_state.get(state, ()), LOOKED_AT) for state in WAITING)
    for key in chain.from_iterable(keys):
        task = tasks.get(key)
        if task is None or task.state == "processing":
            continue
        group = groups.get(waits_as(subject, task, fits), groups["no-worker"])
        group.names[functions.shown(key)] += 1
        if len(group.rows) < limit:
            group.rows.append(row_of(subject, key, now))
    for group in groups.values():
        group.rows.sort(key=lambda row: row["age_seconds"], reverse=True)
        # what was released a moment ago is in no counter yet
        group.total = max(group.total, sum(group.names.values()))
    return [group for group in groups.values() if group.total]


def _count(
    subject: Subject,
    groups: dict[State, Group],
    states: Mapping[str, int],
    startable: int,
) -> None:
    """Set the totals from counters, without looking at each transformation."""
    machine, ledger = subject.machine, subject.machine.ledger
    if not machine.capacity:
        startable = 0
    groups["dependency"].total = states["waiting"]
    queued = states["queued"] if subject.scheduler.workers else 0
    groups["queued"].total = queued
    groups["slot"].total = startable + ledger.waiting
    groups["no-worker"].total = (
        states["no-worker"] + states["queued"] - queued - startable
    )
    groups["submission"].total = max(0, ledger.unsubmitted - ledger.waiting)

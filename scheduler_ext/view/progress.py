"""Tells driver scripts that wait how far the cluster is: :func:`answer`.

Cheap, since each of them asks once a second: nothing here looks at all tasks.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from distributed.scheduler import Scheduler, TaskPrefix

from ..activity import UNFINISHED
from ..task_keys import PREFIXES
from . import explain
from .explain import Subject
from .phrases import count

#: Characters of a reason
MAX_REASON = 300


class Tally:
    """Counts nested transformations; O(1) for each change of a task's state."""

    def __init__(self) -> None:
        self.unfinished = 0
        self.ended = 0

    def moved(self, start: str, finish: str) -> None:
        """The task of a nested transformation changed its state."""
        was = start in UNFINISHED
        if finish in UNFINISHED:
            self.unfinished += not was
        elif was:
            self.unfinished -= 1
            self.ended += 1

    def clear(self) -> None:
        """No task is left; the total stays."""
        self.unfinished = 0


def is_nested(scheduler: Scheduler, key: str) -> bool:
    """Whether a task is that of a nested transformation, by its priority."""
    task = scheduler.tasks.get(key)
    return task is not None and task.priority is not None and task.priority[0] < 0


def answer(
    subject: Subject, tally: Tally, announced: int, now: float
) -> dict[str, Any]:
    """Numbers of transformations of all driver scripts.

    Returns::

        running, waiting   that execute, and that wait for a slot, an input or a worker
        announced          that driver scripts keep back until others have ended
        nested             {"unfinished", "ended"}; ended ever
        ended, failed      ever
        seconds_left       about, None if that is not known
        workers, wanted    connected, and wanted or None
        blocked            if nothing executes, why; otherwise empty
        refused            why the last submission of jobs failed, or empty
    """
    machine, journal = subject.machine, subject.journal
    running = machine.places.taken
    waiting, with_workers = explain.totals(subject)
    scaling = subject.scaling.snapshot()
    error = scaling["submission_error"] or {}
    return {
        "running": running,
        "waiting": waiting,
        "announced": announced,
        "nested": {"unfinished": tally.unfinished, "ended": tally.ended},
        "ended": sum(journal.endings.values()),
        "failed": journal.endings["failed"] + journal.endings["erred"],
        "seconds_left": seconds_left(
            subject.scheduler.task_prefixes.values(), running, announced
        ),
        "workers": len(subject.scheduler.workers),
        "wanted": scaling["wanted"],
        "blocked": _blocked(subject, now) if not running and waiting else "",
        "refused": str(error.get("message") or "")[:MAX_REASON],
    }


def seconds_left(
    prefixes: Iterable[TaskPrefix], running: int, announced: int = 0
) -> float | None:
    """The work that is known of, by the durations of its functions, on what executes.

    Those that are announced take as long as the others do. None if nothing executes, or
    no task of one of the functions has ended yet. Calls that have not been made are not
    known of.
    """
    if not running:
        return None
    seconds = total = 0.0
    for prefix in prefixes:
        if not prefix.name.startswith(_PREFIXES):
            continue
        number = 0.0
        for state, tasks in prefix.states.items():
            if state in UNFINISHED:
                # those that a worker has are half done, on average
                number += tasks / 2 if state == "processing" else tasks
        if number and prefix.duration_average < 0:
            return None
        seconds += number * max(0.0, prefix.duration_average)
        total += number
    if total:
        seconds += announced * seconds / total
    return seconds / running


_PREFIXES = tuple(prefix.rstrip("-_") for prefix in PREFIXES)


def _blocked(subject: Subject, now: float) -> str:
    """Why nothing executes: the reason of the oldest that waits, and the jobs."""
    if not subject.scheduler.workers:
        jobs = explain.on_the_way(subject).removeprefix("; ")
        return f"no worker is connected{': ' + jobs if jobs else ''}"
    for key in islice(subject.journal.waiting, 1):
        row = explain.row_of(subject, key, now)
        return f"{row['label']}: {row['reason']}"[:MAX_REASON]
    return f"{count(subject.machine.ledger.waiting, 'request')} wait for a slot"

"""Warns when a cluster stands still: tasks wait, no task runs, no task ends.

A transformation that runs for long is no standstill, nor is a job that waits in the
queue of a batch system. The Dask configuration key ``seamless-dask.stall-warning`` is
the time after which there is a warning; "0" or None turns it off.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import dask.config
from dask.utils import parse_timedelta
from distributed.metrics import monotonic, time

from ..activity import Activity
from . import explain
from .explain import Subject
from .labels import named
from .phrases import listed, span
from .workers import paused

logger = logging.getLogger(__name__)

KEY = "seamless-dask.stall-warning"
DEFAULT = "5 minutes"
#: Part of that time between two checks of the running tasks
LOOK = 0.1
#: Most chains in a warning, and most steps of each
CHAINS = 3
STEPS = 8


class Standstill:
    """Decides whether the cluster stands still. Pure; ``now`` is monotonic seconds.

    ``limit`` is the time in seconds without a sign of life until the warning; None
    means no warning.
    """

    def __init__(self, limit: float | None, now: float) -> None:
        self.limit = limit
        #: since when the cluster stands still, None while it does not
        self.since: float | None = None
        self._ended = 0
        self._alive_at = now
        self._looked_at = now
        self._warned = False

    def look(
        self, now: float, *, ended: int, unfinished: int, alive: Callable[[], bool]
    ) -> bool:
        """Return True if a warning is due: once, until a task has ended again.

        ``ended`` and ``unfinished`` are numbers of tasks; ``alive`` tells whether there
        is a good reason that no task ends, and is called from time to time.
        """
        if self.limit is None:
            return False
        if ended != self._ended or not unfinished:
            self._ended = ended
            self._alive_at = self._looked_at = now
            self.since, self._warned = None, False
            return False
        if now - self._looked_at < self.limit * LOOK:
            return False
        self._looked_at = now
        if alive():
            self._alive_at, self.since = now, None
            return False
        if now - self._alive_at < self.limit:
            return False
        self.since = self._alive_at
        due, self._warned = not self._warned, True
        return due


class Watchdog:
    """Checks a scheduler with each beat of the plugin, and warns in its log.

    Raises ValueError if the configuration key is not a duration.
    """

    def __init__(self, subject: Subject, activity: Activity) -> None:
        self._subject = subject
        self._activity = activity
        self._standstill = Standstill(limit(), monotonic())

    def beat(self, now: float) -> None:
        """Check once; cheap, except for the rare check of the tasks that workers run."""
        tasks = self._activity.all
        if self._standstill.look(
            now,
            ended=tasks.finished_total + tasks.erred_total,
            unfinished=tasks.unfinished + self._subject.machine.ledger.unsubmitted,
            alive=self._alive,
        ):
            logger.warning("%s", self._message(now))

    def state(self) -> dict[str, Any] | None:
        """``since`` (Unix seconds) and ``message``, or None without a standstill."""
        if self._standstill.since is None:
            return None
        now = monotonic()
        return {
            "since": time() - self._seconds(now),
            "message": self._message(now),
        }

    def _message(self, now: float) -> str:
        """Since when the cluster stands still, and the chains of waiting tasks."""
        tasks = _by_state(self._activity, self._subject)
        parts = [
            f"Standstill: for {span(self._seconds(now))} nothing has ended and nothing "
            f"runs; unfinished: {listed(tasks)}."
        ]
        reason = paused(self._subject.scheduler)
        if reason:
            parts.append(f"{reason}.")
        chains = _chains(self._subject, now)
        if chains:
            parts.append("Who waits for what, the oldest first:")
        return "\n  ".join([" ".join(parts), *chains])

    def _seconds(self, now: float) -> float:
        since = self._standstill.since
        return 0.0 if since is None else max(0.0, now - since)

    def _alive(self) -> bool:
        """Whether a task runs that does not wait for others, or jobs are on their way."""
        scheduler, waits = self._subject.scheduler, self._subject.machine.waits
        if not scheduler.workers:
            return bool(explain.on_the_way(self._subject))
        return any(
            not waits(str(task.key))
            for ws in scheduler.workers.values()
            for task in ws.executing
        )


def limit() -> float | None:
    """The configured time in seconds, None for no warning.

    Raises ValueError if it is not a duration.
    """
    value = dask.config.get(KEY, DEFAULT)
    try:
        seconds = parse_timedelta(value) if value is not None else 0.0
    except (KeyError, TypeError, ValueError):
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ValueError(
            f"Dask configuration {KEY}: got {value!r}, allowed: a duration such as "
            '"5 minutes", or "0" for no warning'
        )
    return seconds or None


def _by_state(activity: Activity, subject: Subject) -> list[str]:
    """Such as ``3 processing``; transformations without a task count as well."""
    states = {
        **activity.all.states,
        "not submitted": subject.machine.ledger.unsubmitted,
    }
    return [f"{number} {state}" for state, number in states.items() if number]


def _chains(subject: Subject, now: float) -> list[str]:
    overview = explain.overview(subject, now, limit=2 * CHAINS)
    roots = overview["with_workers"] + overview["waiting"]
    # most chains start at the oldest transformation
    roots.sort(key=lambda row: row["age_seconds"], reverse=True)
    seen: set[str | None] = set()
    chains: list[str] = []
    for root in roots:
        if len(chains) == CHAINS:
            break
        if root["key"] not in seen:
            steps = [root]
            if root["key"] is not None:
                steps += explain.chain(subject, root["key"], now)
            seen.update(step["key"] for step in steps)
            chains.append(_line(steps))
    return chains


def _line(steps: list[dict[str, Any]]) -> str:
    """Rows of an overview, each of which waits for the next."""
    texts = []
    for step in steps[:STEPS]:
        worker = f" on {step['worker_name']}" if step["worker_name"] else ""
        texts.append(f"{named(step)}{worker}: {step['reason']}")
    return " -> ".join(texts) + (" -> ..." if len(steps) > STEPS else "")

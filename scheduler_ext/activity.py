"""Counts tasks by state, to tell whether the cluster is idle.

Pure, O(1) per transition. The wrapper decides by these counters whether the cluster
is idle and how many workers it needs, without ever scanning the tasks.
"""

from __future__ import annotations

from typing import Any

#: {Dask's name: our name} of the task states in which a task is unfinished
UNFINISHED = {
    "waiting": "waiting",
    "queued": "queued",
    "no-worker": "no_worker",
    "processing": "processing",
}


class Counters:
    """The number of tasks of one sort in each unfinished state, and totals."""

    def __init__(self) -> None:
        #: {Dask task state: number of tasks}
        self.states = dict.fromkeys(UNFINISHED, 0)
        self.unfinished = 0
        self.finished_total = 0
        self.erred_total = 0

    def move(self, start: str, finish: str) -> None:
        """Count one task that changes from one Dask state to another."""
        was_unfinished = start in UNFINISHED
        if was_unfinished:
            self.states[start] -= 1
            self.unfinished -= 1
        if finish in UNFINISHED:
            self.states[finish] += 1
            self.unfinished += 1
        elif finish == "memory":
            # data that a client scattered went through no unfinished state
            self.finished_total += was_unfinished
        elif finish == "erred":
            self.erred_total += 1

    def clear(self) -> None:
        """No task is left; the totals stay."""
        self.states = dict.fromkeys(UNFINISHED, 0)
        self.unfinished = 0

    def snapshot(self) -> dict[str, int]:
        """The counters under the names that go over the wire."""
        counts = {name: self.states[state] for state, name in UNFINISHED.items()}
        counts["finished_total"] = self.finished_total
        counts["erred_total"] = self.erred_total
        return counts


class Activity:
    """Counters for all tasks and for transformations, and the time without any task.

    ``now`` is monotonic seconds everywhere; until the first task appears, the cluster
    counts as idle since the creation of this object.
    """

    def __init__(self, now: float) -> None:
        self.all = Counters()
        self.transformations = Counters()
        #: when a task was last unfinished; meaningless while there are such tasks
        self._last_active = now

    def move(self, start: str, finish: str, transformation: bool, now: float) -> None:
        """Count one task that changes from one Dask state to another."""
        if transformation:
            self.transformations.move(start, finish)
        busy = self.all.unfinished
        self.all.move(start, finish)
        if busy and not self.all.unfinished:
            self._last_active = now

    def clear(self, now: float) -> None:
        """The scheduler was restarted: all tasks are gone."""
        if self.all.unfinished:
            self._last_active = now
        self.all.clear()
        self.transformations.clear()

    def idle_seconds(self, now: float) -> float:
        """Seconds since a task was last unfinished, 0.0 while there are such tasks."""
        return 0.0 if self.all.unfinished else max(0.0, now - self._last_active)

    def snapshot(self, now: float) -> dict[str, Any]:
        """All counters, ready for the wire."""
        return {
            **self.all.snapshot(),
            "transformations": self.transformations.snapshot(),
            "idle_seconds": self.idle_seconds(now),
        }

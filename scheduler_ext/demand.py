"""Measures the work for workers, at a cost that does not grow with the tasks.

Dask counts tasks by state and by prefix already. This module adds which prefixes have
unfinished tasks, because Dask never forgets a prefix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dask.utils import key_split
from distributed.metrics import monotonic
from distributed.scheduler import Scheduler, TaskPrefix, TaskStateState

from .activity import Activity
from .permission.machine import PermissionMachine
from .task_keys import is_transformation

#: Tasks that a worker could run, or runs
READY: tuple[TaskStateState, ...] = ("queued", "no-worker", "processing")
#: Waiting requests whose mean duration is taken for all of them
SAMPLE = 100
#: Prefixes after which those without unfinished tasks are looked for, if nobody measures
MANY_PREFIXES = 1_000


@dataclass(frozen=True)
class Demand:
    """The work that workers are needed for."""

    #: tasks that a worker could run or runs; neither those that wait for dependencies
    #: nor those that merely wait for nested work. With those that driver scripts have
    #: announced: they submit them when others have ended
    ready: int
    #: of these, tasks that were given to a worker
    running: int
    #: tasks on workers that merely wait for nested work, or have left their thread
    held: int
    #: top-level tasks among ready and held ones
    top_level: int
    #: nested submissions that wait for a lease, and optional ones that were refused
    #: lately; they are not tasks yet
    permissions: int
    #: seconds that all this would take, one after the other
    expected_seconds: float
    #: the part of ready and permissions whose duration is a guess
    unknown: int


class DemandMeter:
    """Knows the prefixes of unfinished tasks, and asks the scheduler for the rest."""

    def __init__(
        self, scheduler: Scheduler, activity: Activity, machine: PermissionMachine
    ) -> None:
        self._scheduler = scheduler
        self._activity = activity
        self._machine = machine
        #: names of all prefixes that have unfinished tasks, and of some that had
        self._prefixes: set[str] = set()
        #: how many there are at the next look for those that have none any more
        self._many = MANY_PREFIXES
        #: {id of a client: top-level transformations that it has not submitted yet}
        self._announced: dict[str, int] = {}

    def unfinished(self, key: Any) -> None:
        """A task is unfinished now; called for every task."""
        task = self._scheduler.tasks.get(key)
        if task is not None:
            self._prefixes.add(task.prefix.name)
            if len(self._prefixes) > self._many:  # nobody measures
                self._work()
                self._many = max(MANY_PREFIXES, 2 * len(self._prefixes))

    @property
    def announced(self) -> int:
        """Top-level transformations that clients have not submitted yet."""
        return sum(self._announced.values())

    def announce(self, client: str, number: int) -> None:
        """A client has so many transformations that it has not submitted yet."""
        if number:
            self._announced[client] = number
        else:
            self._announced.pop(client, None)

    def clear(self) -> None:
        """No task is left."""
        self._prefixes.clear()

    def measure(self) -> Demand:
        """Sum up prefixes with unfinished tasks, tasks on workers, waiting requests."""
        states = self._activity.all.states
        ready = sum(states[state] for state in READY)
        seconds, unknown = self._work()
        announced = self.announced
        if announced:
            # As those that are there. Clients announce only if there are many.
            share = announced / ready if ready else 0.0
            seconds += seconds * share or announced * self._duration(None)[0]
            unknown += round(unknown * share) if ready else announced
            ready += announced
        held = 0
        for prefix in self._held():
            held += 1
            duration, guess = self._duration(prefix)
            seconds -= duration
            unknown -= guess
        now = monotonic()
        permissions = self._machine.waiting + self._machine.wanted(now)
        if permissions:
            each, guesses = self._permission_seconds(now)
            seconds += permissions * each
            unknown += round(permissions * guesses)
        return Demand(
            ready=ready - held,
            running=states["processing"] - held,
            held=held,
            top_level=max(0, ready - self._machine.admitted),
            permissions=permissions,
            # rounding may make the difference of two sums negative
            expected_seconds=max(0.0, seconds),
            unknown=unknown,
        )

    def _work(self) -> tuple[float, int]:
        """Seconds of all ready tasks, and the number of those with unknown duration."""
        seconds = 0.0
        unknown = 0
        for name in list(self._prefixes):
            prefix = self._scheduler.task_prefixes.get(name)
            states = {} if prefix is None else prefix.states
            count = sum(states.get(state, 0) for state in READY)
            if not count and not states.get("waiting"):
                self._prefixes.discard(name)
                continue
            duration, guess = self._duration(prefix)
            seconds += count * duration
            unknown += count * guess
        return seconds, unknown

    def _held(self) -> list[TaskPrefix]:
        """The prefix of each task on a worker that does not need its slot.

        Dask's `long_running` has every task that has left its thread once, also
        transformations that go on; of these the machine knows which ones wait.
        """
        tasks = {
            ts
            for ws in self._scheduler.workers.values()
            for ts in ws.long_running
            if not is_transformation(ts.key)
        }
        for owner in self._machine.owners():
            task = self._scheduler.tasks.get(owner)
            if task is not None and task.state == "processing":
                tasks.add(task)
        return [task.prefix for task in tasks]

    def _permission_seconds(self, now: float) -> tuple[float, float]:
        """Mean seconds of requests, and the share of unknown duration."""
        leases = self._machine.oldest_waiting(SAMPLE)
        keys = [lease.request.key for lease in leases]
        keys += self._machine.some_wanted(now, SAMPLE)
        durations = [
            self._duration(self._scheduler.task_prefixes.get(key_split(key)))
            for key in keys
        ]
        count = max(1, len(durations))
        return (
            sum(seconds for seconds, _ in durations) / count,
            sum(guess for _, guess in durations) / count,
        )

    def _duration(self, prefix: TaskPrefix | None) -> tuple[float, bool]:
        """Expected seconds of a task, as Dask sees it, and whether it is a guess."""
        if prefix is not None:
            if prefix.duration_average >= 0:
                return prefix.duration_average, False
            if prefix.max_exec_time > 0:
                return 2 * prefix.max_exec_time, True
        return self._scheduler.UNKNOWN_TASK_DURATION, True

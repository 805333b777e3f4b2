"""Computes how many workers the work needs. Pure: no I/O and no clock of its own.

The rule: the work that is ready should be done within the target duration. It scales up
at once, and down only after fewer workers would have sufficed for some time.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Protocol


class Demand(Protocol):
    """The figures of the plugin in the scheduler; see `scheduler_ext.demand.Demand`."""

    @property
    def ready(self) -> int: ...
    @property
    def held(self) -> int: ...
    @property
    def top_level(self) -> int: ...
    @property
    def permissions(self) -> int: ...
    @property
    def expected_seconds(self) -> float: ...
    @property
    def unknown(self) -> int: ...


@dataclass(frozen=True)
class Need:
    """A number of workers, since when it is sufficient, and why it is needed."""

    workers: int
    since: float
    reason: str


class ScalingPolicy:
    """Decides how many Dask workers are wanted.

    `minimum` and `maximum` are numbers of workers, `slots_per_worker` is the number of
    tasks that a worker runs at a time, `target_duration` is in seconds. `exclusive`:
    every top-level task has a worker of its own. The number is reduced when fewer
    workers would have sufficed for `idle_seconds`. Each job has `processes` workers;
    `unit` is the noun for a job (singular).

    Raises ValueError for invalid numbers.
    """

    def __init__(
        self,
        *,
        minimum: int,
        maximum: int,
        slots_per_worker: int,
        target_duration: float,
        idle_seconds: float,
        exclusive: bool = False,
        processes: int = 1,
        unit: str = "worker",
    ):
        allowed = {
            "minimum": (minimum, 0),
            "maximum": (maximum, max(minimum, processes)),
            "slots_per_worker": (slots_per_worker, 1),
            "processes": (processes, 1),
            "idle_seconds": (idle_seconds, 0),
        }
        for name, (value, least) in allowed.items():
            if not value >= least:
                raise ValueError(f"{name}: got {value!r}, allowed: {least} or more")
        if not target_duration > 0:
            raise ValueError(
                f"target_duration: got {target_duration!r}, allowed: more than 0 s"
            )
        self._minimum = minimum
        self._maximum = maximum
        self._slots = 1 if exclusive else slots_per_worker
        self._target_duration = target_duration
        self._exclusive = exclusive
        self._idle_seconds = idle_seconds
        self._processes = processes
        self._unit = unit
        #: Recent needs: each is smaller and newer than the one before.
        self._lately: deque[Need] = deque()

    def decide(self, demand: Demand, have: int, now: float) -> tuple[int, str]:
        """Return how many workers are wanted, and the reason, for people.

        `have` is the number of workers that are there or on their way, `now` monotonic
        seconds. As long as the work stays the same, so does the answer.
        """
        workers, reason = self._need(demand)
        since = now
        lately = self._lately
        while lately and lately[-1].workers <= workers:
            since = lately.pop().since
        lately.append(Need(workers, since, reason))
        less = False
        while len(lately) > 1 and now - lately[1].since >= self._idle_seconds:
            lately.popleft()
            less = True
        reason = f"{lately[0].reason}; there are {have}"
        if less:
            reason += f", more were not needed for {_readable(self._idle_seconds)}"
        return lately[0].workers, reason

    def _need(self, demand: Demand) -> tuple[int, str]:
        """The workers needed now, in whole jobs and within the bounds, and the reason."""
        work = demand.ready + demand.permissions
        least = 1 if work or demand.held else 0
        if self._exclusive:
            least = max(least, demand.top_level)
        by_time = demand.expected_seconds / (self._target_duration * self._slots)
        by_number = math.ceil(work / self._slots)
        workers = max(least, min(math.ceil(by_time), by_number))
        jobs = math.ceil(workers / self._processes)
        bounded = max(
            math.ceil(self._minimum / self._processes),
            min(jobs, self._maximum // self._processes),
        )
        by_time_alone = math.ceil(max(by_time, workers) / self._processes)
        words = f"{self._why(demand, least, by_time)} -> "
        words += _many(by_time_alone, self._unit)
        if by_time_alone > jobs:
            words += f"; {_many(work, 'task')} can use {jobs}"
        if bounded < jobs:
            words += f"; maximum_jobs is {bounded}"
        elif bounded > jobs:
            words += f"; the minimum is {bounded}, since the cluster is interactive"
        return bounded * self._processes, words

    def _why(self, demand: Demand, least: int, by_time: float) -> str:
        """The calculation of a need, in words."""
        work = demand.ready + demand.permissions
        if not work:
            return f"{demand.held} tasks wait for others" if demand.held else "no work"
        words = _many(demand.ready, "ready task")
        if demand.permissions:
            words += f", {demand.permissions} nested ones without a slot"
        if self._exclusive and demand.held:
            words += f", {demand.held} on workers that wait for others"
        if self._exclusive and least >= by_time:
            return f"{words}, each top-level one with a worker of its own"
        guess = ", unknown" if demand.unknown else ""
        if 0 < demand.unknown < work:
            guess = f", {demand.unknown} of them unknown"
        each = _readable(demand.expected_seconds / work)
        return (
            f"{words}, expected {_readable(demand.expected_seconds)} ({each} each{guess})"
            f" / {_readable(self._target_duration)} x {_many(self._slots, 'slot')}"
        )


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _readable(seconds: float) -> str:
    """A duration for people, such as 0.25 s, 60 s, 300 min, 5.5 h."""
    for size, unit, most in ((1, "s", 120), (60, "min", 600 * 60)):
        if seconds < most:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 3600:.4g} h"

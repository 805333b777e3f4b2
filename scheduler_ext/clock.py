"""Keeps workers when the clock of the machine is set, or when a laptop wakes up.

Dask uses that clock to measure how long ago it has heard from a worker. If the clock is
put forward by more than Dask's limit of five minutes, all workers look lost, and they
are restarted with all their tasks.
"""

from __future__ import annotations

import logging

from distributed import metrics
from distributed.scheduler import Scheduler

logger = logging.getLogger(__name__)

#: A change of the clock between two checks counts as a jump from this number of seconds
#: on; systems correct smaller errors gradually
TOLERANCE = 2.0


class Jumps:
    """Detects that a clock was set, by comparing it with a monotonic one."""

    def __init__(self, clock: float, steady: float) -> None:
        self._offset = clock - steady

    def seen(self, clock: float, steady: float) -> float:
        """Return by how many seconds the clock was set since the last call, or 0.

        Parameters
        ----------
        clock, steady
            Seconds, by the clock of the machine and by a monotonic one.
        """
        offset = clock - steady
        jump, self._offset = offset - self._offset, offset
        return jump if abs(jump) > TOLERANCE else 0.0


class Clock:
    """Checks the clock for one scheduler."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._jumps = Jumps(metrics.time(), metrics.monotonic())

    def look(self) -> None:
        """Correct the times of workers if the clock jumped since the last check."""
        jump = self._jumps.seen(metrics.time(), metrics.monotonic())
        if not jump:
            return
        logger.warning("The clock was set by %+.1f s.", jump)
        for worker in self._scheduler.workers.values():
            worker.last_seen += jump

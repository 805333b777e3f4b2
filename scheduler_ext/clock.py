"""Keeps workers when the clock of the machine is set, or when a laptop wakes up.

Dask measures by that clock how long ago it has heard of a worker. A clock that is put
forward by more than its limit of five minutes makes all workers look lost, and they are
restarted with all that they run.
"""

from __future__ import annotations

import logging

from distributed import metrics
from distributed.scheduler import Scheduler

logger = logging.getLogger(__name__)

#: Seconds by which the clock may be off between two looks; less is corrected gradually
TOLERANCE = 2.0


class Jumps:
    """Tells when a clock was set, by one that cannot be."""

    def __init__(self, clock: float, steady: float) -> None:
        self._offset = clock - steady

    def seen(self, clock: float, steady: float) -> float:
        """Return by how many seconds the clock was set since the last call, 0 if not.

        Parameters
        ----------
        clock, steady
            Seconds, by the clock of the machine and by a monotonic one.
        """
        offset = clock - steady
        jump, self._offset = offset - self._offset, offset
        return jump if abs(jump) > TOLERANCE else 0.0


class Clock:
    """Looks at the clock for one scheduler."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._jumps = Jumps(metrics.time(), metrics.monotonic())

    def look(self) -> None:
        """Put right what a jump of the clock has made wrong since the last look."""
        jump = self._jumps.seen(metrics.time(), metrics.monotonic())
        if not jump:
            return
        logger.warning("The clock was set by %+.1f s.", jump)
        for worker in self._scheduler.workers.values():
            worker.last_seen += jump

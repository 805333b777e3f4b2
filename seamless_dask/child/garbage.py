"""When a Seamless process collects garbage: after jobs, as it adds up."""

from __future__ import annotations

import gc
import logging
from time import perf_counter

import psutil

from . import usage

logger = logging.getLogger(__name__)

#: bytes by which a Seamless process may grow before it collects garbage
GARBAGE = 64 * 1024**2
#: fraction of a job's time that a full collection may take after it
WORTH = 0.05


class Collector:
    """Frees the garbage of the finished jobs of a Seamless process, as it adds up.

    The code of a transformation runs in a namespace whose functions refer to it: a
    cycle, which holds all inputs until Python's garbage collector looks for cycles.
    Python decides that by the number of objects, not by their size, and so would do it
    only after some hundred jobs.
    """

    def __init__(self) -> None:
        # Objects from before the first job stay: collections need not visit them.
        gc.freeze()
        self._process = psutil.Process()
        self._settled = self._memory()
        #: seconds that the last full collection took
        self._cost = 0.0

    def collect(self, seconds: float) -> None:
        """Collect after a job, so that its finalisers do not run in the next job.

        Parameters
        ----------
        seconds
            CPU time of the job's thread.
        """
        if seconds * WORTH < self._cost and not self._has_grown():
            gc.collect(1)  # objects of a short job are in the young generations
            return
        began = perf_counter()
        gc.collect()
        self._cost = perf_counter() - began
        self._settled = self._memory()

    def _has_grown(self) -> bool:
        most = self._settled + GARBAGE
        peak = usage.now().memory_peak
        return (peak is None or peak > most) and self._memory() > most

    def _memory(self) -> int:
        try:
            return self._process.memory_info().rss
        except (OSError, psutil.Error) as error:  # for instance no free descriptor
            logger.debug("The memory of this process is not known: %r", error)
            return 0

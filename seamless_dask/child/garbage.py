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
#: part of the time of a job that a collection of everything may take after it
WORTH = 0.05


class Collector:
    """Frees what the finished jobs of a Seamless process have left, as it adds up.

    The code of a transformation runs in a namespace whose functions refer to it: a
    cycle, which holds all inputs until Python's garbage collector looks for cycles.
    That depends on the number of objects, not on their size, and takes some hundred
    jobs.
    """

    def __init__(self) -> None:
        # What is there before the first job stays: no need to look at it every time.
        gc.freeze()
        self._process = psutil.Process()
        self._settled = self._memory()
        #: seconds that a collection of everything took the last time
        self._cost = 0.0

    def collect(self, seconds: float) -> None:
        """Collect after a job, so that nothing of it ends during the next one.

        Parameters
        ----------
        seconds
            For which it has computed.
        """
        if seconds * WORTH < self._cost and not self._has_grown():
            gc.collect(1)  # what a short job has made is still young
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
        except (OSError, psutil.Error) as error:  # no descriptor is free, say
            logger.debug("The memory of this process is not known: %r", error)
            return 0

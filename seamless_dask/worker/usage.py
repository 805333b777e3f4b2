"""The CPU time and memory of a Dask worker with all processes below it."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import psutil

from scheduler_ext import reports

logger = logging.getLogger(__name__)

#: Least seconds between two measurements
INTERVAL = 2.0
#: A measurement takes a millisecond per process, more if it has very much memory; the
#: next one comes after this multiple of its duration
PAUSE = 50


class TreeUsage:
    """Measures this process and its descendants, in a thread, as often as it is asked.

    The sum of their CPU times, with those of children that have ended, only grows: when a
    process ends, its time becomes part of its parent's.
    """

    def __init__(self) -> None:
        self.cpu: float | None = None
        self.memory: int | None = None
        self._process = psutil.Process()
        #: seconds of CPU time, and when they were measured
        self._before: tuple[float, float] | None = None
        self._next = float("-inf")
        self._measuring: asyncio.Future[None] | None = None

    def figures(self, processes: int) -> dict[str, float | int | None]:
        """The figures for a heartbeat; those of the last measurement.

        Call it on the event loop. A new measurement starts if the last one is old.

        Parameters
        ----------
        processes
            Number of Seamless processes.
        """
        busy = self._measuring is not None and not self._measuring.done()
        if not busy and time.monotonic() >= self._next:
            loop = asyncio.get_running_loop()
            self._measuring = loop.run_in_executor(None, self._measure)
        return reports.figures(processes, self.cpu, self.memory)

    def _measure(self) -> None:
        begin = time.monotonic()
        try:
            self.measure(begin)
        except (psutil.Error, OSError) as error:
            logger.debug("The use of CPU and memory is not known: %r", error)
        end = time.monotonic()
        self._next = end + max(INTERVAL, PAUSE * (end - begin))

    def measure(self, now: float) -> None:
        """Measure; `now` is monotonic seconds. Blocks."""
        seconds, memory = 0.0, 0
        for process in [self._process, *self._process.children(recursive=True)]:
            try:
                with process.oneshot():
                    seconds += sum(process.cpu_times()[:4])
                    memory += _memory_of(process)
            except psutil.NoSuchProcess:
                continue
        if self._before is not None and now > self._before[1]:
            share = (seconds - self._before[0]) / (now - self._before[1])
            self.cpu = 100 * max(0.0, share)
        self.memory = memory
        self._before = seconds, now


def _memory_of(process: psutil.Process) -> int:
    """Bytes of its memory; of a page that several processes share, its part.

    Seamless processes are forked, and share most of their pages.
    """
    try:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:  # another system, or the process of another user
        return int(process.memory_info().rss)
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return 1024 * int(line.split()[1])
    return int(process.memory_info().rss)

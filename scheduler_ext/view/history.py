"""The memory of the operators' page: samples, waiting times, and how tasks ended.

Pure: time comes in as monotonic seconds, except for samples, whose time people read
(Unix seconds). Everything here is bounded, or as long as the list of unfinished tasks.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple

from ..activity import UNFINISHED
from ..permission.event_log import WaitTimes

#: Seconds between two samples
INTERVAL = 1.0
#: Samples kept: a quarter of an hour with one per second
MAX_SAMPLES = 900
#: Ends of transformations that are remembered
MAX_ENDINGS = 5_000

#: How a transformation ended. "failed" says that its own code or an input failed,
#: "erred" that Dask could not run it, "dropped" that no client or task wanted it any more.
Ending = Literal[
    "stored",
    "cached",
    "remote_job",
    "finished",
    "failed",
    "erred",
    "cancelled",
    "dropped",
]
#: Endings that a worker may report for a task that has a result
REPORTED: tuple[Ending, ...] = ("stored", "cached", "remote_job", "failed")


class Sample(NamedTuple):
    """The cluster at one moment; ``time`` is in Unix seconds."""

    time: float
    capacity: int
    slots_in_use: int
    lent: int
    requests_waiting: int
    refused_total: int
    transformations_waiting: int
    transformations_with_workers: int
    ended_total: int
    workers: int


class History:
    """The latest samples, each with a number."""

    def __init__(self, length: int = MAX_SAMPLES) -> None:
        self._samples: deque[Sample] = deque(maxlen=length)
        #: samples ever added
        self.added = 0

    def add(self, sample: Sample) -> None:
        """Remember a sample, and forget the oldest if there are too many."""
        self._samples.append(sample)
        self.added += 1

    def since(self, number: int) -> list[Sample]:
        """The samples that were added after the first ``number``, oldest first."""
        new = min(self.added - number, len(self._samples))
        return list(islice(reversed(self._samples), max(0, new)))[::-1]


@dataclass(frozen=True)
class Ended:
    """The end of one transformation, at a monotonic time in seconds."""

    key: str
    checksum: str | None
    ending: Ending
    at: float
    #: seconds from when a worker got it; None if no worker did
    seconds: float | None


class Journal:
    """Records since when transformations wait or are with a worker, and how they ended.

    O(1) per change of state. Both tables are in the order of arrival.
    """

    def __init__(self) -> None:
        #: {task key: since}, of unfinished tasks without a worker
        self.waiting: dict[str, float] = {}
        #: {task key: (since when it is unfinished, when it was given to a worker)}
        self.with_worker: dict[str, tuple[float, float]] = {}
        #: {ending: number}
        self.endings: dict[str, int] = dict.fromkeys(
            (*REPORTED, "finished", "erred", "cancelled", "dropped"), 0
        )
        #: results of nested transformations that were found instead of computed
        self.nested_cache_hits = 0
        #: how long transformations waited for their process after their calls had ended,
        #: if they had to wait
        self.resume_waits = WaitTimes()
        #: how often the code of a transformation began another time on its worker
        self.begun_again = 0
        #: {checksum, or key where that is unknown: end}, oldest first
        self._ended: OrderedDict[str, Ended] = OrderedDict()

    def moved(
        self,
        key: str,
        finish: str,
        now: float,
        *,
        again: bool = False,
        checksum: str | None = None,
        cancelled: bool = False,
        report: Mapping[str, Any] | None = None,
    ) -> Ended | None:
        """The task of a transformation went to another Dask state.

        ``again`` says that it was released and will run again; ``report`` is the report
        of the worker on a task that is in memory now. Returns its end, if that is one.
        """
        known = key in self.waiting or key in self.with_worker
        since, started = self._take(key, now)
        if finish == "processing":
            self.with_worker[key] = since, now
        elif finish in UNFINISHED or (again and known):
            self.waiting[key] = since
        elif known:
            ending = self._ending(finish, cancelled, report or {})
            seconds = None if started is None else now - started
            return self._end(Ended(key, checksum, ending, now, seconds))
        return None

    def clear(self) -> None:
        """All tasks are gone; the totals stay."""
        self.waiting.clear()
        self.with_worker.clear()
        self._ended.clear()

    def ended(self, name: str) -> Ended | None:
        """The last end of a transformation, by its checksum, if it is remembered."""
        return self._ended.get(name)

    def latest(self) -> Iterable[Ended]:
        """All ends that are remembered, the newest first."""
        return reversed(self._ended.values())

    def remembered(self) -> Iterable[str]:
        """The names that :meth:`ended` knows, oldest first."""
        return self._ended.keys()

    def _take(self, key: str, now: float) -> tuple[float, float | None]:
        """Since when a key is unfinished, and when a worker got it; forget both."""
        with_worker = self.with_worker.pop(key, None)
        if with_worker is not None:
            return with_worker
        return self.waiting.pop(key, now), None

    def _ending(
        self, finish: str, cancelled: bool, report: Mapping[str, Any]
    ) -> Ending:
        if finish == "memory":
            self._count(report)
            reported = report.get("ending")
            return reported if reported in REPORTED else "finished"
        if finish == "erred":
            return "erred"
        return "cancelled" if cancelled else "dropped"

    def _count(self, report: Mapping[str, Any]) -> None:
        """Add the figures of a report, if they are valid numbers."""
        hits, begun = report.get("cache_hits"), report.get("begun")
        if isinstance(hits, int) and hits > 0:
            self.nested_cache_hits += hits
        if isinstance(begun, int) and begun > 1:
            self.begun_again += begun - 1
        wait = report.get("resume_wait")
        if isinstance(wait, float) and 0 < wait < float("inf"):
            self.resume_waits.add(wait)

    def _end(self, ended: Ended) -> Ended:
        self.endings[ended.ending] += 1
        name = ended.checksum or ended.key
        self._ended.pop(name, None)
        self._ended[name] = ended
        if len(self._ended) > MAX_ENDINGS:
            self._ended.popitem(last=False)
        return ended

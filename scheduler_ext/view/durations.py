"""Sums up where the time of transformations went, by name of the function.

Pure and bounded: each name has a sketch of its durations instead of a list, and the slots
in use are kept in intervals that grow. One transformation costs a few microseconds. Times
come in as seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, exp, log
from typing import Any, NamedTuple

from ..permission.event_log import WaitTimes

#: Names that have figures of their own; those that come later share OTHER
MAX_NAMES = 200
OTHER = "other"
#: Names with histograms in the metrics; the others share one
MAX_HISTOGRAMS = 50
#: Ratio of the bounds of a class of durations: a quantile is exact to 2.5 %
_RATIO = log(1.05)
#: The shortest duration that is told from shorter ones, and the longest, in seconds
_LEAST, _MOST = 1e-3, 1e7
#: Intervals of a timeline
MAX_INTERVALS = 600

#: What transformations wait for. "worker": none is connected. "process": their calls have
#: ended, and another transformation uses their process. "around": with a worker, before
#: and after the code: inputs are fetched, a process is started, the result is stored.
REASONS = ("inputs", "worker", "slot", "process", "around")


class Sketch:
    """Durations in classes of equal ratio; gives their quantiles."""

    __slots__ = ("_classes", "count", "longest", "total")

    def __init__(self) -> None:
        #: {number of the class: durations}; at most a few hundred classes exist
        self._classes: dict[int, int] = {}
        self.count = 0
        self.total = 0.0
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        place = ceil(log(min(max(seconds, _LEAST), _MOST)) / _RATIO)
        self._classes[place] = self._classes.get(place, 0) + 1
        self.count += 1
        self.total += seconds
        if seconds > self.longest:
            self.longest = seconds

    def quantile(self, share: float) -> float | None:
        """The duration that this share of all does not exceed; None without any."""
        if not self.count:
            return None
        rank = max(1, ceil(share * self.count))
        for place in sorted(self._classes):
            rank -= self._classes[place]
            if rank <= 0:
                break
        middle = exp((place - 0.5) * _RATIO)
        return min(middle, self.longest)


class Usage(NamedTuple):
    """What a Seamless process reports of one run: seconds, and bytes; None: not known."""

    wall: float | None = None
    cpu: float | None = None
    memory: int | None = None
    resume_wait: float | None = None


@dataclass
class Figures:
    """The transformations with one name."""

    durations: Sketch = field(default_factory=Sketch)
    #: {ending: number}, see :data:`.history.Ending`
    endings: dict[str, int] = field(default_factory=dict)
    #: {reason: seconds}
    waits: dict[str, float] = field(default_factory=lambda: dict.fromkeys(REASONS, 0.0))
    cpu: float = 0.0
    #: the most memory that a process had, in bytes
    memory: int = 0


@dataclass
class Histograms:
    """Durations and waiting times for the metrics."""

    durations: WaitTimes = field(default_factory=WaitTimes)
    waits: WaitTimes = field(default_factory=WaitTimes)


class Timeline:
    """The slots in use and the slots that there are, over any time.

    It begins with intervals of a second. When there are too many, two become one.
    """

    def __init__(self, now: float, limit: int = MAX_INTERVALS) -> None:
        self._start = now
        self._limit = limit
        self.interval = 1.0
        #: sums of slots in use and of capacities, and how many were summed
        self._sums: list[tuple[float, float, int]] = []

    def add(self, now: float, used: int, capacity: int) -> None:
        """Add the numbers of this moment."""
        place = max(0, int((now - self._start) / self.interval), len(self._sums) - 1)
        while place >= self._limit:
            self._halve()
            place //= 2
        while len(self._sums) <= place:
            self._sums.append((0.0, 0.0, 0))
        a, b, n = self._sums[place]
        self._sums[place] = (a + used, b + capacity, n + 1)

    def _halve(self) -> None:
        self.interval *= 2
        pairs = [
            tuple(map(sum, zip(*self._sums[i : i + 2], strict=True)))
            for i in range(0, len(self._sums), 2)
        ]
        self._sums = [(a, b, int(n)) for a, b, n in pairs]

    def answer(self) -> dict[str, Any]:
        """``interval`` in seconds, and for each one the means; None: no sample."""
        return {
            "interval": self.interval,
            "used": [round(a / n, 2) if n else None for a, _, n in self._sums],
            "capacity": [round(b / n, 2) if n else None for _, b, n in self._sums],
        }


class Durations:
    """The figures of all names.

    Parameters
    ----------
    time
        The present, in Unix seconds, for people.
    now
        The same in monotonic seconds.
    names
        Names that have figures of their own, at the most.
    """

    def __init__(self, time: float, now: float, names: int = MAX_NAMES) -> None:
        self.since = time
        self.timeline = Timeline(now)
        self._limit = names
        self._figures: dict[str, Figures] = {}
        self._histograms: dict[str, Histograms] = {}
        self.total = 0

    def ended(
        self,
        name: str,
        ending: str,
        seconds: float | None,
        waits: Mapping[str, float],
        usage: Usage,
    ) -> None:
        """A transformation has ended.

        Parameters
        ----------
        name
            Of its function.
        ending
            See :data:`.history.Ending`.
        seconds
            From when a worker got it; None if no worker did.
        waits
            Seconds that it waited before, by reason.
        usage
            What its process has reported.
        """
        self.total += 1
        figures = self._of(name)
        figures.endings[ending] = figures.endings.get(ending, 0) + 1
        waited = 0.0
        for reason, time in waits.items():
            figures.waits[reason] += time
            waited += time
        histograms = self._histograms_of(name)
        histograms.waits.add(waited)
        wall = usage.wall
        if wall is None and ending in ("finished", "erred"):
            wall = seconds  # a task of Dask that is none of our workers'
        if wall is None:
            return
        resumed = min(usage.resume_wait or 0.0, wall)
        figures.durations.add(wall)
        histograms.durations.add(wall)
        figures.waits["process"] += resumed
        figures.waits["around"] += max(0.0, (seconds or 0.0) - wall)
        figures.cpu += usage.cpu or 0.0
        figures.memory = max(figures.memory, usage.memory or 0)

    def _of(self, name: str) -> Figures:
        figures = self._figures.get(name)
        if figures is None:
            if len(self._figures) >= self._limit:
                name = OTHER
            figures = self._figures.setdefault(name, Figures())
        return figures

    def _histograms_of(self, name: str) -> Histograms:
        histograms = self._histograms.get(name)
        if histograms is None:
            if len(self._histograms) >= MAX_HISTOGRAMS:
                name = OTHER
            histograms = self._histograms.setdefault(name, Histograms())
        return histograms

    def histograms(self) -> Mapping[str, Histograms]:
        """{name: histograms}; there are at most MAX_HISTOGRAMS names, and OTHER."""
        return self._histograms

    def answer(self, time: float) -> dict[str, Any]:
        """All figures, ready for the wire; names with the longest time in total first.

        Returns ``since`` and ``time`` (Unix seconds), ``total`` (transformations that
        have ended), ``slots`` (see :meth:`Timeline.answer`), and ``names``, a list of::

            name            of the function
            count           transformations that have ended
            computed        of these, how often the code ran to its end
            cached          found in the database by a worker
            failed          failed, or Dask could not run it
            otherwise       cancelled, or nobody wanted it any more
            total, median, p95, longest
                            seconds that the code ran, its calls included; the last three
                            are None if it has never run
            waits           {reason: seconds in total}, see REASONS
            cpu             seconds of CPU time
            memory          peak memory of a process in bytes; None: not known
        """
        rows = [_row(name, figures) for name, figures in self._figures.items()]
        rows.sort(key=lambda row: row["total"], reverse=True)
        return {
            "since": self.since,
            "time": time,
            "total": self.total,
            "names": rows,
            "slots": self.timeline.answer(),
        }


def _row(name: str, figures: Figures) -> dict[str, Any]:
    endings, durations = figures.endings, figures.durations
    count = sum(endings.values())
    failed = endings.get("failed", 0) + endings.get("erred", 0)
    otherwise = endings.get("cancelled", 0) + endings.get("dropped", 0)
    cached = endings.get("cached", 0)
    return {
        "name": name,
        "count": count,
        "computed": count - failed - otherwise - cached,
        "cached": cached,
        "failed": failed,
        "otherwise": otherwise,
        "total": durations.total,
        "median": durations.quantile(0.5),
        "p95": durations.quantile(0.95),
        "longest": durations.longest if durations.count else None,
        "waits": dict(figures.waits),
        "cpu": figures.cpu,
        "memory": figures.memory or None,
    }


class Waits:
    """How long unfinished tasks have waited for what. O(1) per change of state."""

    def __init__(self) -> None:
        #: {key: (its Dask state, since when, {reason: seconds before})}
        self._tasks: dict[str, tuple[str, float, dict[str, float]]] = {}
        #: {Dask state: keys of the tasks in it}, oldest first
        self.by_state: dict[str, dict[str, None]] = {}
        #: since when there are slots; None: there are none
        self.capacity_since: float | None = None

    def capacity(self, slots: int, now: float) -> None:
        """There are so many slots now."""
        if not slots:
            self.capacity_since = None
        elif self.capacity_since is None:
            self.capacity_since = now

    def moved(self, key: str, state: str, now: float, leased: float = 0.0) -> None:
        """An unfinished task has a new Dask state.

        ``leased`` is how long its caller has waited for its lease; it counts once.
        """
        before = self._tasks.get(key)
        if before is None:
            waits = {"slot": leased} if leased else {}
        else:
            waits = self._until(before, now)
            del self.by_state[before[0]][key]
        self._tasks[key] = state, now, waits
        self.by_state.setdefault(state, {})[key] = None

    def ended(self, key: str, now: float) -> dict[str, float]:
        """A task has ended; return {reason: seconds}."""
        before = self._tasks.pop(key, None)
        if before is None:
            return {}
        del self.by_state[before[0]][key]
        return self._until(before, now)

    def clear(self) -> None:
        """All tasks are gone."""
        self._tasks.clear()
        self.by_state.clear()

    def _until(
        self, before: tuple[str, float, dict[str, float]], now: float
    ) -> dict[str, float]:
        state, since, waits = before
        if state == "waiting":
            waits["inputs"] = waits.get("inputs", 0.0) + now - since
        elif state in ("no-worker", "queued"):
            there = now if self.capacity_since is None else self.capacity_since
            there = min(max(there, since), now)
            waits["worker"] = waits.get("worker", 0.0) + there - since
            waits["slot"] = waits.get("slot", 0.0) + now - there
        return waits

"""The log of the permission machine: totals, waiting times, and the latest events."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

from .events import Granted, RefusalKind, Refused, Request, StoryLine
from .lease import Lease

#: Events that are remembered
STORY_LENGTH = 5000
#: Upper bounds of the classes of waiting times, in seconds
WAIT_BOUNDS = (0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


@dataclass
class WaitTimes:
    """A histogram of how long requests waited, in seconds."""

    sum: float = 0.0
    #: one for each class; the last one has no upper bound
    counts: list[int] = field(default_factory=lambda: [0] * (len(WAIT_BOUNDS) + 1))

    def add(self, seconds: float) -> None:
        """Count one request."""
        self.counts[bisect_left(WAIT_BOUNDS, seconds)] += 1
        self.sum += seconds

    def cumulative(self) -> list[tuple[float, int]]:
        """(bound in seconds, requests that waited no longer), the last bound infinite."""
        total = 0
        pairs = []
        for bound, count in zip((*WAIT_BOUNDS, float("inf")), self.counts, strict=True):
            total += count
            pairs.append((bound, total))
        return pairs


@dataclass
class Chronicle:
    """Counts and logs every decision, and builds the answer for the holder.

    It decides nothing.
    """

    #: of the requests that were granted
    wait_times: WaitTimes = field(default_factory=WaitTimes)
    granted_total: int = 0
    refused_total: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("capacity", "cycle", "ceiling"), 0)
    )
    #: slots given out beyond the capacity
    over_capacity_total: int = 0
    #: granted leases that ended, for whatever reason
    ended_total: int = 0
    expired_total: int = 0
    unknown_releases_total: int = 0
    #: transformations that ran elsewhere since they were refused
    fallbacks_total: int = 0
    #: the fields of each :class:`StoryLine`, which is made when it is read
    _events: deque[tuple[float, str, str, str]] = field(
        default_factory=lambda: deque(maxlen=STORY_LENGTH)
    )

    def requested(self, request: Request, now: float) -> None:
        """A lease was entered."""
        self._events.append((now, "requested", request.lease_id, ""))

    def granted(self, lease: Lease, why: str, now: float) -> Granted:
        """A lease was granted; return the decision for its holder."""
        request = lease.request
        self.granted_total += 1
        self.wait_times.add(now - lease.since)
        self._events.append((now, "granted", request.lease_id, why))
        return Granted(request.lease_id, request.holder)

    def refused(
        self, request: Request, kind: RefusalKind, reason: str, now: float
    ) -> Refused:
        """A request was refused; return the decision for its holder."""
        self.refused_total[kind] += 1
        reason = f"{kind}: {reason}"
        self._events.append((now, "refused", request.lease_id, reason))
        return Refused(request.lease_id, request.holder, reason)

    def overtaken(self, request: Request, now: float) -> Refused:
        """A request came after the release of its lease: no caller waits for it."""
        self._events.append((now, "overtaken", request.lease_id, ""))
        reason = "released: the lease was given back before it was granted"
        return Refused(request.lease_id, request.holder, reason)

    def ended(self, lease: Lease, why: str, now: float) -> None:
        """A live lease ended."""
        self.ended_total += lease.granted_at is not None
        self._events.append((now, "ended", lease.request.lease_id, why))

    def story(self, lease_id: str) -> list[StoryLine]:
        """The events of one lease, as far as they are remembered, oldest first."""
        return _lines(event for event in self._events if event[2] == lease_id)

    def latest(self, count: int) -> list[StoryLine]:
        """The last events, oldest first."""
        return _lines(islice(reversed(self._events), count))[::-1]


def _lines(events: Iterable[tuple[float, str, str, str]]) -> list[StoryLine]:
    return [StoryLine(*event) for event in events]

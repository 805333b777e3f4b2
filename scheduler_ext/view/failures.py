"""Remembers which transformations failed, and how: pure, bounded."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

#: Failures that are remembered
MAX_FAILURES = 100
#: Failures in a summary
SUMMARY = 10
#: Names that have a counter of their own; all others share one
MAX_COUNTED = 50
#: The name of that counter
OTHER = "other"


@dataclass(frozen=True)
class Failure:
    """A transformation that failed."""

    #: of its Dask task
    key: str
    #: of the transformation; None if an input failed before it was known
    checksum: str | None
    #: of its function, see :meth:`..functions.Functions.shown`
    name: str
    #: names of those that called it, the nearest first
    callers: tuple[str, ...]
    #: name of the worker, None if it is not known
    worker: str | None
    #: Unix seconds
    time: float
    #: "failed" or "erred", see :data:`.history.Ending`
    ending: str
    #: last line of the error
    line: str
    #: its beginning
    text: str
    #: name and first digits of another transformation that has caused it by failing
    cause: str | None


class Failures:
    """The latest failures, and counters by name.

    One failed transformation may make thousands fail that need its result. So those
    with a cause are forgotten first.
    """

    def __init__(self, limit: int = MAX_FAILURES, counted: int = MAX_COUNTED) -> None:
        self._limit = limit
        self._counted = counted
        self._failures: deque[Failure] = deque()
        #: {name: number}
        self.by_name: dict[str, int] = {}
        self.total = 0

    def add(self, failure: Failure) -> int:
        """Remember a failure, and forget one if there are too many.

        Returns the new value of its counter.
        """
        self.total += 1
        name = failure.name
        if name not in self.by_name and len(self.by_name) >= self._counted:
            name = OTHER
        self.by_name[name] = self.by_name.get(name, 0) + 1
        self._failures.append(failure)
        if len(self._failures) > self._limit:
            caused = (n for n, f in enumerate(self._failures) if f.cause is not None)
            del self._failures[next(caused, 0)]
        return self.by_name[name]

    def latest(self, limit: int = MAX_FAILURES) -> list[Failure]:
        """Up to ``limit`` failures, the newest first."""
        return list(islice(reversed(self._failures), limit))

    def of(self, name: str) -> Failure | None:
        """The last failure of a transformation, None if it is not remembered.

        ``name`` is its checksum, or the key of its task if there is no checksum.
        """
        for failure in reversed(self._failures):
            if name == (failure.checksum or failure.key):
                return failure
        return None

    def summary(self) -> dict[str, Any]:
        """The numbers, and the latest ones without their texts.

        Returns ``total``, ``by_name`` ({name: number}) and ``latest``, a list of up to
        SUMMARY failures, the newest first.
        """
        rows = [asdict(each) for each in self.latest(SUMMARY)]
        for row in rows:
            del row["text"]
        return {"total": self.total, "by_name": dict(self.by_name), "latest": rows}

    def answer(self) -> dict[str, Any]:
        """All of them, ready for the wire.

        Returns ``total``, ``by_name`` ({name: number}) and ``failures``, the newest
        first, with the fields of :class:`Failure`.
        """
        return {
            "total": self.total,
            "by_name": dict(self.by_name),
            "failures": [asdict(each) for each in self.latest()],
        }

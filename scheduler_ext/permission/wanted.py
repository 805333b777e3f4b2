"""Optional work that was refused lately: it is demand, although it does not wait. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

#: seconds for which a refusal counts: longer than the longest pause between two tries
MEMORY = 15.0
#: refusals that are remembered at the most, the latest ones
MOST = 10_000


class Wanted:
    """The names of the transformations, each once."""

    def __init__(self) -> None:
        #: {name: monotonic seconds of the last refusal}, the oldest first
        self._refused: OrderedDict[str, float] = OrderedDict()

    def add(self, name: str, now: float) -> None:
        """A transformation was refused."""
        self._refused.pop(name, None)
        self._refused[name] = now
        if len(self._refused) > MOST:
            self._refused.popitem(last=False)

    def discard(self, name: str) -> None:
        """A transformation is not wanted on the cluster any more, or has a slot now."""
        self._refused.pop(name, None)

    def lately(self, now: float) -> Iterator[str]:
        """Those that were refused lately."""
        while self._refused:
            name, at = next(iter(self._refused.items()))
            if now - at <= MEMORY:
                break
            del self._refused[name]
        return iter(self._refused)

    def count(self, now: float) -> int:
        """How many were refused lately."""
        self.lately(now)
        return len(self._refused)

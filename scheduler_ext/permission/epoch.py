"""The rules for time: what load and patience allow beyond the capacity. Pure."""

from __future__ import annotations

#: Below this load an epoch grants a share of the capacity, ...
LOW_LOAD = 0.5
#: ... from there up to this load a single request, and above it none.
HIGH_LOAD = 0.85
#: The share of the capacity that an epoch with low load grants
LOW_LOAD_SHARE = 0.05


class Epoch:
    """The current epoch; times are monotonic seconds.

    Parameters: ``length`` and ``patience`` are seconds.
    """

    def __init__(self, started: float, length: float, patience: float) -> None:
        self.length = length
        self.patience = patience
        #: requests that cannot wait which it still allows beyond the capacity
        self.allowance = 0
        self._started = started
        #: since when no lease has ended although requests wait, the number of leases
        #: that had ended by then, and when the patience ends
        self._still_since = started
        self._still_ended = 0
        self._still_until = started + patience

    def due(self, now: float) -> bool:
        """Whether the epoch is over."""
        return now - self._started >= self.length

    def begin(
        self, now: float, *, load: float, capacity: int, waiting: bool, ended: int
    ) -> int:
        """Begin another epoch; return how many requests may be granted beyond the capacity.

        ``waiting`` is whether requests wait, ``ended`` the number of leases that have
        ended so far.
        """
        self._started = now
        still = self._stands_still(now, waiting and capacity > 0, ended)
        return max(_quota(load, capacity), still)

    def _stands_still(self, now: float, waiting: bool, ended: int) -> bool:
        """Whether to grant one request since no lease has ended for the patience."""
        if ended != self._still_ended or not waiting:
            self._still_ended = ended
            self._still_since, self._still_until = now, now + self.patience
            return False
        if now < self._still_until:
            return False
        self._still_until = now + (now - self._still_since)
        return True


def _quota(load: float, capacity: int) -> int:
    if not capacity or load > HIGH_LOAD:
        return 0
    if load < LOW_LOAD:
        return max(1, int(capacity * LOW_LOAD_SHARE))
    return 1

"""Remembers which leases were released: pure, bounded.

A client asks by a call and releases on its stream, so these travel on different
connections, and a request whose reply was lost is sent again. So a release may arrive before its request,
and a copy of the request after the release. Granting such a request would waste a slot.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

#: seconds for which a release is remembered: longer than any message travels
MEMORY = 600.0
#: releases that are remembered at the most, the latest ones
MOST = 50_000


@dataclass
class Released:
    """The leases that were released lately."""

    #: {(holder, lease id): monotonic seconds}, oldest first
    _at: OrderedDict[tuple[str, str], float] = field(default_factory=OrderedDict)

    def add(self, holder: str, lease_id: str, now: float) -> None:
        """A holder has released a lease, whether it was known or not."""
        at = self._at
        at[holder, lease_id] = now
        at.move_to_end((holder, lease_id))
        while len(at) > MOST or now - next(iter(at.values())) > MEMORY:
            at.popitem(last=False)

    def has(self, holder: str, lease_id: str) -> bool:
        """Whether a holder has released this lease."""
        return (holder, lease_id) in self._at

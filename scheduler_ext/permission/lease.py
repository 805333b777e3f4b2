"""The entries of the ledger: a lease, and a key.

They refer to each other, so that an event needs few look-ups.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from .events import Request
from .needs import Needs


@dataclass(slots=True)
class KeyState:
    """A key that live leases are bound to, that requested live leases, or both."""

    key: str
    #: whether it has a slot; then every lease bound to it is granted
    admitted: bool = False
    #: whether leases are bound to it and its task exists on the scheduler
    seen: bool = False
    #: {lease id: None} of the leases that it requested, oldest first
    owned: dict[str, None] = field(default_factory=dict)
    #: the oldest and the newest lease bound to it; each knows its neighbours
    first: Lease | None = None
    last: Lease | None = field(default=None, compare=False, repr=False)

    def append(self, lease: Lease) -> None:
        """Bind a lease."""
        if self.last is None:
            self.first = lease
        else:
            lease.before = self.last
            self.last.after = lease
        self.last = lease

    def remove(self, lease: Lease) -> None:
        """Take out a lease that is bound to this key."""
        before, after = lease.before, lease.after
        if before is None:
            self.first = after
        else:
            before.after = after
        if after is None:
            self.last = before
        else:
            after.before = before

    def __iter__(self) -> Iterator[Lease]:
        """The leases bound to the key, oldest first."""
        lease = self.first
        while lease is not None:
            yield lease
            lease = lease.after


@dataclass(slots=True)
class Lease:
    """A live request: waiting while ``granted_at`` is None, granted afterwards."""

    request: Request
    #: position in the order of arrival
    number: int
    #: monotonic seconds
    since: float
    #: {lease id: None} of all leases of its holder
    held: dict[str, None] = field(repr=False)
    #: the states of its key and of its owner, if it has them
    state: KeyState | None = field(compare=False, repr=False)
    owner: KeyState | None = field(compare=False, repr=False)
    #: monotonic seconds
    granted_at: float | None = None
    #: neighbours among the leases that are bound to the same key
    before: Lease | None = field(default=None, compare=False, repr=False)
    after: Lease | None = field(default=None, repr=False)

    @property
    def needs(self) -> Needs:
        """What its transformation needs on its worker."""
        return self.request.needs

"""The book of leases: who asked for what, who waits for whom, what is admitted.

Mechanism only. Which request is admitted, and when, is decided in
:mod:`scheduler_ext.permissions`; nothing here knows about capacity or time limits.

Rules of the book:

- A lease is *waiting* or *granted*; both are *live*. An ended lease is forgotten.
- The leases bound to one key share one slot, so they are all waiting or all granted.
  A lease without a key ("unbound") has a slot of its own.
- A key *waits* while a lease that it requested (as ``owner``) is live. A key that is
  admitted and waits is *lent*: somebody else may use its slot.

Every operation costs O(log waiting) or less, apart from those that return several
leases (they cost as much as they return) and :meth:`Ledger.path`.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from .events import Request

#: The heap may hold this many dead entries more than live ones before it is rebuilt.
_HEAP_SLACK = 64


@dataclass(slots=True)
class Lease:
    """A live request: waiting while ``granted_at`` is None, granted afterwards."""

    request: Request
    #: position in the order of arrival
    number: int
    #: monotonic seconds
    since: float
    #: monotonic seconds
    granted_at: float | None = None


class Ledger:
    """Live leases with the indices and counters that make every question cheap."""

    def __init__(self) -> None:
        #: {lease id: lease}
        self.leases: dict[str, Lease] = {}
        #: number of keys that are admitted and wait
        self.lent = 0
        self._arrivals = 0
        #: {lease id: None}, oldest first
        self._waiting: dict[str, None] = {}
        #: heap of (-depth, number, lease id); entries of dead leases are skipped
        self._queue: list[tuple[int, int, str]] = []
        #: {holder, task key or owner: {lease id: None}}
        self._by_holder: dict[str, dict[str, None]] = {}
        self._by_key: dict[str, dict[str, None]] = {}
        self._by_owner: dict[str, dict[str, None]] = {}
        #: keys that have a slot; every lease bound to one of these is granted
        self._admitted: set[str] = set()
        #: keys of live leases whose task exists on the scheduler
        self._seen: set[str] = set()
        #: {lease id: granted at}, oldest first: granted, but the task never appeared
        self._unseen_since: OrderedDict[str, float] = OrderedDict()
        #: {lease id: granted at}, oldest first: granted and bound to no task
        self._unbound_since: OrderedDict[str, float] = OrderedDict()
        #: number of waiting leases that are bound to no task
        self._unbound_waiting = 0

    # -- questions ---------------------------------------------------------------

    @property
    def admitted(self) -> int:
        """Number of slots given out, lent ones included."""
        return len(self._admitted) + len(self._unbound_since)

    @property
    def slots_in_use(self) -> int:
        """Number of slots given out whose holder does not wait."""
        return self.admitted - self.lent

    @property
    def waiting(self) -> int:
        """Number of waiting leases."""
        return len(self._waiting)

    def is_admitted(self, key: str | None) -> bool:
        """Whether a lease for this key would join a slot that exists."""
        return key in self._admitted

    def is_known(self, key: str) -> bool:
        """Whether a live lease is bound to this key."""
        return key in self._by_key

    def is_waiting(self, key: str) -> bool:
        """Whether this key waits for what it requested."""
        return key in self._by_owner

    def owners(self) -> Iterable[str]:
        """The keys that wait for what they requested."""
        return self._by_owner.keys()

    def would_lend(self, owner: str | None) -> bool:
        """Whether one more request by this owner would lend out its slot."""
        return owner in self._admitted and owner not in self._by_owner

    def holds(self, holder: str) -> bool:
        """Whether a holder has live leases."""
        return holder in self._by_holder

    def held_by(self, holder: str) -> list[str]:
        """Ids of the live leases of a holder, oldest first."""
        return list(self._by_holder.get(holder, ()))

    def bound_to(self, key: str) -> list[str]:
        """Ids of the live leases bound to a key, oldest first."""
        return list(self._by_key.get(key, ()))

    def oldest_waiting(self, limit: int) -> list[Lease]:
        """Up to ``limit`` waiting leases, oldest first."""
        return [self.leases[i] for i in islice(self._waiting, limit)]

    @property
    def unsubmitted(self) -> int:
        """Number of transformations that have live leases but no task yet.

        Those that wait without a key count one each.
        """
        return len(self._by_key) - len(self._seen) + self._unbound_waiting

    def oldest_unsubmitted(self, limit: int) -> list[Lease]:
        """Leases of such transformations: up to ``limit`` waiting, as many granted."""
        ids = [*islice(self._unseen_since, limit), *islice(self._waiting, limit)]
        leases = [self.leases[lease_id] for lease_id in ids]
        return [lease for lease in leases if lease.request.key not in self._seen]

    def keys(self) -> Iterable[str]:
        """The keys that live leases are bound to."""
        return self._by_key.keys()

    def requests_for(self, key: str) -> list[Request]:
        """What was requested for a key and is live, oldest first."""
        return [self.leases[lease_id].request for lease_id in self.bound_to(key)]

    def owned_by(self, key: str) -> list[str]:
        """Ids of the live leases that a transformation requested, oldest first."""
        return list(self._by_owner.get(key, ()))

    def requested_by(self, key: str) -> list[Request]:
        """What a transformation requested and is live, oldest first."""
        return [self.leases[lease_id].request for lease_id in self.owned_by(key)]

    def holding(self, limit: int) -> list[str]:
        """Up to ``limit`` keys whose slots are in use."""
        using = (key for key in self._admitted if key not in self._by_owner)
        return list(islice(using, limit))

    def position(self, lease: Lease) -> int:
        """Which of the waiting leases a waiting lease is, in their order from 1."""
        own = (-lease.request.depth, lease.number)
        others = (self.leases[lease_id] for lease_id in self._waiting)
        return 1 + sum((-o.request.depth, o.number) < own for o in others)

    def head(self) -> Lease | None:
        """The waiting lease whose turn it is: the deepest, then the oldest."""
        while self._queue:
            _, number, lease_id = self._queue[0]
            if self._is_queued(number, lease_id):
                return self.leases[lease_id]
            heapq.heappop(self._queue)
        return None

    def path(self, start: str, goal: str) -> list[str] | None:
        """Keys from ``start`` to ``goal`` along "waits for", or None without one.

        A depth-first walk over what ``start`` waits for. It ends at once when nobody
        waits for ``goal`` or ``start`` waits for nobody, which is nearly always.
        """
        if start == goal:
            return [start]
        if goal not in self._by_key or start not in self._by_owner:
            return None
        came_from: dict[str, str] = {start: start}
        todo = [start]
        while todo:
            here = todo.pop()
            for lease_id in self._by_owner.get(here, ()):
                key = self.leases[lease_id].request.key
                if key is None or key in came_from:
                    continue
                came_from[key] = here
                if key == goal:
                    steps = [goal]
                    while steps[-1] != start:
                        steps.append(came_from[steps[-1]])
                    return steps[::-1]
                todo.append(key)
        return None

    # -- changes -----------------------------------------------------------------

    def open(self, request: Request, now: float) -> Lease:
        """Enter a new lease as waiting; the caller knows that its id is free."""
        self._arrivals += 1
        lease = Lease(request, self._arrivals, now)
        lease_id = request.lease_id
        self.leases[lease_id] = lease
        self._waiting[lease_id] = None
        if len(self._queue) > 2 * len(self._waiting) + _HEAP_SLACK:
            self._queue = [
                entry for entry in self._queue if self._is_queued(*entry[1:])
            ]
            heapq.heapify(self._queue)
        heapq.heappush(self._queue, (-request.depth, lease.number, lease_id))
        self._by_holder.setdefault(request.holder, {})[lease_id] = None
        if request.key is None:
            self._unbound_waiting += 1
        else:
            self._by_key.setdefault(request.key, {})[lease_id] = None
        if request.owner is not None:
            if self.would_lend(request.owner):
                self.lent += 1
            self._by_owner.setdefault(request.owner, {})[lease_id] = None
        return lease

    def admit(self, lease: Lease, now: float) -> list[Lease]:
        """Grant a waiting lease and, when its key is new, all that wait for that key.

        Returns the leases granted, ``lease`` first.
        """
        key = lease.request.key
        granted = [lease]
        if key is not None and key not in self._admitted:
            self._admitted.add(key)
            if key in self._by_owner:
                self.lent += 1
            others = (self.leases[lease_id] for lease_id in self._by_key[key])
            granted += [other for other in others if other is not lease]
        for each in granted:
            lease_id = each.request.lease_id
            each.granted_at = now
            del self._waiting[lease_id]
            if key is None:
                self._unbound_waiting -= 1
                self._unbound_since[lease_id] = now
            elif key not in self._seen:
                self._unseen_since[lease_id] = now
        return granted

    def close(self, lease: Lease) -> None:
        """Forget a live lease; the last one of a key frees the slot."""
        request = lease.request
        lease_id = request.lease_id
        del self.leases[lease_id]
        self._waiting.pop(lease_id, None)
        self._unseen_since.pop(lease_id, None)
        self._unbound_since.pop(lease_id, None)
        _discard(self._by_holder, request.holder, lease_id)
        owner, key = request.owner, request.key
        self._unbound_waiting -= key is None and lease.granted_at is None
        if owner is not None and _discard(self._by_owner, owner, lease_id):
            if owner in self._admitted:
                self.lent -= 1
        if key is not None and _discard(self._by_key, key, lease_id):
            self._seen.discard(key)
            if key in self._admitted:
                self._admitted.remove(key)
                if key in self._by_owner:
                    self.lent -= 1

    def see(self, key: str) -> None:
        """Note that the task of a known key exists; its leases wait for its end."""
        if key in self._by_key and key not in self._seen:
            self._seen.add(key)
            for lease_id in self._by_key[key]:
                self._unseen_since.pop(lease_id, None)

    def lose(self, key: str) -> bool:
        """Note that the task of a key is gone; return whether it had been seen."""
        seen = key in self._seen
        self._seen.discard(key)
        return seen

    def overdue(
        self, now: float, start_timeout: float, unbound_timeout: float
    ) -> list[Lease]:
        """Granted leases that outlived their timeout (seconds)."""
        overdue: list[Lease] = []
        for since, timeout in (
            (self._unseen_since, start_timeout),
            (self._unbound_since, unbound_timeout),
        ):
            for lease_id, granted_at in since.items():
                if now - granted_at < timeout:
                    break
                overdue.append(self.leases[lease_id])
        return overdue

    # -- consistency -------------------------------------------------------------

    def problems(self) -> list[tuple[str | None, str]]:
        """Recompute every index and counter; return (lease id, complaint) pairs."""
        found: list[tuple[str | None, str]] = []
        granted = {i for i, v in self.leases.items() if v.granted_at is not None}
        requests = {i: v.request for i, v in self.leases.items()}
        bound = {i: r.key for i, r in requests.items() if r.key is not None}
        owned = {i: r.owner for i, r in requests.items() if r.owner is not None}
        admitted = {key for i, key in bound.items() if i in granted}
        unseen = {i for i in granted & bound.keys() if bound[i] not in self._seen}
        expected = {
            "_waiting": (set(self._waiting), requests.keys() - granted),
            "_admitted": (self._admitted, admitted),
            "_by_holder": (
                self._by_holder,
                _grouped({i: r.holder for i, r in requests.items()}),
            ),
            "_by_key": (self._by_key, _grouped(bound)),
            "_by_owner": (self._by_owner, _grouped(owned)),
            "_unseen_since": (set(self._unseen_since), unseen),
            "_unbound_since": (set(self._unbound_since), granted - bound.keys()),
            "lent": (self.lent, len(admitted & set(owned.values()))),
            "_seen": (self._seen, self._seen & set(bound.values())),
            "_unbound_waiting": (
                self._unbound_waiting,
                len(requests.keys() - granted - bound.keys()),
            ),
        }
        for name, (kept, recomputed) in expected.items():
            if kept != recomputed:
                found.append((None, f"{name} is {kept!r}, should be {recomputed!r}"))
        queued = {entry[2] for entry in self._queue if self._is_queued(*entry[1:])}
        for lease_id, lease in self.leases.items():
            if lease.request.lease_id != lease_id:
                found.append((lease_id, "is filed under another id"))
            if bound.get(lease_id) in admitted and lease_id not in granted:
                found.append((lease_id, "waits although its key is admitted"))
            if (lease_id in self._waiting) != (lease_id in queued):
                found.append((lease_id, "is in the queue or waits, but not both"))
        return found

    def _is_queued(self, number: int, lease_id: str) -> bool:
        """Whether a heap entry stands for a lease that still waits."""
        return lease_id in self._waiting and self.leases[lease_id].number == number


def _discard(index: dict[str, dict[str, None]], name: str, lease_id: str) -> bool:
    """Take an id out of an index; return whether it was the last under that name."""
    ids = index[name]
    del ids[lease_id]
    if ids:
        return False
    del index[name]
    return True


def _grouped(names: dict[str, str]) -> dict[str, dict[str, None]]:
    """{lease id: name} turned into {name: {lease id: None}}."""
    groups: dict[str, dict[str, None]] = {}
    for lease_id, name in names.items():
        groups.setdefault(name, {})[lease_id] = None
    return groups

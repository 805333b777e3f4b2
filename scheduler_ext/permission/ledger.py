"""The ledger: all live leases, their owners and keys, and which are admitted.

Mechanism only: :mod:`scheduler_ext.permission.machine` decides which request is
admitted, and when. This module knows nothing about capacity or time limits.

Rules of the ledger:

- A lease is *waiting* or *granted*; both are *live*. An ended lease is forgotten.
- The leases bound to one key share one slot, so they are all waiting or all granted.
  A lease without a key ("unbound") has a slot of its own.
- A key *waits* while a lease that it requested (as ``owner``) is live. A key that is
  admitted and waits is *lent*: another transformation may use its slot.

Every operation costs O(log depths) or less, apart from those that return several
leases (they cost as much as they return), :meth:`Ledger.path` and :meth:`Ledger.position`. With many live leases most time is lost to cache misses of
the processor. Therefore one object has all data of a key, a lease refers to its key,
owner and holder, and events make as few look-ups as possible.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice
from typing import TypeVar

from .events import Request
from .lease import KeyState, Lease
from .line import Line

T = TypeVar("T")


class Ledger:
    """Live leases with the indices and counters that make every question cheap."""

    def __init__(self) -> None:
        #: {lease id: lease}
        self.leases: dict[str, Lease] = {}
        #: number of slots given out, lent ones included
        self.admitted = 0
        #: number of keys that are admitted and wait
        self.lent = 0
        #: number of keys of live leases whose task exists on the scheduler
        self._seen = 0
        self._arrivals = 0
        #: the waiting leases
        self.line: Line[Lease] = Line()
        #: {holder: {lease id: None}}
        self._by_holder: dict[str, dict[str, None]] = {}
        #: {key: state} of the keys that leases are bound to, ...
        self._bound: dict[str, KeyState] = {}
        #: ... and of the keys that requested leases: the same object for the same key
        self._owners: dict[str, KeyState] = {}
        #: {number: lease}, oldest grant first: granted, but the task never appeared
        self._unseen: OrderedDict[int, Lease] = OrderedDict()
        #: {number: lease}, oldest grant first: granted and bound to no task
        self._unbound: OrderedDict[int, Lease] = OrderedDict()
        #: number of waiting leases that are bound to no task
        self._unbound_waiting = 0

    # -- questions ---------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Number of waiting leases."""
        return len(self.line)

    @property
    def computing(self) -> int:
        """Number of admitted keys that do not wait."""
        return self.admitted - self.lent

    def is_admitted(self, key: str | None) -> bool:
        """Whether a lease for this key would join a slot that exists."""
        state = None if key is None else self._bound.get(key)
        return state is not None and state.admitted

    def is_known(self, key: str) -> bool:
        """Whether a live lease is bound to this key."""
        return key in self._bound

    def is_waiting(self, key: str) -> bool:
        """Whether this key waits for leases that it requested."""
        return key in self._owners

    def owners(self) -> Iterable[str]:
        """The keys that wait for leases that they requested."""
        return self._owners.keys()

    def holds(self, holder: str) -> bool:
        """Whether a holder has live leases."""
        return holder in self._by_holder

    def held_by(self, holder: str) -> list[str]:
        """Ids of the live leases of a holder, oldest first."""
        return list(self._by_holder.get(holder, ()))

    def bound_to(self, key: str) -> list[str]:
        """Ids of the live leases bound to a key, oldest first."""
        return [lease.request.lease_id for lease in self.leases_for(key)]

    def leases_for(self, key: str) -> list[Lease]:
        """The live leases bound to a key, oldest first."""
        return list(self._bound.get(key, ()))

    def oldest_waiting(self, limit: int) -> list[Lease]:
        """Up to ``limit`` waiting leases, oldest first."""
        return list(islice(self.line.oldest(), limit))

    @property
    def unsubmitted(self) -> int:
        """Number of transformations that have live leases but no task yet.

        Waiting leases without a key count one each.
        """
        return len(self._bound) - self._seen + self._unbound_waiting

    def oldest_unsubmitted(self, limit: int) -> list[Lease]:
        """Leases of such transformations: up to ``limit`` waiting, as many granted."""
        granted = islice(self._unseen.values(), limit)
        leases = [*granted, *self.oldest_waiting(limit)]
        return [v for v in leases if v.state is None or not v.state.seen]

    def keys(self) -> Iterable[str]:
        """The keys that live leases are bound to."""
        return self._bound.keys()

    def requests_for(self, key: str) -> list[Request]:
        """The live requests for a key, oldest first."""
        return [lease.request for lease in self.leases_for(key)]

    def owned_by(self, key: str) -> list[str]:
        """Ids of the live leases that a transformation requested, oldest first."""
        owner = self._owners.get(key)
        return list(owner.owned) if owner else []

    def requested_by(self, key: str) -> list[Request]:
        """The live requests of a transformation, oldest first."""
        return [self.leases[lease_id].request for lease_id in self.owned_by(key)]

    def position(self, lease: Lease) -> int:
        """The position of a waiting lease in the order of grants, from 1."""
        return self.line.position(lease.request.depth, lease.number)

    def head(self) -> Lease | None:
        """The deepest waiting lease, of equal ones the oldest."""
        heads = self.line.heads()
        return heads[0][2] if heads else None

    def next_number(self) -> int:
        """The next number of arrival."""
        self._arrivals += 1
        return self._arrivals

    def path(self, start: str, goal: str) -> list[str] | None:
        """Keys from ``start`` to ``goal`` along "waits for", or None without one.

        A depth-first walk over the keys that ``start`` waits for. It ends at once when
        no key waits for ``goal`` or ``start`` waits for no key, which is nearly always.
        """
        if start == goal:
            return [start]
        if goal not in self._bound or start not in self._owners:
            return None
        came_from: dict[str, str] = {start: start}
        todo = [start]
        while todo:
            here = todo.pop()
            for lease_id in self.owned_by(here):
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
        """Enter a new lease as waiting; the caller has checked that its id is free."""
        lease_id, key, owner_key = request.lease_id, request.key, request.owner
        held = self._by_holder.get(request.holder)
        if held is None:
            held = self._by_holder[request.holder] = {}
        held[lease_id] = None
        state = owner = None
        if key is not None:
            state = self._bound.get(key)
            if state is None:
                state = self._owners.get(key) or KeyState(key)
                self._bound[key] = state
        if owner_key is not None:
            owner = self._owners.get(owner_key)
            if owner is None:
                owner = self._bound.get(owner_key) or KeyState(owner_key)
                self._owners[owner_key] = owner
                self.lent += owner.admitted
            owner.owned[lease_id] = None
        number = self.next_number()
        lease = Lease(request, number, now, held, state, owner)
        if state is None:
            self._unbound_waiting += 1
        else:
            state.append(lease)
        self.leases[lease_id] = lease
        self.line.add(request.needs, request.depth, number, lease)
        return lease

    def admit(self, lease: Lease, now: float) -> list[Lease]:
        """Grant a waiting lease and, when its key is new, all leases waiting for it.

        Returns the leases granted, ``lease`` first.
        """
        state = lease.state
        granted = [lease]
        if state is None:
            self.admitted += 1
        elif not state.admitted:
            state.admitted = True
            self.admitted += 1
            self.lent += bool(state.owned)
            granted += [other for other in state if other is not lease]
        for each in granted:
            each.granted_at = now
            self._stop_waiting(each)
            if state is None:
                self._unbound[each.number] = each
            elif not state.seen:
                self._unseen[each.number] = each
        return granted

    def close(self, lease: Lease) -> None:
        """Forget a live lease; the last one of a key frees the slot."""
        request, state, owner = lease.request, lease.state, lease.owner
        lease_id = request.lease_id
        del self.leases[lease_id]
        del lease.held[lease_id]
        if not lease.held:
            del self._by_holder[request.holder]
        if lease.granted_at is None:
            self._stop_waiting(lease)
        elif state is None:
            del self._unbound[lease.number]
            self.admitted -= 1
        elif not state.seen:
            self._unseen.pop(lease.number, None)
        if owner is not None:
            del owner.owned[lease_id]
            if not owner.owned:
                del self._owners[owner.key]
                self.lent -= owner.admitted
        if state is not None:
            state.remove(lease)
            if state.first is None:
                del self._bound[state.key]
                self._seen -= state.seen
                self.admitted -= state.admitted
                self.lent -= state.admitted and bool(state.owned)
                state.seen = state.admitted = False

    def _stop_waiting(self, lease: Lease) -> None:
        self._unbound_waiting -= lease.state is None
        self.line.remove(lease.needs, lease.request.depth, lease.number)

    def see(self, key: str) -> None:
        """Note that the task of a known key exists; its leases wait for its end."""
        state = self._bound.get(key)
        if state is not None and not state.seen:
            state.seen = True
            self._seen += 1
            for lease in state:
                self._unseen.pop(lease.number, None)

    def lose(self, key: str) -> bool:
        """Note that the task of a key is gone; return whether it had been seen."""
        state = self._bound.get(key)
        if state is None or not state.seen:
            return False
        state.seen = False
        self._seen -= 1
        return True

    def overdue(
        self, now: float, start_timeout: float, unbound_timeout: float
    ) -> list[Lease]:
        """Granted leases that outlived their timeout (seconds)."""
        overdue: list[Lease] = []
        for leases, timeout in (
            (self._unseen, start_timeout),
            (self._unbound, unbound_timeout),
        ):
            for lease in leases.values():
                assert lease.granted_at is not None
                if now - lease.granted_at < timeout:
                    break
                overdue.append(lease)
        return overdue

    # -- consistency -------------------------------------------------------------

    def problems(self) -> list[tuple[str | None, str]]:
        """Recompute every index and counter; return (lease id, complaint) pairs."""
        found: list[tuple[str | None, str]] = []
        granted = {i for i, v in self.leases.items() if v.granted_at is not None}
        requests = {i: v.request for i, v in self.leases.items()}
        bound = {i: r.key for i, r in requests.items() if r.key is not None}
        owned = {i: r.owner for i, r in requests.items() if r.owner is not None}
        depths = {i: r.depth for i, r in requests.items() if i not in granted}
        admitted = {key for i, key in bound.items() if i in granted}
        seen = {key for key, state in self._bound.items() if state.seen}
        states = self._owners | self._bound
        expected = {
            "line": (_ids(self.line.oldest()), dict.fromkeys(depths)),
            "waiting": (self.waiting, len(depths)),
            "_unbound_waiting": (
                self._unbound_waiting,
                len(depths.keys() - bound.keys()),
            ),
            "_by_holder": (
                self._by_holder,
                _grouped({i: r.holder for i, r in requests.items()}),
            ),
            "_bound": ({k: _ids(v) for k, v in self._bound.items()}, _grouped(bound)),
            "_owners": (
                {k: v.owned for k, v in states.items() if v.owned},
                _grouped(owned),
            ),
            "admitted keys": ({k for k, v in states.items() if v.admitted}, admitted),
            "admitted": (self.admitted, len(admitted) + len(granted - bound.keys())),
            "lent": (self.lent, len(admitted & set(owned.values()))),
            "seen keys": ({k for k, v in states.items() if v.seen}, seen),
            "_seen": (self._seen, len(seen)),
            "_unseen": (
                _ids(self._unseen.values()).keys(),
                {i for i in granted & bound.keys() if bound[i] not in seen},
            ),
            "_unbound": (_ids(self._unbound.values()).keys(), granted - bound.keys()),
        }
        for name, (kept, recomputed) in expected.items():
            if kept != recomputed:
                found.append((None, f"{name} is {kept!r}, should be {recomputed!r}"))
        for lease_id, lease in self.leases.items():
            request = lease.request
            if request.lease_id != lease_id:
                found.append((lease_id, "is filed under another id"))
            if bound.get(lease_id) in admitted and lease_id not in granted:
                found.append((lease_id, "waits although its key is admitted"))
            parts = lease.held, lease.state, lease.owner
            of_book = (
                self._by_holder.get(request.holder),
                self._bound.get(request.key or ""),
                self._owners.get(request.owner or ""),
            )
            if any(a is not b for a, b in zip(parts, of_book, strict=True)):
                found.append((lease_id, "knows another holder, key or owner"))
        for key in self._owners.keys() & self._bound.keys():
            if self._owners[key] is not self._bound[key]:
                found.append((None, f"{key!r} has two states"))
        return found


def _ids(leases: Iterable[Lease]) -> dict[str, None]:
    return {lease.request.lease_id: None for lease in leases}


def _grouped(names: dict[str, T]) -> dict[T, dict[str, None]]:
    """{lease id: name} turned into {name: {lease id: None}}."""
    groups: dict[T, dict[str, None]] = {}
    for lease_id, name in names.items():
        groups.setdefault(name, {})[lease_id] = None
    return groups

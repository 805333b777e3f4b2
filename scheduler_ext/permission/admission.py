"""Who gets a slot: the steps by which the permission machine follows its rules. Pure.

For the rules see :mod:`.machine`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .books import Books
from .events import Decision, Refused, Request, Start
from .held import Held
from .lease import Lease
from .needs import Needs

#: Keys of a cycle that are spelled out in the reason of a refusal
_CYCLE_SHOWN = 16


class Admission(Books):
    """Gives slots to what waits, and takes them back."""

    def _admit_waiting(self, now: float) -> list[Decision]:
        """Rule 2 for what waits, and the ceiling of rule 5."""
        decisions: list[Decision] = []
        ledger = self._ledger
        while self.capacity and (ledger.waiting or self._held):
            full = ledger.admitted >= self.ceiling
            for entry in self._heads():
                if full and isinstance(entry, Lease):
                    if ledger.computing == 0:
                        decisions.append(self._refuse_at_ceiling(entry, now))
                        break
                    continue
                address = self._spot(entry)
                if address is not None:
                    decisions += self._give(entry, address, "slot free", now)
                    break
            else:
                break
        return decisions

    def _heads(self) -> Iterator[Lease | Held]:
        """The first of each kind that waits, the deepest first; tasks before requests."""
        held, leases = self._held.line.heads(), self._ledger.line.heads()
        while held or leases:
            if held and (not leases or held[0][0] >= leases[0][0]):
                yield held.pop(0)[2]
            else:
                yield leases.pop(0)[2]

    def _spot(self, entry: Lease | Held) -> str | None:
        """The address of a worker with a free slot for what waits."""
        prefer = entry.request.holder if isinstance(entry, Lease) else None
        return self._places.find(entry.needs, prefer)

    def _give(
        self, entry: Lease | Held, address: str, why: str, now: float
    ) -> list[Decision]:
        """Give a slot of a worker to a request or task that waits."""
        if isinstance(entry, Lease):
            return self._admit(entry, why, now, address)
        self._held.remove(entry.key)
        self._take_slot(entry.key, address, entry.needs)
        return [Start(entry.key)]

    def _exceed(self, why: str, now: float, least_depth: int = 0) -> list[Decision]:
        """Let one of those that wait start, whether a slot is free or not.

        Tasks that are less deep than ``least_depth`` have to wait.
        """
        full = self._ledger.admitted >= self.ceiling
        for entry in self._heads():
            if full if isinstance(entry, Lease) else entry.depth < least_depth:
                continue
            address = self._spot(entry) or self._places.least_loaded(entry.needs)
            if address is not None:
                return self._give(entry, address, why, now)
            if isinstance(entry, Lease):
                # No worker fits; once it is submitted, the task waits for one that does.
                return self._admit(entry, why, now, None)
        return []

    def _try(self, request: Request, now: float) -> list[Decision]:
        """Rule 2 for a request that cannot wait, then the allowance of rule 3."""
        ledger = self._ledger
        head = ledger.head()
        overtakes = head is not None and head.request.depth >= request.depth
        lease = self._open(request, now)  # lends the slot of its owner
        if not overtakes and ledger.admitted < self.ceiling:
            address = self._spot(lease)
            allowed = self._epoch.allowance > 0 and not self._epoch.due(now)
            if address is None and allowed:
                address = self._places.least_loaded(request.needs)
                self._epoch.allowance -= address is not None
            if address is not None:
                self._wanted.discard(_name(lease))
                admitted = self._admit(lease, "tried", now, address)
                return admitted + self._admit_waiting(now)
        reason = self.why_waiting()
        self._close_silently(lease)
        self._wanted.add(_name(lease), now)
        return [self._chronicle.refused(request, "capacity", reason, now)]

    def _cycle(self, request: Request) -> str | None:
        """Why the request would wait for itself, or None if it would not."""
        if request.key is None or request.owner is None:
            return None
        path = self._ledger.path(request.key, request.owner)
        if path is None:
            return None
        keys = [request.owner, *path]
        if len(keys) > _CYCLE_SHOWN:
            half = _CYCLE_SHOWN // 2
            keys[half:-half] = [f"({len(keys) - 2 * half} more)"]
        return f"{' -> '.join(keys)}: it would wait for itself for ever"

    # -- steps -------------------------------------------------------------------

    def _open(self, request: Request, now: float) -> Lease:
        self._chronicle.requested(request, now)
        lease = self._ledger.open(request, now)
        if lease.owner is not None and len(lease.owner.owned) == 1:
            self._places.set(lease.owner.key, waits=True)
        return lease

    def _admit(
        self, lease: Lease, why: str, now: float, address: str | None = None
    ) -> list[Decision]:
        """Grant a lease, and those that join it; ``address`` is where its slot is.

        None means that its transformation has a slot, or that no worker fits.
        """
        key = _name(lease)
        decisions: list[Decision] = [
            self._chronicle.granted(each, why, now)
            for each in self._ledger.admit(lease, now)
        ]
        if address is not None and self._places.of(key) is None:
            self._take_slot(key, address, lease.request.needs)
        if key in self._held and self._places.of(key) is not None:
            self._held.remove(key)
            decisions.append(Start(key))
        return decisions

    def _take_slot(self, key: str, address: str, needs: Needs) -> None:
        waits = self._ledger.is_waiting(key)
        free = self._places.sites[address].free
        self._chronicle.over_capacity_total += not (free or waits)
        self._places.put(key, address, needs, waits=waits)

    def _hold(self, key: str, depth: int, needs: Needs) -> None:
        """Let a task wait for a slot."""
        self._leave(key)
        self._held.add(Held(key, depth, self._ledger.next_number(), needs))

    def _leave(self, key: str) -> None:
        """A task has no place any more, and does not wait for one."""
        self._held.remove(key)
        self._places.drop(key)

    def _refuse_at_ceiling(self, lease: Lease, now: float) -> Refused:
        held = self._ledger.admitted
        self._close_silently(lease)
        reason = (
            f"{held} transformations wait for nested ones, which is the limit of "
            f"{len(self._workers)} workers ({self.ceiling})"
        )
        return self._chronicle.refused(lease.request, "ceiling", reason, now)

    def _end(self, leases: Iterable[Lease], why: str, now: float) -> list[Decision]:
        """End leases, then give the slots that they free to waiting requests."""
        for lease in leases:
            self._close(lease, why, now)
        return self._admit_waiting(now)

    def _close(self, lease: Lease, why: str, now: float) -> None:
        self._close_silently(lease)
        self._chronicle.ended(lease, why, now)

    def _close_silently(self, lease: Lease) -> None:
        owner, state = lease.owner, lease.state
        self._ledger.close(lease)
        if owner is not None and not owner.owned:
            self._places.set(owner.key, waits=False)
        if state is None or state.first is None:
            name = _name(lease)
            place = self._places.of(name)
            if place is not None and not place.task:
                self._places.drop(name)  # its task will not come


def _name(lease: Lease) -> str:
    """The name under which a transformation has its place."""
    return lease.request.key or f"lease {lease.request.lease_id}"

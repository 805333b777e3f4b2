"""The permission machine: which transformation may run, where, and when.

Pure: no I/O and no clock. Events go in together with the time (monotonic seconds),
decisions come out, and the caller delivers them. An illegal event raises
:class:`IllegalEvent` and changes nothing.

A transformation that calls others is a task that waits for tasks. If every slot of
the cluster could be held by a task that waits, nothing would ever finish. The rules:

1. A worker has processes x throttle slots; the *capacity* is their sum. A transformation,
   top-level or nested, takes a slot of *one* worker from the decision that it may start
   until its code has ended, except while it waits for nested ones: then its slot is
   lent. Storing its result takes no slot. Resuming never blocks: a transformation takes
   its slot back when its last nested lease ends, even if its worker has none free.
2. A request for nested work, and a task that Dask is ready to send, gets a slot at once if
   a worker that fits has a free one: the caller's worker if possible, else the one with
   the most free slots. Otherwise it waits. The deepest comes first, in order of arrival
   within one depth. Breadth first would hold exponentially many waiting transformations
   at the same time; depth first holds about capacity x depth. A request for a key that is
   admitted, or whose task is on a worker, joins it without a slot.
3. At the end of an *epoch* the load decides how many requests are granted beyond the
   capacity. If the waiting requests do not use all of these grants, the remainder is the
   *allowance* of requests that cannot wait.
4. If no task runs although requests or tasks wait, one of them is decided at once. A
   running transformation may itself wait for something unknown to us, such as a file. If
   no lease has ended for the *patience*, the end of the epoch therefore grants at least
   one request, after twice that time another, and so on.
5. Only requests that can never be granted are refused: those that cannot wait
   (``capacity``), those that would wait for themselves (``cycle``), and those that
   would exceed the *ceiling* while all admitted transformations wait (``ceiling``).
6. Every lease ends with its task, its holder or its timeout.
7. A release is final, even if it arrives before its request: a request for a released
   lease is refused. So messages may overtake each other.
"""

from __future__ import annotations

from collections.abc import Mapping

from .admission import Admission
from .books import Terms
from .events import (
    Decision,
    Granted,
    IllegalEvent,
    Inconsistent,
    Request,
    check_count,
    check_name,
    check_request,
    check_time,
    is_number,
)
from .lease import Lease
from .needs import NESTED, Needs

#: Transformations that one Seamless process can hold, unless its worker says otherwise
CEILING_PER_PROCESS = 256


class PermissionMachine(Admission):
    """Gives slots to transformations; see the module for the rules.

    A request id is taken while its lease is live. A repeated request with the same id
    and content returns the decision again, if there is one, and changes nothing. Once
    the lease has ended or was refused, the id is free for a new request. An id that its
    holder has released cannot be used again.

    The parameters are those of :class:`.books.Books`.
    """

    # -- workers and holders -----------------------------------------------------

    def add_worker(
        self,
        address: str,
        processes: int,
        throttle: int,
        ceiling: int | None,
        now: float,
        *,
        units: float | None = None,
        supply: Mapping[str, float] | None = None,
        any_work: bool | None = None,
    ) -> list[Decision]:
        """A worker offers slots, or changes its offer.

        ``units`` is how many top-level transformations may execute there at the same
        time (1: one from its beginning to its end; None: any number); ``supply``
        are its further resources of Dask; for ``any_work`` see :meth:`set_open`.

        Raises IllegalEvent for anything but counts of at least 1.
        """
        check_name("worker address", address)
        check_count("processes", processes, 1)
        check_count("throttle", throttle, 1)
        if ceiling is None:
            ceiling = processes * CEILING_PER_PROCESS
        check_count("ceiling", ceiling, 1)
        check_time(now)
        terms = Terms(processes, throttle, ceiling, units, dict(supply or {}))
        if self._workers.get(address) != terms:
            self._forget_terms(address)
            self._workers[address] = terms
            self.capacity += terms.capacity
            self.ceiling += terms.ceiling
            self._places.offer(address, terms.capacity, units, terms.supply)
        return self.set_open(address, now, any_work=any_work)

    def set_open(
        self,
        address: str,
        now: float,
        *,
        any_work: bool | None = None,
        top_level: bool | None = None,
    ) -> list[Decision]:
        """Say whether a worker takes further transformations; None: as before."""
        check_name("worker address", address)
        check_time(now)
        self._places.set_open(address, any_work=any_work, top_level=top_level)
        return self._admit_waiting(now)

    def remove_worker(self, address: str, now: float) -> list[Decision]:
        """A worker is gone, with its slots and with the leases that it held."""
        check_name("worker address", address)
        check_time(now)
        self._forget_terms(address)
        self._places.withdraw(address)
        return self.remove_holder(address, now)

    def remove_holder(self, holder: str, now: float) -> list[Decision]:
        """A client or worker is gone; its leases end without a message to it."""
        check_name("holder", holder)
        check_time(now)
        leases = [self._ledger.leases[i] for i in self._ledger.held_by(holder)]
        return self._end(leases, "holder gone", now)

    # -- leases ------------------------------------------------------------------

    def request(self, request: Request, now: float) -> list[Decision]:
        """A holder asks for a lease.

        The answer is among the decisions, unless the request has to wait; decisions
        about other leases may be there too.

        Raises IllegalEvent if the request is invalid, or if its id belongs to a live
        lease of another holder or with other content.
        """
        check_time(now)
        known = self.check_request(request)
        if known is not None:
            if known.granted_at is None:
                return []
            return [Granted(request.lease_id, request.holder)]
        if self._released.has(request.holder, request.lease_id):
            return [self._chronicle.overtaken(request, now)]
        cycle = self._cycle(request)
        if cycle is not None:
            return [self._chronicle.refused(request, "cycle", cycle, now)]
        joins = self._ledger.is_admitted(request.key) or (
            request.key is not None and self._places.of(request.key) is not None
        )
        if request.wait or joins:
            lease = self._open(request, now)
            joined = self._admit(lease, "joined", now) if joins else []
            return joined + self._admit_waiting(now)
        return self._try(request, now)

    def check_request(self, request: Request) -> Lease | None:
        """The live lease that this request repeats, or None if it is new.

        Raises IllegalEvent as :meth:`request` does; never changes anything.
        """
        check_request(request)
        known = self._ledger.leases.get(request.lease_id)
        if known is not None and known.request != request:
            raise IllegalEvent(f"{request} reuses the id of {known.request}")
        return known

    def release(self, lease_id: str, holder: str, now: float) -> list[Decision]:
        """The holder does not need its lease any more, or stops waiting for it.

        A release of an id that is not live is counted; the id will not be granted.

        Raises IllegalEvent if the lease belongs to another holder.
        """
        lease = self._own_lease(lease_id, holder, now)
        self._released.add(holder, lease_id, now)
        if lease is None:
            self._chronicle.unknown_releases_total += 1
            return []
        return self._end([lease], "released", now)

    def withdraw(
        self, lease_id: str, holder: str, reason: str, now: float
    ) -> list[Decision]:
        """Refuse a waiting lease because its caller gives up waiting.

        Changes nothing if the lease is granted or not live any more.

        Raises IllegalEvent if the lease belongs to another holder.
        """
        lease = self._own_lease(lease_id, holder, now)
        if lease is None or lease.granted_at is not None:
            return []
        # this frees no slot; its owner may even take its slot back
        self._close_silently(lease)
        return [self._chronicle.refused(lease.request, "capacity", reason, now)]

    def fell_back(self, key: str) -> None:
        """A transformation that was refused runs elsewhere."""
        check_name("key", key)
        self._wanted.discard(key)
        self._chronicle.fallbacks_total += 1

    def end_all(self, now: float) -> None:
        """The scheduler was restarted: all leases and tasks end, workers stay."""
        check_time(now)
        for key in list(self._held):
            self._held.remove(key)
        for key in self._places.keys():
            self._places.drop(key)
        for lease in list(self._ledger.leases.values()):
            self._close(lease, "restart", now)

    # -- tasks -------------------------------------------------------------------

    def task_ready(
        self,
        key: str,
        depth: int,
        now: float,
        *,
        needs: Needs = NESTED,
        prefer: str | None = None,
        forced: bool = False,
    ) -> str | None:
        """Dask is ready to send a task: return the address of the worker that gets it.

        None means that the task has to wait: the decision :class:`.events.Start` follows.
        ``prefer`` is the worker that has its data. A ``forced`` task waits only for a
        worker that fits, not for a slot.
        """
        check_name("key", key)
        check_count("depth", depth, 0)
        check_time(now)
        places = self._places
        address = places.can_use(key)
        if address is not None:
            places.set(key, task=True)
            self._held.remove(key)
            return address
        address = places.find(needs, prefer)
        if address is None and forced:
            address = places.least_loaded(needs)
        if address is None:
            self._hold(key, depth, needs)
            return None
        self.task_sent(key, address, now, needs=needs)
        return address

    def task_sent(
        self, key: str, address: str, now: float, *, needs: Needs = NESTED
    ) -> None:
        """A task was sent to a worker, for whatever reason."""
        check_name("key", key)
        check_time(now)
        self._held.remove(key)
        if address not in self._places.sites:
            self._places.drop(key)
            return
        waits = self._ledger.is_waiting(key)
        self._places.put(key, address, needs, task=True, waits=waits)

    def task_stores(self, key: str, now: float) -> list[Decision]:
        """The code of a task has ended; its result is being stored, without a slot."""
        check_name("key", key)
        check_time(now)
        self._places.set(key, stores=True)
        return self._admit_waiting(now)

    def task_left(self, key: str, now: float) -> list[Decision]:
        """A task left its worker, or is not to be sent any more."""
        check_name("key", key)
        check_time(now)
        self._leave(key)
        return self._admit_waiting(now)

    def key_seen(self, key: str) -> None:
        """The task of a key exists now: its leases end with it, not by timeout."""
        check_name("key", key)
        self._ledger.see(key)

    def key_finished(self, key: str, now: float) -> list[Decision]:
        """The task of a key has a result or an error: the leases bound to it end.

        Leases that still waited are granted: their holders will find the result, and
        need no slot for that.
        """
        check_name("key", key)
        check_time(now)
        self._leave(key)
        leases = self._ledger.leases_for(key)
        granted: list[Decision] = [
            self._chronicle.granted(lease, "already there", now)
            for lease in leases
            if lease.granted_at is None
        ]
        return granted + self._end(leases, "task finished", now)

    def key_lost(self, key: str, now: float) -> list[Decision]:
        """The task of a key is gone without a result: its granted leases end.

        A grant whose task was never seen stays: the task that is gone was an older one
        with the same key. Requests that wait for the key go on waiting.
        """
        check_name("key", key)
        check_time(now)
        if not (self._ledger.lose(key) and self._ledger.is_admitted(key)):
            return []
        self._leave(key)
        return self._end(self._ledger.leases_for(key), "task gone", now)

    # -- time --------------------------------------------------------------------

    def epoch_due(self, now: float) -> bool:
        """Whether the epoch is over, so that :meth:`tick` would decide something."""
        return self._epoch.due(now)

    def tick(self, now: float, load: float) -> list[Decision]:
        """Decide about the waiting requests at the end of an epoch, by load.

        ``load`` is the share (0 to 1) of the slots whose transformations do not merely
        wait, see :attr:`load`. Does nothing before the epoch is over, or without
        capacity.

        Raises IllegalEvent if the load is not within 0 and 1.
        """
        check_time(now)
        if not (is_number(load) and 0 <= load <= 1):
            raise IllegalEvent(f"load: got {load!r}, allowed: 0 to 1")
        if not self._epoch.due(now):
            return []
        left = self._epoch.begin(
            now,
            load=load,
            capacity=self.capacity,
            waiting=bool(self._ledger.waiting or self._held),
            ended=self._chronicle.ended_total,
        )
        decisions: list[Decision] = []
        while left:
            decided = self._exceed("epoch", now, least_depth=1)
            if not decided:
                break
            decisions += decided
            left -= 1
        self._epoch.allowance = left
        return decisions

    def nothing_running(self, now: float) -> list[Decision]:
        """The caller saw that no task executes anywhere although some wait.

        One request or task is decided: it may start, or it is refused if the ceiling is
        reached. Without capacity nothing can run, and all wait for a worker.
        """
        check_time(now)
        if not self.capacity:
            return []
        decided = self._exceed("deadlock broken", now)
        if decided:
            return decided
        lease = self._ledger.head()
        if lease is None or self._ledger.admitted < self.ceiling:
            return []
        return [self._refuse_at_ceiling(lease, now)]

    def expire(self, now: float) -> list[Decision]:
        """End grants whose task never appeared, and grants without a task, by timeout."""
        check_time(now)
        overdue = self._ledger.overdue(now, self.start_timeout, self.unbound_timeout)
        self._chronicle.expired_total += len(overdue)
        return self._end(overdue, "expired", now)

    # -- consistency -------------------------------------------------------------

    def validate(self) -> None:
        """Recompute everything from scratch.

        Raises Inconsistent, with the story of the lease, if anything differs.
        """
        problems = self._ledger.problems()
        terms = self._workers.values()
        if self.capacity != sum(each.capacity for each in terms):
            problems.append((None, f"capacity is {self.capacity}"))
        if self.ceiling != sum(each.ceiling for each in terms):
            problems.append((None, f"ceiling is {self.ceiling}"))
        problems += [(None, text) for text in self._places.problems()]
        for place in map(self._places.of, self._places.keys()):
            assert place is not None
            if place.waits != self._ledger.is_waiting(place.key):
                problems.append((None, f"{place.key!r} waits: {place.waits}"))
        problems += [(None, text) for text in self._held.problems()]
        room = self._ledger.admitted < self.ceiling
        if any(self._spot(entry) is not None for entry in self._heads() if room):
            problems.append((None, "requests or tasks wait although slots are free"))
        if self._ledger.waiting and self.capacity and not room:
            if self._ledger.computing == 0:
                problems.append((None, "requests wait at the ceiling for nothing"))
        if problems:
            raise Inconsistent(
                "\n".join(
                    f"{lease_id or 'machine'}: {text}\n  story: "
                    f"{self.story(lease_id) if lease_id else self._chronicle.latest(20)}"
                    for lease_id, text in problems
                )
            )

    # -- steps -------------------------------------------------------------------

    def _forget_terms(self, address: str) -> None:
        terms = self._workers.pop(address, None)
        if terms is not None:
            self.capacity -= terms.capacity
            self.ceiling -= terms.ceiling

    def _own_lease(self, lease_id: str, holder: str, now: float) -> Lease | None:
        """The live lease of that id, or None; IllegalEvent if another holder has it."""
        check_name("lease id", lease_id)
        check_name("holder", holder)
        check_time(now)
        lease = self._ledger.leases.get(lease_id)
        if lease is not None and lease.request.holder != holder:
            raise IllegalEvent(
                f"lease {lease_id!r} belongs to {lease.request.holder!r}, "
                f"not to {holder!r}"
            )
        return lease

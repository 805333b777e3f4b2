"""The permission machine: which nested transformation may run, and when.

Pure: no I/O and no clock. Events go in together with the time (monotonic seconds),
decisions come out, and the caller delivers them. An illegal event raises
:class:`IllegalEvent` and changes nothing.

A transformation that calls others is a task that waits for tasks. If every slot of
the cluster could be held by a task that waits, nothing would ever finish. The rules:

1. *Capacity* is the sum over workers of processes x throttle. While an admitted
   transformation waits for nested ones its slot is lent; *slots in use* are those of
   admitted transformations that do not wait. Resuming never blocks: a transformation
   takes its slot back when its last nested lease ends, even beyond the capacity.
2. A request is granted at once while fewer slots are in use than there are. The
   deepest comes first, in order of arrival within one depth. Breadth first would hold
   exponentially many waiting transformations at the same time; depth first holds about
   capacity x depth. A request for a key that is admitted joins it without a slot.
3. At the end of an *epoch* the load decides how many requests are granted beyond the
   capacity. If the waiting requests do not use all of these grants, the remainder is the
   *allowance* of requests that cannot wait.
4. If no task runs although requests wait, one request is decided at once. A running
   transformation may itself wait for something unknown to us, such as a file. If no
   lease has ended for the *patience*, the end of the epoch therefore grants at least one
   request, after twice that time another, and so on.
5. Only requests that can never be granted are refused: those that cannot wait
   (``capacity``), those that would wait for themselves (``cycle``), and those that
   would exceed the *ceiling* while all admitted transformations wait (``ceiling``).
6. Every lease ends with its task, its holder or its timeout.
7. A release is final, even if it arrives before its request: a request for a released
   lease is refused. So messages may overtake each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .event_log import Chronicle, WaitTimes
from .events import (
    Decision,
    Granted,
    IllegalEvent,
    Inconsistent,
    Refused,
    Request,
    Statistics,
    StoryLine,
    check_count,
    check_name,
    check_request,
    check_time,
    is_number,
)
from .lease import Lease
from .ledger import Ledger
from .released import Released

#: Transformations that one Seamless process can hold, unless its worker says otherwise
CEILING_PER_PROCESS = 256
#: Below this load an epoch grants a share of the capacity, ...
LOW_LOAD = 0.5
#: ... from there up to this load a single request, and above it none.
HIGH_LOAD = 0.85
#: The share of the capacity that an epoch with low load grants
LOW_LOAD_SHARE = 0.05
#: Keys of a cycle that are spelled out in the reason of a refusal
_CYCLE_SHOWN = 16


@dataclass(frozen=True)
class _Terms:
    """The offer of one worker."""

    processes: int
    throttle: int
    ceiling: int

    @property
    def capacity(self) -> int:
        return self.processes * self.throttle


class PermissionMachine:
    """Admits nested transformations; see the module for the rules.

    A request id is taken while its lease is live. A repeated request with the same id
    and content returns the decision again, if there is one, and changes nothing. Once
    the lease has ended or was refused, the id is free for a new request. An id that its
    holder has released cannot be used again.

    Parameters: ``started`` is the time at which the first epoch begins, the others
    are seconds.

    Raises ValueError if a duration is not a positive number.
    """

    def __init__(
        self,
        *,
        started: float = 0.0,
        epoch: float = 10.0,
        start_timeout: float = 60.0,
        unbound_timeout: float = 3600.0,
        patience: float = 60.0,
    ) -> None:
        for name, seconds in (
            ("epoch", epoch),
            ("start_timeout", start_timeout),
            ("unbound_timeout", unbound_timeout),
            ("patience", patience),
        ):
            if not (is_number(seconds) and seconds > 0):
                raise ValueError(f"{name}: got {seconds!r}, allowed: seconds > 0")
        self.epoch = epoch
        self.start_timeout = start_timeout
        self.unbound_timeout = unbound_timeout
        self.patience = patience
        #: number of slots: sum of processes x throttle
        self.capacity = 0
        #: most transformations that may be admitted at the same time, lent or not
        self.ceiling = 0
        #: {worker address: its terms}
        self._workers: dict[str, _Terms] = {}
        self._ledger = Ledger()
        self._epoch_started = started
        self._allowance = 0
        #: since when no lease has ended although requests wait, the number of leases
        #: that had ended by then, and when the patience ends
        self._still_since = started
        self._still_ended = 0
        self._still_until = started + patience
        self._chronicle = Chronicle()
        self._released = Released()

    # -- workers and holders -----------------------------------------------------

    def add_worker(
        self,
        address: str,
        processes: int,
        throttle: int,
        ceiling: int | None,
        now: float,
    ) -> list[Decision]:
        """A worker offers slots, or changes their number.

        Raises IllegalEvent for anything but counts of at least 1.
        """
        check_name("worker address", address)
        check_count("processes", processes, 1)
        check_count("throttle", throttle, 1)
        if ceiling is None:
            ceiling = processes * CEILING_PER_PROCESS
        check_count("ceiling", ceiling, 1)
        check_time(now)
        terms = _Terms(processes, throttle, ceiling)
        if self._workers.get(address) == terms:
            return []
        self._forget_terms(address)
        self._workers[address] = terms
        self.capacity += terms.capacity
        self.ceiling += terms.ceiling
        return self._admit_waiting(now)

    def remove_worker(self, address: str, now: float) -> list[Decision]:
        """A worker is gone, with its slots and with the leases that it held."""
        check_name("worker address", address)
        check_time(now)
        self._forget_terms(address)
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
        if request.wait or self._ledger.is_admitted(request.key):
            lease = self._open(request, now)
            joined: list[Decision] = []
            if self._ledger.is_admitted(request.key):
                joined = self._admit(lease, "joined", now)
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
        self._ledger.close(lease)
        # this frees no slot; its owner may even take its slot back
        return [self._chronicle.refused(lease.request, "capacity", reason, now)]

    def end_all(self, now: float) -> None:
        """The scheduler was restarted: all leases end, workers stay."""
        check_time(now)
        for lease in list(self._ledger.leases.values()):
            self._close(lease, "restart", now)

    # -- tasks -------------------------------------------------------------------

    def knows(self, key: str) -> bool:
        """Whether a live lease is bound to this key."""
        return self._ledger.is_known(key)

    def waits(self, key: str) -> bool:
        """Whether a transformation waits for nested ones, admitted or not."""
        return self._ledger.is_waiting(key)

    def owners(self) -> Iterable[str]:
        """Keys of the transformations that wait for nested ones."""
        return self._ledger.owners()

    @property
    def admitted(self) -> int:
        """Number of slots given out to nested work."""
        return self._ledger.admitted

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
        return self._end(self._ledger.leases_for(key), "task gone", now)

    # -- time --------------------------------------------------------------------

    def epoch_due(self, now: float) -> bool:
        """Whether the epoch is over, so that :meth:`tick` would decide something."""
        return now - self._epoch_started >= self.epoch

    def tick(self, now: float, load: float) -> list[Decision]:
        """Decide about the waiting requests at the end of an epoch, by load.

        ``load`` is the share (0 to 1) of the slots that are occupied and do not merely
        wait. Does nothing before the epoch is over, or without capacity.

        Raises IllegalEvent if the load is not within 0 and 1.
        """
        check_time(now)
        if not (is_number(load) and 0 <= load <= 1):
            raise IllegalEvent(f"load: got {load!r}, allowed: 0 to 1")
        if not self.epoch_due(now):
            return []
        self._epoch_started = now
        left = max(self._quota(load), self._stands_still(now))
        decisions: list[Decision] = []
        while left and self._ledger.admitted < self.ceiling:
            lease = self._ledger.head()
            if lease is None:
                break
            decisions += self._admit(lease, "epoch", now)
            left -= 1
        self._allowance = left
        return decisions

    def nothing_running(self, now: float) -> list[Decision]:
        """The caller saw that no task executes anywhere although requests wait.

        One of them is decided: granted, or refused if the ceiling is reached. Without
        capacity no task can run, and the requests wait for a worker.
        """
        check_time(now)
        lease = self._ledger.head()
        if lease is None or not self.capacity:
            return []
        if self._ledger.admitted < self.ceiling:
            return self._admit(lease, "deadlock broken", now)
        return [self._refuse_at_ceiling(lease, now)]

    def expire(self, now: float) -> list[Decision]:
        """End grants whose task never appeared, and grants without a task, by timeout."""
        check_time(now)
        overdue = self._ledger.overdue(now, self.start_timeout, self.unbound_timeout)
        self._chronicle.expired_total += len(overdue)
        return self._end(overdue, "expired", now)

    # -- questions ---------------------------------------------------------------

    @property
    def ledger(self) -> Ledger:
        """The ledger; other modules only read it."""
        return self._ledger

    @property
    def live(self) -> int:
        """Number of live leases, waiting or granted."""
        return len(self._ledger.leases)

    @property
    def refused_total(self) -> int:
        """Number of requests that were refused, for whatever reason."""
        return sum(self._chronicle.refused_total.values())

    @property
    def wait_times(self) -> WaitTimes:
        """Waiting times of the granted requests."""
        return self._chronicle.wait_times

    @property
    def waiting(self) -> int:
        """Number of requests that wait."""
        return self._ledger.waiting

    def holds(self, holder: str) -> bool:
        """Whether a client or worker has a live lease."""
        return self._ledger.holds(holder)

    def held_by(self, holder: str) -> list[str]:
        """Ids of the live leases of a client or worker, oldest first."""
        return self._ledger.held_by(holder)

    def offers(self) -> Mapping[str, tuple[int, int, int]]:
        """{worker address: (processes, throttle, capacity)}."""
        return {
            address: (terms.processes, terms.throttle, terms.capacity)
            for address, terms in self._workers.items()
        }

    def is_worker(self, address: str) -> bool:
        """Whether a worker of that address offers slots."""
        return address in self._workers

    def slots_of(self, address: str) -> int:
        """Number of slots that a worker offers; 0 for a worker that offers none."""
        terms = self._workers.get(address)
        return terms.capacity if terms else 0

    def oldest_waiting(self, limit: int) -> list[Lease]:
        """Up to ``limit`` waiting leases, oldest first."""
        return self._ledger.oldest_waiting(limit)

    def why_waiting(self) -> str:
        """A sentence that says why requests wait."""
        if not self.capacity:
            return "no worker offers slots"
        if self._ledger.admitted >= self.ceiling:
            return (
                f"{self._ledger.admitted} transformations are held, "
                f"the limit is {self.ceiling}"
            )
        return f"{self._ledger.slots_in_use} of {self.capacity} slots are in use"

    def statistics(self) -> Statistics:
        """A snapshot of the machine."""
        done = self._chronicle
        return Statistics(
            capacity=self.capacity,
            ceiling=self.ceiling,
            workers=len(self._workers),
            slots_in_use=self._ledger.slots_in_use,
            admitted=self._ledger.admitted,
            lent=self._ledger.lent,
            waiting=self._ledger.waiting,
            allowance=self._allowance,
            epoch=self.epoch,
            granted_total=done.granted_total,
            refused_total=dict(done.refused_total),
            over_capacity_total=done.over_capacity_total,
            ended_total=done.ended_total,
            expired_total=done.expired_total,
            unknown_releases_total=done.unknown_releases_total,
        )

    def story(self, lease_id: str) -> list[StoryLine]:
        """The events of one lease, as far as they are remembered."""
        return self._chronicle.story(lease_id)

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
        if self._ledger.waiting and self.capacity:
            room = self._ledger.admitted < self.ceiling
            if room and self._ledger.slots_in_use < self.capacity:
                problems.append((None, "requests wait although slots are free"))
            if not room and self._ledger.slots_in_use == 0:
                problems.append((None, "requests wait at the ceiling for nothing"))
        if problems:
            raise Inconsistent(
                "\n".join(
                    f"{lease_id or 'machine'}: {text}\n  story: "
                    f"{self.story(lease_id) if lease_id else self._chronicle.latest(20)}"
                    for lease_id, text in problems
                )
            )

    # -- the rules ---------------------------------------------------------------

    def _admit_waiting(self, now: float) -> list[Decision]:
        """Rule 2 for waiting requests, and the ceiling of rule 5."""
        decisions: list[Decision] = []
        ledger = self._ledger
        while self.capacity:
            lease = ledger.head()
            if lease is None:
                break
            if ledger.admitted >= self.ceiling:
                if ledger.slots_in_use:
                    break
                decisions.append(self._refuse_at_ceiling(lease, now))
            elif ledger.slots_in_use < self.capacity:
                decisions += self._admit(lease, "slot free", now)
            else:
                break
        return decisions

    def _try(self, request: Request, now: float) -> list[Decision]:
        """Rule 2 for a request that cannot wait, then the allowance of rule 3."""
        ledger = self._ledger
        head = ledger.head()
        overtakes = head is not None and head.request.depth >= request.depth
        # the slot of its own owner is lent as soon as the request is entered
        in_use = ledger.slots_in_use - ledger.would_lend(request.owner)
        if overtakes or ledger.admitted >= self.ceiling:
            granted = False
        elif in_use < self.capacity:
            granted = True
        else:
            granted = self._allowance > 0 and not self.epoch_due(now)
            if granted:
                self._allowance -= 1
        if granted:
            lease = self._open(request, now)
            return self._admit(lease, "tried", now) + self._admit_waiting(now)
        return [self._chronicle.refused(request, "capacity", self.why_waiting(), now)]

    def _quota(self, load: float) -> int:
        """How many slots beyond the capacity the load allows for one epoch."""
        if not self.capacity or load > HIGH_LOAD:
            return 0
        if load < LOW_LOAD:
            return max(1, int(self.capacity * LOW_LOAD_SHARE))
        return 1

    def _stands_still(self, now: float) -> bool:
        """Rule 4 for waits unknown to us: whether to grant a request at this epoch's end."""
        ended = self._chronicle.ended_total
        if ended != self._still_ended or not (self._ledger.waiting and self.capacity):
            self._still_ended = ended
            self._still_since, self._still_until = now, now + self.patience
            return False
        if now < self._still_until:
            return False
        self._still_until = now + (now - self._still_since)
        return True

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
        return self._ledger.open(request, now)

    def _admit(self, lease: Lease, why: str, now: float) -> list[Decision]:
        """Grant a lease and the leases that join it."""
        before = self._ledger.slots_in_use
        leases = self._ledger.admit(lease, now)
        after = self._ledger.slots_in_use
        self._chronicle.over_capacity_total += after > before and after > self.capacity
        return [self._chronicle.granted(each, why, now) for each in leases]

    def _refuse_at_ceiling(self, lease: Lease, now: float) -> Refused:
        held = self._ledger.admitted
        self._ledger.close(lease)
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
        self._ledger.close(lease)
        self._chronicle.ended(lease, why, now)

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

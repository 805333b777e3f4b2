"""The permission machine and a model of it, driven by the same rules."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from scheduler_ext.permission.events import (
    Granted,
    IllegalEvent,
    Request,
)
from scheduler_ext.permission.machine import PermissionMachine
from scheduler_ext.permission.released import MEMORY

EPOCH = 10.0


START_TIMEOUT = 60.0


UNBOUND_TIMEOUT = 3600.0


PATIENCE = 60.0


WORKERS = ("w0", "w1", "w2")


CLIENT = "client"


KEYS = tuple(f"base-{name}" for name in "abcdefgh")


def outcome(decisions):
    """Decisions without their order and wording: {(id, "granted" or refusal kind)}."""
    return {
        (d.lease_id, "granted" if isinstance(d, Granted) else d.reason.split(":")[0])
        for d in decisions
    }


def snapshot(machine):
    """Everything that the machine remembers, to be compared later."""
    state = {**vars(machine), "_ledger": vars(machine._ledger)}
    return copy.deepcopy(state)


@dataclass
class ModelLease:
    request: Request
    granted_at: float | None = None


@dataclass
class Model:
    """The rules, each spelled out as a scan over a list of leases."""

    workers: dict[str, tuple[int, int]] = field(default_factory=dict)
    #: in order of arrival
    leases: list[ModelLease] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    epoch_started: float = 0.0
    allowance: int = 0
    over_capacity: int = 0
    #: whether a granted lease has ended since the last epoch, and when that was last
    #: so, followed by the times at which patience ended
    moves: bool = False
    epochs_still: list[float] = field(default_factory=lambda: [0.0])

    @property
    def capacity(self):
        return sum(slots for slots, _ in self.workers.values())

    @property
    def ceiling(self):
        return sum(ceiling for _, ceiling in self.workers.values())

    def granted(self):
        return [v for v in self.leases if v.granted_at is not None]

    def slots(self):
        """Names of the slots given out; an unbound lease is a slot of its own."""
        return {
            v.request.key or ("unbound", v.request.lease_id) for v in self.granted()
        }

    def lent(self):
        return self.slots() & {v.request.owner for v in self.leases}

    def in_use(self):
        return len(self.slots()) - len(self.lent())

    def find(self, lease_id):
        return next((v for v in self.leases if v.request.lease_id == lease_id), None)

    def queue(self):
        """Those that wait, in the order in which they will be admitted."""
        waiting = [v for v in self.leases if v.granted_at is None]
        return sorted(waiting, key=lambda v: -v.request.depth)  # sorted() is stable

    def admit(self, lease, now, may_exceed=False):
        before = self.in_use()
        key = lease.request.key
        same = [
            v
            for v in self.leases
            if v is lease
            or (key is not None and v.request.key == key and v.granted_at is None)
        ]
        for each in same:
            each.granted_at = now
        after = self.in_use()
        # invariant 1: only the load rule and a broken deadlock exceed the capacity
        exceeds = after > before and after > self.capacity
        assert may_exceed or not exceeds
        self.over_capacity += exceeds
        return {(v.request.lease_id, "granted") for v in same}

    def pump(self, now):
        decided = set()
        while self.capacity and self.queue():
            head = self.queue()[0]
            if len(self.slots()) >= self.ceiling:
                if self.in_use():
                    break
                self.leases.remove(head)
                decided.add((head.request.lease_id, "ceiling"))
            elif self.in_use() < self.capacity:
                decided |= self.admit(head, now)
            else:
                break
        return decided

    def waits_for(self, key):
        """All that a key waits for, directly or not."""
        reached, todo = set(), [key]
        while todo:
            here = todo.pop()
            for v in self.leases:
                other = v.request.key
                if v.request.owner == here and other and other not in reached:
                    reached.add(other)
                    todo.append(other)
        return reached

    def request(self, request, now):
        known = self.find(request.lease_id)
        if known:
            assert known.request == request
            granted = known.granted_at is not None
            return {(request.lease_id, "granted")} if granted else set()
        key, owner = request.key, request.owner
        if key and owner and (key == owner or owner in self.waits_for(key)):
            return {(request.lease_id, "cycle")}
        lease = ModelLease(request)
        joins = key is not None and key in self.slots()
        if request.wait or joins:
            self.leases.append(lease)
            joined = self.admit(lease, now) if joins else set()
            return joined | self.pump(now)
        overtakes = any(v.request.depth >= request.depth for v in self.queue())
        room = len(self.slots()) < self.ceiling and not overtakes
        self.leases.append(lease)  # its own request lends out its owner's slot
        free = self.in_use() < self.capacity
        allowed = self.allowance > 0 and now - self.epoch_started < EPOCH
        if room and (free or allowed):
            self.allowance -= not free
            return self.admit(lease, now, may_exceed=not free) | self.pump(now)
        self.leases.remove(lease)
        return {(request.lease_id, "capacity")}

    def end(self, which, now):
        self.moves |= any(which(v) and v.granted_at is not None for v in self.leases)
        self.leases = [v for v in self.leases if not which(v)]
        self.seen &= {v.request.key for v in self.leases}
        return self.pump(now)

    def add_worker(self, address, slots, ceiling, now):
        self.workers[address] = (slots, ceiling)
        return self.pump(now)

    def remove_worker(self, address, now):
        self.workers.pop(address, None)
        return self.remove_holder(address, now)

    def remove_holder(self, holder, now):
        return self.end(lambda v: v.request.holder == holder, now)

    def release(self, lease_id, now):
        return self.end(lambda v: v.request.lease_id == lease_id, now)

    def key_seen(self, key):
        if any(v.request.key == key for v in self.leases):
            self.seen.add(key)

    def key_finished(self, key, now):
        mine = [v for v in self.leases if v.request.key == key]
        told = {(v.request.lease_id, "granted") for v in mine if v.granted_at is None}
        return told | self.end(lambda v: v.request.key == key, now)

    def key_lost(self, key, now):
        if key in self.seen and key in self.slots():
            return self.end(lambda v: v.request.key == key, now)
        self.seen.discard(key)
        return set()

    def tick(self, now, load):
        if now - self.epoch_started < EPOCH:
            return set()
        self.epoch_started = now
        quota = 0
        if self.capacity and load <= 0.85:
            quota = 1 if load >= 0.5 else max(1, int(0.05 * self.capacity))
        if self.moves or not (self.capacity and self.queue()):
            self.moves, self.epochs_still = False, [now]
        elif now - self.epochs_still[-1] >= max(
            PATIENCE, self.epochs_still[-1] - self.epochs_still[0]
        ):
            self.epochs_still.append(now)
            quota = max(quota, 1)
        decided = set()
        while quota and self.queue() and len(self.slots()) < self.ceiling:
            decided |= self.admit(self.queue()[0], now, may_exceed=True)
            quota -= 1
        self.allowance = quota
        return decided | self.pump(now)

    def nothing_running(self, now):
        if not (self.capacity and self.queue()):
            return set()
        head = self.queue()[0]
        if len(self.slots()) < self.ceiling:
            return self.admit(head, now, may_exceed=True) | self.pump(now)
        self.leases.remove(head)
        return {(head.request.lease_id, "ceiling")} | self.pump(now)

    def expire(self, now):
        def overdue(v):
            if v.granted_at is None or v.request.key in self.seen:
                return False
            limit = UNBOUND_TIMEOUT if v.request.key is None else START_TIMEOUT
            return now - v.granted_at >= limit

        return self.end(overdue, now)


class PureSubject:
    """The machine itself."""

    def __init__(self):
        self.machine = PermissionMachine(
            epoch=EPOCH,
            start_timeout=START_TIMEOUT,
            unbound_timeout=UNBOUND_TIMEOUT,
            patience=PATIENCE,
        )

    def add_worker(self, address, processes, throttle, ceiling, now):
        return outcome(
            self.machine.add_worker(address, processes, throttle, ceiling, now)
        )

    def remove_worker(self, address, now):
        return outcome(self.machine.remove_worker(address, now))

    def remove_holder(self, holder, now):
        return outcome(self.machine.remove_holder(holder, now))

    def request(self, request, now):
        return outcome(self.machine.request(request, now))

    def release(self, lease_id, holder, now):
        return outcome(self.machine.release(lease_id, holder, now))

    def key_seen(self, key):
        self.machine.key_seen(key)

    def key_finished(self, key, now):
        return outcome(self.machine.key_finished(key, now))

    def key_lost(self, key, now):
        return outcome(self.machine.key_lost(key, now))

    def tick(self, now, load):
        return outcome(self.machine.tick(now, load))

    def nothing_running(self, now):
        return outcome(self.machine.nothing_running(now))

    def expire(self, now):
        return outcome(self.machine.expire(now))

    def holder_id(self, name):
        return name

    def close(self):
        """Nothing to end."""


class PermissionRules(RuleBasedStateMachine):
    """Each rule acts on the subject and on the model; both must decide the same."""

    holders = (*WORKERS, CLIENT)
    #: whether the test sets the clock and the states of tasks
    steers_time = True

    @initialize()
    def start(self):
        self.subject = self.new_subject()
        self.model = Model()
        self.now = 100.0
        self.ids = 0
        #: what was released last, while its holder is the same
        self.released = None
        self.released_at = 0.0

    def new_subject(self):
        return PureSubject()

    @property
    def machine(self):
        return self.subject.machine

    def teardown(self):
        if hasattr(self, "subject"):
            self.subject.close()

    def some_lease(self, number):
        lease = self.model.leases[number % len(self.model.leases)]
        return lease.request

    def has_leases(self):
        return bool(self.model.leases)

    @rule(
        worker=st.sampled_from(WORKERS),
        processes=st.integers(1, 2),
        throttle=st.integers(1, 2),
        ceiling=st.integers(1, 8),
    )
    def add_worker(self, worker, processes, throttle, ceiling):
        expected = self.model.add_worker(
            worker, processes * throttle, ceiling, self.now
        )
        offer = (worker, processes, throttle, ceiling, self.now)
        assert self.subject.add_worker(*offer) == expected
        assert self.subject.add_worker(*offer) == set()

    @rule(worker=st.sampled_from(WORKERS))
    def remove_worker(self, worker):
        self.released = None  # over RPC, another worker takes its place
        expected = self.model.remove_worker(worker, self.now)
        assert self.subject.remove_worker(worker, self.now) == expected

    @rule()
    def remove_client(self):
        self.released = None
        expected = self.model.remove_holder(CLIENT, self.now)
        assert self.subject.remove_holder(CLIENT, self.now) == expected

    @rule(
        holder=st.integers(0, 3),
        key=st.one_of(st.none(), *[st.sampled_from(KEYS)] * 3),
        owner=st.one_of(st.none(), *[st.sampled_from(KEYS)] * 3),
        depth=st.integers(0, 3),
        wait=st.sampled_from((True, True, True, False)),
    )
    def request(self, holder, key, owner, depth, wait):
        self.ids += 1
        holder = self.holders[holder % len(self.holders)]
        request = Request(f"id{self.ids}", holder, key, owner, depth, wait)
        expected = self.model.request(request, self.now)
        assert self.subject.request(request, self.now) == expected

    @precondition(has_leases)
    @rule(number=st.integers(0, 50))
    def repeat_request(self, number):
        request = self.some_lease(number)
        before = snapshot(self.machine)
        expected = self.model.request(request, self.now)
        assert self.subject.request(request, self.now) == expected
        assert snapshot(self.machine) == before

    @precondition(has_leases)
    @rule(number=st.integers(0, 50))
    def release(self, number):
        request = self.some_lease(number)
        expected = self.model.release(request.lease_id, self.now)
        lease = (request.lease_id, request.holder, self.now)
        assert self.subject.release(*lease) == expected
        assert self.subject.release(*lease) == set()
        self.released, self.released_at = request, self.now

    @precondition(
        lambda self: self.released is not None and self.now - self.released_at <= MEMORY
    )
    @rule()
    def request_after_its_release(self):
        """A copy of a request arrives late: nobody waits for it."""
        decided = self.subject.request(self.released, self.now)
        assert decided == {(self.released.lease_id, "released")}

    @rule(holder=st.integers(0, 3), key=st.sampled_from(KEYS))
    def release_overtakes_request(self, holder, key):
        self.ids += 1
        holder = self.holders[holder % len(self.holders)]
        request = Request(f"id{self.ids}", holder, key, None, 1, True)
        assert self.subject.release(request.lease_id, holder, self.now) == set()
        decided = self.subject.request(request, self.now)
        assert decided == {(request.lease_id, "released")}

    @precondition(lambda self: self.steers_time)
    @rule(key=st.sampled_from(KEYS))
    def key_seen(self, key):
        self.model.key_seen(key)
        self.subject.key_seen(key)

    @precondition(lambda self: self.steers_time)
    @rule(key=st.sampled_from(KEYS))
    def key_finished(self, key):
        expected = self.model.key_finished(key, self.now)
        assert self.subject.key_finished(key, self.now) == expected

    @precondition(lambda self: self.steers_time)
    @rule(key=st.sampled_from(KEYS))
    def key_lost(self, key):
        expected = self.model.key_lost(key, self.now)
        assert self.subject.key_lost(key, self.now) == expected

    @precondition(lambda self: self.steers_time)
    @rule(
        seconds=st.sampled_from((0.0, 0.4, EPOCH, START_TIMEOUT, UNBOUND_TIMEOUT)),
        load=st.sampled_from((0.0, 0.49, 0.5, 0.85, 0.86, 1.0)),
    )
    def time_passes(self, seconds, load):
        self.now += seconds
        assert self.subject.expire(self.now) == self.model.expire(self.now)
        expected = self.model.tick(self.now, load)
        assert self.subject.tick(self.now, load) == expected

    @rule()
    def nothing_running(self):
        waiting = len(self.model.queue())
        expected = self.model.nothing_running(self.now)
        assert self.subject.nothing_running(self.now) == expected
        if waiting and self.model.capacity:  # invariant 4: a decision follows
            assert len(self.model.queue()) < waiting

    @precondition(has_leases)
    @rule(
        number=st.integers(0, 50),
        change=st.sampled_from(
            ({"holder": "stranger"}, {"depth": 99}, {"key": "base-other"})
        ),
    )
    def reuse_an_id(self, number, change):
        request = self.some_lease(number)
        changed = replace(request, **change)
        self.assert_illegal(self.machine.request, changed, self.now)
        self.assert_illegal(
            self.machine.release, request.lease_id, "stranger", self.now
        )

    @rule(
        broken=st.sampled_from(
            (
                ("request", Request("", CLIENT), 0.0),
                ("request", Request("x", ""), 0.0),
                ("request", Request("x", CLIENT, ""), 0.0),
                ("request", Request("x", CLIENT, depth=-1), 0.0),
                ("request", Request("x", CLIENT, wait=1), 0.0),
                ("request", Request("x", CLIENT), float("nan")),
                ("add_worker", "w0", -1, 1, None, 0.0),
                ("add_worker", "w0", 1, True, None, 0.0),
                ("add_worker", "w0", 1, 1, 0, 0.0),
                ("add_worker", "", 1, 1, None, 0.0),
                ("add_worker", "w0", float("nan"), 1, None, 0.0),
                ("remove_worker", "", 0.0),
                ("release", "", CLIENT, 0.0),
                ("tick", 1e9, 1.5),
                ("tick", 1e9, float("nan")),
            )
        )
    )
    def nonsense(self, broken):
        event, *arguments = broken
        self.assert_illegal(getattr(self.machine, event), *arguments)

    def assert_illegal(self, event, *arguments):
        before = snapshot(self.machine)
        with pytest.raises(IllegalEvent):
            event(*arguments)
        assert snapshot(self.machine) == before

    @invariant()
    def consistent(self):
        if not hasattr(self, "subject"):
            return
        machine, model = self.machine, self.model
        machine.validate()
        statistics = machine.statistics()
        assert statistics.capacity == model.capacity
        assert statistics.ceiling == model.ceiling
        assert statistics.admitted == len(model.slots())
        assert statistics.lent == len(model.lent())
        assert statistics.slots_in_use == model.in_use()
        assert statistics.waiting == len(model.queue()) == machine.waiting
        assert statistics.over_capacity_total == model.over_capacity
        assert machine.live == len(model.leases)
        # invariant 2: what is held is held by somebody, and known on both sides
        for holder in self.holders:
            assert machine.held_by(self.subject.holder_id(holder)) == [
                v.request.lease_id for v in model.leases if v.request.holder == holder
            ]
        self.answers()

    def answers(self):
        """What is asked about the book follows from the leases."""
        ledger, model = self.machine.ledger, self.model
        waiting = [v for v in model.leases if v.granted_at is None]
        oldest = [lease.request.lease_id for lease in ledger.oldest_waiting(3)]
        assert oldest == [v.request.lease_id for v in waiting[:3]]
        places = [ledger.leases[v.request.lease_id] for v in model.queue()]
        assert [ledger.position(lease) for lease in places] == list(
            range(1, len(places) + 1)
        )
        using = {key for key in model.slots() - model.lent() if isinstance(key, str)}
        assert set(ledger.holding(len(KEYS))) == using
        assert set(ledger.owners()) == {v.request.owner for v in model.leases} - {None}
        for key in KEYS:
            requests = [v.request for v in model.leases]
            bound = [r.lease_id for r in requests if r.key == key]
            assert ledger.bound_to(key) == bound
            assert [r.lease_id for r in ledger.requests_for(key)] == bound
            owned = [r.lease_id for r in requests if r.owner == key]
            assert ledger.owned_by(key) == owned
            assert [r.lease_id for r in ledger.requested_by(key)] == owned

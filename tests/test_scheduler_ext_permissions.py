"""The permission machine, compared step by step with a model that is plainly correct.

``PermissionRules`` drives any *subject*: here the machine itself, in
test_scheduler_ext_rpc.py the plugin of a real scheduler.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, given, settings
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
    Inconsistent,
    Refused,
    Request,
)
from scheduler_ext.permission.machine import PermissionMachine
from scheduler_ext.permission.released import MEMORY, MOST

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


# -- the model ---------------------------------------------------------------------


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


# -- the subject, and the rules ----------------------------------------------------


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


class PurePermissionRules(PermissionRules):
    """The machine itself."""


PurePermissionRules.TestCase.settings = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestPermissions = PurePermissionRules.TestCase


# -- progress ----------------------------------------------------------------------


class Simulation:
    """Runs trees of transformations as a cluster would, with nothing but the machine.

    A node is a list of children; it asks for all of them at once, waits for all, and
    ends. Roots are top-level tasks: they need no lease.
    """

    def __init__(self, machine, rng):
        self.machine = machine
        self.rng = rng
        self.now = 0.0
        #: {key: (its parent's key or None, depth, children)}
        self.nodes = {}
        self.pending = {}
        self.running = []
        self.most_held = 0
        self.refused = 0

    def add(self, tree, parent=None, depth=0):
        key = f"base-{len(self.nodes)}"
        self.nodes[key] = (parent, depth, tree)
        return key

    def run(self, roots):
        self.running += [self.add(tree) for tree in roots]
        while self.running:
            # whichever the cluster would execute next
            index = self.rng.randrange(len(self.running))
            self.running[index], self.running[-1] = (
                self.running[-1],
                self.running[index],
            )
            self.execute(self.running.pop())
            self.machine.validate()
            held = self.machine.statistics().admitted
            self.most_held = max(self.most_held, held)
        assert self.machine.live == 0
        assert not self.pending

    def execute(self, key):
        """Run one node until it waits or ends."""
        _, depth, children = self.nodes[key]
        self.now += 0.001
        if key not in self.pending and children:
            self.pending[key] = len(children)
            for child in children:
                name = self.add(child, key, depth + 1)
                request = Request(name, "worker", name, key, depth + 1)
                self.take(self.machine.request(request, self.now))
        else:
            self.finish(key)

    def finish(self, key):
        parent = self.nodes[key][0]
        self.pending.pop(key, None)
        self.take(self.machine.key_finished(key, self.now))
        if parent is not None:
            self.pending[parent] -= 1
            if not self.pending[parent]:
                self.running.append(parent)

    def take(self, decisions):
        for decision in decisions:
            self.refused += isinstance(decision, Refused)
            self.running.append(decision.lease_id)


def depth_of(tree):
    return 1 + max(map(depth_of, tree), default=-1)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    processes=st.integers(1, 3),
    throttle=st.integers(1, 3),
    roots=st.integers(1, 8),
)
def test_random_trees_end_without_a_refusal(seed, processes, throttle, roots):
    """Invariant 4: everything ends, without epochs, deadlocks or refusals."""
    rng = random.Random(seed)

    def tree(levels):
        return [tree(levels - 1) for _ in range(rng.randint(0, 3))] if levels else []

    forest = [tree(rng.randint(0, 4)) for _ in range(roots)]
    machine = PermissionMachine()
    machine.add_worker("worker", processes, throttle, None, 0.0)
    simulation = Simulation(machine, rng)
    simulation.run(forest)
    capacity = processes * throttle
    depth = max(map(depth_of, forest))
    assert simulation.refused == 0
    assert machine.statistics().over_capacity_total == 0
    assert simulation.most_held <= capacity * (depth + 1)


@pytest.mark.parametrize("capacity", [1, 2, 6])
def test_a_deep_and_wide_tree_holds_little(capacity):
    """Admission is depth-first: what is held grows with the depth, not the width."""

    def tree(levels):
        return [tree(levels - 1) for _ in range(4)] if levels else []

    machine = PermissionMachine()
    machine.add_worker("worker", 1, capacity, None, 0.0)
    simulation = Simulation(machine, random.Random(1))
    simulation.run([tree(5)] * 3)
    assert simulation.most_held <= capacity * 6
    assert machine.statistics().granted_total == 3 * (4 + 16 + 64 + 256 + 1024)


# -- single rules, for those who read ----------------------------------------------


def machine_with(slots):
    machine = PermissionMachine()
    machine.add_worker("w", 1, slots, None, 0.0)
    return machine


def ask(machine, lease_id, *, now=0.0, **request):
    request = {"key": lease_id, **request}
    return outcome(machine.request(Request(lease_id, "w", **request), now))


def test_a_request_waits_without_capacity_until_a_worker_arrives():
    """Late workers grant what waited for them."""
    machine = PermissionMachine()
    assert ask(machine, "a") == set()
    assert machine.nothing_running(1.0) == machine.tick(20.0, 0.0) == []
    granted = outcome(machine.add_worker("w", 1, 1, None, 30.0))
    assert granted == {("a", "granted")}


def test_a_transformation_that_waits_lends_its_slot():
    """With a single slot, a chain of nested calls goes all the way down."""
    machine = machine_with(1)
    assert ask(machine, "a") == {("a", "granted")}
    assert ask(machine, "b", owner="a", depth=1) == {("b", "granted")}
    assert ask(machine, "c", owner="b", depth=2) == {("c", "granted")}
    statistics = machine.statistics()
    assert (statistics.slots_in_use, statistics.lent) == (1, 2)


def test_resuming_never_blocks():
    """An owner takes its slot back although somebody uses it."""
    machine = machine_with(1)
    ask(machine, "a")
    ask(machine, "b", owner="a", depth=1)
    assert ask(machine, "x") == set()
    machine.release("b", "w", 0.0)
    assert machine.statistics().slots_in_use == 1
    ask(machine, "shared", owner="a")
    ask(machine, "x2", owner="shared")
    machine.release("shared", "w", 0.0)
    machine.validate()


def test_the_deepest_goes_first_and_nobody_overtakes():
    """Order of admission: depth, then arrival; a try waits in no queue."""
    machine = machine_with(1)
    ask(machine, "running")
    for lease_id, depth in (("p", 1), ("q", 2), ("r", 2), ("s", 0)):
        assert ask(machine, lease_id, depth=depth) == set()
    assert ask(machine, "try", depth=2, wait=False) == {("try", "capacity")}
    order = []
    current = "running"
    for _ in range(4):
        [decision] = machine.key_finished(current, 0.0)
        current = decision.lease_id
        order.append(current)
    assert order == ["q", "r", "p", "s"]


def test_a_try_may_use_the_slot_of_its_owner_but_overtakes_nobody():
    """By asking, the owner lends its slot; who waits as deep comes first."""
    machine = machine_with(1)
    ask(machine, "a")
    ask(machine, "b", depth=1)
    same_depth = ask(machine, "t1", owner="a", depth=1, wait=False)
    assert same_depth == {("t1", "capacity")}
    assert machine.statistics().lent == 0
    deeper = ask(machine, "t2", owner="a", depth=2, wait=False)
    assert deeper == {("t2", "granted")}
    assert machine.statistics().over_capacity_total == 0


def test_a_cycle_is_refused_with_its_keys():
    """A transformation that asks for one that waits for it would wait for ever."""
    machine = machine_with(2)
    ask(machine, "b", owner="a")
    ask(machine, "c", owner="b")
    [refused] = machine.request(Request("again", "w", "a", "c"), 0.0)
    assert refused.reason.startswith("cycle: c -> a -> b -> c:")
    assert ask(machine, "self", key="a", owner="a") == {("self", "cycle")}
    assert machine.statistics().refused_total["cycle"] == 2


def test_a_long_cycle_is_abbreviated():
    """The reason stays readable, and the walk survives a deep chain."""
    machine = PermissionMachine()
    machine.add_worker("w", 1, 1, 10_000, 0.0)
    for number in range(5000):
        ask(machine, f"k{number + 1}", owner=f"k{number}", depth=number)
    [refused] = machine.request(Request("again", "w", "k0", "k5000"), 0.0)
    assert "more) -> " in refused.reason and len(refused.reason) < 500


def test_the_ceiling_refuses_when_everything_held_waits():
    """The reason names the numbers."""
    machine = PermissionMachine()
    machine.add_worker("w", 1, 3, 2, 0.0)
    ask(machine, "a")
    ask(machine, "b", owner="a", depth=1)
    [refused] = machine.request(Request("c", "w", "c", "b", 2), 0.0)
    assert refused.reason.startswith("ceiling: 2 transformations wait for nested ones")
    assert machine.statistics().refused_total["ceiling"] == 1


@pytest.mark.parametrize(
    ("load", "granted"), [(0.0, 5), (0.49, 5), (0.5, 1), (0.85, 1), (0.86, 0)]
)
def test_an_epoch_grants_by_load(load, granted):
    """5 % of 100 slots when there is little load, one, or none."""
    machine = machine_with(100)
    for number in range(110):
        ask(machine, f"k{number}")
    assert machine.tick(9.9, load) == []
    assert len(machine.tick(10.0, load)) == granted
    assert machine.tick(10.1, load) == []


def test_what_waits_unseen_does_not_stop_everything():
    """All slots are taken, and nothing ends: one more after 60 s, 120 s, 240 s, ..."""
    machine = machine_with(2)
    for number in range(10):
        ask(machine, f"k{number}")
    when = [n * 10.0 for n in range(1, 98) if machine.tick(n * 10.0, 1.0)]
    assert when == [60.0, 120.0, 240.0, 480.0, 960.0]
    # What ends is a sign of life.
    machine.key_finished("k0", 980.0)
    when = [n * 10.0 for n in range(99, 120) if machine.tick(n * 10.0, 1.0)]
    assert when == [1050.0, 1110.0]


def test_what_an_epoch_leaves_is_allowed_to_tries():
    """The allowance belongs to one epoch."""
    machine = machine_with(40)
    for number in range(40):
        ask(machine, f"k{number}")
    assert ask(machine, "t0", wait=False) == {("t0", "capacity")}
    machine.tick(10.0, 0.1)
    assert ask(machine, "t1", wait=False, now=11.0) == {("t1", "granted")}
    assert ask(machine, "t2", wait=False, now=20.0) == {("t2", "capacity")}
    assert ask(machine, "t3", wait=False, now=12.0) == {("t3", "granted")}
    assert ask(machine, "t4", wait=False, now=12.0) == {("t4", "capacity")}
    assert machine.statistics().over_capacity_total == 2


def test_leases_for_one_key_share_a_slot_and_its_end():
    """The second asker joins; the waiting ones join when the first is admitted."""
    machine = machine_with(1)
    ask(machine, "a")
    assert ask(machine, "a2", key="a") == {("a2", "granted")}
    assert ask(machine, "b") == ask(machine, "b2", key="b") == set()
    freed = outcome(machine.key_finished("a", 0.0))
    assert freed == {("b", "granted"), ("b2", "granted")}
    assert machine.statistics().slots_in_use == 1


def test_a_request_for_a_task_that_just_ended_may_go_ahead():
    """It ran without a lease; who waits for it finds the result."""
    machine = machine_with(1)
    ask(machine, "a")
    ask(machine, "b")
    assert outcome(machine.key_finished("b", 0.0)) == {("b", "granted")}
    assert machine.live == 1


def test_the_end_of_an_older_task_does_not_end_a_new_lease():
    """Granted, but the task was not submitted yet."""
    machine = machine_with(1)
    ask(machine, "a")
    machine.key_lost("a", 0.0)
    assert machine.live == 1
    machine.key_seen("a")
    machine.key_lost("a", 0.0)
    assert machine.live == 0


def test_timeouts():
    """A grant that is never used ends; so does one bound to nothing."""
    machine = machine_with(3)
    ask(machine, "unseen")
    ask(machine, "seen")
    ask(machine, "unbound", key=None)
    machine.key_seen("seen")
    machine.expire(59.9)
    assert machine.live == 3
    machine.expire(60.0)
    assert machine.live == 2
    machine.expire(3600.0)
    assert machine.held_by("w") == ["seen"]
    assert machine.statistics().expired_total == 2


def test_withdrawing_counts_as_refused_for_capacity():
    """Patience ends only for what still waits."""
    machine = machine_with(1)
    ask(machine, "a")
    ask(machine, "b")
    [refused] = machine.withdraw("b", "w", "no slot within 1 s (timeout)", 1.0)
    assert refused == Refused("b", "w", "capacity: no slot within 1 s (timeout)")
    assert machine.withdraw("a", "w", "late", 1.0) == []
    assert machine.withdraw("b", "w", "twice", 1.0) == []
    assert machine.statistics().refused_total["capacity"] == 1


def test_a_restart_ends_all_leases_and_keeps_the_workers():
    """Nothing of before may hold a slot."""
    machine = machine_with(1)
    ask(machine, "a")
    ask(machine, "b")
    machine.end_all(1.0)
    machine.validate()
    assert (machine.live, machine.capacity) == (0, 1)


def test_dead_entries_do_not_pile_up():
    """Requests that come and go while the queue never moves leave nothing behind."""
    machine = machine_with(1)
    ask(machine, "running")
    for number in range(2000):
        ask(machine, f"k{number}", owner="root")
        machine.release(f"k{number}", "w", 0.0)
    ledger = machine._ledger
    assert len(ledger._queue) < 100
    assert set(ledger.leases) == {"running"}
    machine.validate()


def test_releases_are_remembered_for_a_while():
    """Not for ever, and not any number of them: an id is for one request."""
    machine = machine_with(1)
    machine.release("x", "w", 0.0)
    machine.release("y", "w", MEMORY)
    assert ask(machine, "x", now=MEMORY) == {("x", "released")}
    machine.release("z", "w", MEMORY + 1)
    assert ask(machine, "x", now=MEMORY + 1) == {("x", "granted")}
    for number in range(MOST + 10):
        machine.release(f"id{number}", "w", MEMORY + 2)
    assert ask(machine, "id9", now=MEMORY + 2) == set()  # it waits for the slot
    assert ask(machine, "id10", now=MEMORY + 2) == {("id10", "released")}


def test_an_inconsistency_is_told_with_the_story():
    """A counter that is wrong is found, and the events of the lease are listed."""
    machine = machine_with(1)
    ask(machine, "a")
    ask(machine, "b")
    machine._ledger.leases["b"].granted_at = 1.0
    with pytest.raises(Inconsistent, match="requested"):
        machine.validate()
    assert [line.event for line in machine.story("a")] == ["requested", "granted"]


@pytest.mark.parametrize(
    "option", ["epoch", "start_timeout", "unbound_timeout", "patience"]
)
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), True, "x"])
def test_options_must_be_seconds(option, value):
    """The error names the option."""
    with pytest.raises(ValueError, match=option):
        PermissionMachine(**{option: value})

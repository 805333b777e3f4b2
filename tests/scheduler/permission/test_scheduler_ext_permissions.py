"""The permission machine, compared step by step with a model that is plainly correct.

``PermissionRules`` drives any *subject*: here the machine itself, in
test_scheduler_ext_rpc.py the plugin of a real scheduler.
"""

from __future__ import annotations

import random

import pytest
from helpers.examples import examples
from helpers.permission_rules import (
    PermissionRules,
    outcome,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler_ext.permission import wanted
from scheduler_ext.permission.events import (
    Inconsistent,
    Refused,
    Request,
)
from scheduler_ext.permission.machine import PermissionMachine
from scheduler_ext.permission.released import MEMORY, MOST

# -- the model ---------------------------------------------------------------------


# -- the subject, and the rules ----------------------------------------------------


class PurePermissionRules(PermissionRules):
    """The machine itself."""


PurePermissionRules.TestCase.settings = settings(
    max_examples=examples(200),
    stateful_step_count=40,
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


@settings(max_examples=examples(100))
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


def test_what_cannot_wait_is_wanted_for_a_while():
    """Until it has a slot, runs elsewhere, or is not asked for any more."""
    machine = machine_with(1)
    ask(machine, "a")
    for number in range(3):
        ask(machine, f"k{number}", wait=False, now=1.0)
        ask(machine, f"k{number}", wait=False, now=2.0 + number)
    assert machine.wanted(5.0) == 3
    assert machine.some_wanted(5.0, 2) == ["k0", "k1"]
    machine.fell_back("k1")
    machine.key_finished("a", 5.0)
    ask(machine, "k2", wait=False, now=5.0)
    assert machine.some_wanted(5.0, 9) == ["k0"]
    assert machine.wanted(2.0 + wanted.MEMORY) == 1
    assert machine.wanted(2.1 + wanted.MEMORY) == 0
    for number in range(wanted.MOST + 1):
        ask(machine, f"n{number}", wait=False, now=20.0)
    assert machine.wanted(20.0) == wanted.MOST
    assert machine.statistics().fallbacks_total == 1


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
    assert len(ledger.line) == 0
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

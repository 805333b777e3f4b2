"""The permission machine and a model of it, driven by the same rules."""

from __future__ import annotations

import pickle
from collections.abc import Callable
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
    Start,
)
from scheduler_ext.permission.machine import PermissionMachine
from scheduler_ext.permission.needs import Needs
from scheduler_ext.permission.released import MEMORY

EPOCH = 10.0


START_TIMEOUT = 60.0


UNBOUND_TIMEOUT = 3600.0


PATIENCE = 60.0


WORKERS = ("w0", "w1", "w2")


CLIENT = "client"


KEYS = tuple(f"base-{name}" for name in "abcdefgh")


#: the resource that only one of the workers has
GPU = (("gpu", 1.0),)


def outcome(decisions):
    """Decisions without their order and wording: {(id, "granted" or refusal kind)}.

    A task that may start is {(key, "start")}.
    """
    return {
        (d.key, "start")
        if isinstance(d, Start)
        else (
            d.lease_id,
            "granted" if isinstance(d, Granted) else d.reason.split(":")[0],
        )
        for d in decisions
    }


def snapshot(machine):
    """Everything that the machine remembers, to be compared later."""
    return pickle.dumps(vars(machine))


@dataclass
class ModelLease:
    request: Request
    granted_at: float | None = None

    @property
    def depth(self):
        return self.request.depth

    @property
    def needs(self):
        return self.request.needs

    @property
    def name(self):
        return self.request.key or f"lease {self.request.lease_id}"


@dataclass
class ModelSite:
    slots: int
    ceiling: int
    units: float | None = None
    gpus: float = 0.0
    open: bool = True
    top_level: bool = True


@dataclass
class ModelPlace:
    name: str
    worker: str
    needs: Needs
    task: bool = False
    stores: bool = False


@dataclass
class ModelHeld:
    name: str
    depth: int
    needs: Needs


@dataclass
class Model:
    """The rules, each spelled out as a scan over a list of leases.

    Only *which* of several workers with a free slot gets a transformation is taken from
    the machine (``chosen``), and checked.
    """

    #: returns the name of the worker on which the machine has put a transformation
    chosen: Callable[[str], str]
    workers: dict[str, ModelSite] = field(default_factory=dict)
    #: in order of arrival
    leases: list[ModelLease] = field(default_factory=list)
    places: dict[str, ModelPlace] = field(default_factory=dict)
    #: tasks that are held back, in order of arrival
    held: list[ModelHeld] = field(default_factory=list)
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
        return sum(site.slots for site in self.workers.values())

    @property
    def ceiling(self):
        return sum(site.ceiling for site in self.workers.values())

    def granted(self):
        return [v for v in self.leases if v.granted_at is not None]

    def admitted(self):
        """Names of the admitted transformations; an unbound lease has one of its own."""
        return {v.name for v in self.granted()}

    def waits(self, name):
        return any(v.request.owner == name for v in self.leases)

    def computing(self):
        return [name for name in self.admitted() if not self.waits(name)]

    def takes(self, place):
        return not (place.stores or self.waits(place.name))

    def at(self, worker):
        return [p for p in self.places.values() if p.worker == worker]

    def taken(self, worker):
        return sum(map(self.takes, self.at(worker)))

    def in_use(self):
        return sum(map(self.takes, self.places.values()))

    def has_free(self, worker):
        site = self.workers[worker]
        return site.open and self.taken(worker) < site.slots

    def fits(self, worker, needs):
        site, here = self.workers[worker], self.at(worker)
        if needs.top_level:
            units = [
                p
                for p in here
                if p.needs.top_level and (site.units == 1 or self.takes(p))
            ]
            enough = site.units is None or len(units) + 1 <= site.units
            if not (site.top_level and enough):
                return False
        gpus = sum(bool(p.needs.resources) for p in here)
        return not needs.resources or gpus + 1 <= site.gpus

    def spots(self, needs):
        """The workers with a free slot for a transformation."""
        return [w for w in self.workers if self.has_free(w) and self.fits(w, needs)]

    def any_worker(self, needs):
        """The workers that could ever run it."""
        return [
            w
            for w, site in self.workers.items()
            if site.open and (not needs.resources or site.gpus >= 1)
        ]

    def find(self, lease_id):
        return next((v for v in self.leases if v.request.lease_id == lease_id), None)

    def queue(self):
        """The leases that wait, in the order in which they will be admitted."""
        waiting = [v for v in self.leases if v.granted_at is None]
        return sorted(waiting, key=lambda v: -v.depth)  # sorted() is stable

    def heads(self):
        """The first of each kind that waits; tasks come before requests as deep."""
        entries = sorted([*self.held, *self.queue()], key=lambda v: -v.depth)
        heads = {}
        for entry in entries:
            heads.setdefault((type(entry), entry.needs), entry)
        return list(heads.values())

    def put(self, name, needs, *, exceed=False, prefer=None):
        """Take over the machine's choice of a worker, if it is one."""
        spots = self.spots(needs)
        worker = self.chosen(name)
        if spots:
            assert worker in spots
            if prefer in spots:
                assert worker == prefer
        else:
            # invariant 1: only the load rule and a broken deadlock exceed the capacity
            assert exceed and worker in self.any_worker(needs)
        waits = self.waits(name)
        self.over_capacity += not (self.has_free(worker) or waits)
        self.places[name] = ModelPlace(name, worker, needs)

    def admit(self, lease, now, *, exceed=False, joins=False):
        key = lease.request.key
        same = [
            v
            for v in self.leases
            if v is lease
            or (key is not None and v.request.key == key and v.granted_at is None)
        ]
        for each in same:
            each.granted_at = now
        decided = {(v.request.lease_id, "granted") for v in same}
        if not joins and lease.name not in self.places:
            if self.spots(lease.needs) or (exceed and self.any_worker(lease.needs)):
                holder = lease.request.holder
                self.put(lease.name, lease.needs, exceed=exceed, prefer=holder)
        held = [h for h in self.held if h.name == key]
        if held and key in self.places:
            self.held.remove(held[0])
            decided.add((key, "start"))
        return decided

    def start(self, held, *, exceed=False):
        self.held.remove(held)
        self.put(held.name, held.needs, exceed=exceed)
        return {(held.name, "start")}

    def give(self, entry, now, *, exceed=False):
        if isinstance(entry, ModelLease):
            return self.admit(entry, now, exceed=exceed)
        return self.start(entry, exceed=exceed)

    def pump(self, now):
        decided = set()
        while self.capacity:
            full = len(self.admitted()) >= self.ceiling
            for entry in self.heads():
                if full and isinstance(entry, ModelLease):
                    if not self.computing():
                        self.leases.remove(entry)
                        decided.add((entry.request.lease_id, "ceiling"))
                        break
                elif self.spots(entry.needs):
                    decided |= self.give(entry, now)
                    break
            else:
                break
        return decided

    def exceed(self, now, least_depth=0):
        full = len(self.admitted()) >= self.ceiling
        for entry in self.heads():
            lease = isinstance(entry, ModelLease)
            if (lease and full) or (not lease and entry.depth < least_depth):
                continue
            if lease or self.any_worker(entry.needs):
                return self.give(entry, now, exceed=True)
        return set()

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
        joins = key is not None and (key in self.admitted() or key in self.places)
        overtakes = any(v.depth >= request.depth for v in self.queue())
        self.leases.append(lease)  # its own request lends out its owner's slot
        if request.wait or joins:
            joined = self.admit(lease, now, joins=True) if joins else set()
            return joined | self.pump(now)
        if len(self.admitted()) < self.ceiling and not overtakes:
            free = bool(self.spots(lease.needs))
            allowed = self.allowance > 0 and now - self.epoch_started < EPOCH
            if free or (allowed and self.any_worker(lease.needs)):
                self.allowance -= not free
                return self.admit(lease, now, exceed=not free) | self.pump(now)
        self.leases.remove(lease)
        return {(request.lease_id, "capacity")}

    def end(self, which, now):
        ended = [v for v in self.leases if which(v)]
        self.moves |= any(v.granted_at is not None for v in ended)
        self.leases = [v for v in self.leases if not which(v)]
        self.seen &= {v.request.key for v in self.leases}
        left = {v.name for v in self.leases}
        for lease in ended:
            place = self.places.get(lease.name)
            if place is not None and not place.task and lease.name not in left:
                del self.places[lease.name]
        return self.pump(now)

    def add_worker(self, address, site, any_work, now):
        before = self.workers.get(address)
        if before is not None:
            site = replace(site, open=before.open, top_level=before.top_level)
        if any_work is not None:
            site.open = any_work
        self.workers[address] = site
        return self.pump(now)

    def set_open(self, address, any_work, top_level, now):
        site = self.workers.get(address)
        if site is not None:
            site.open = site.open if any_work is None else any_work
            site.top_level = site.top_level if top_level is None else top_level
        return self.pump(now)

    def remove_worker(self, address, now):
        self.workers.pop(address, None)
        self.places = {k: p for k, p in self.places.items() if p.worker != address}
        return self.remove_holder(address, now)

    def remove_holder(self, holder, now):
        return self.end(lambda v: v.request.holder == holder, now)

    def release(self, lease_id, now):
        return self.end(lambda v: v.request.lease_id == lease_id, now)

    def leave(self, key):
        self.places.pop(key, None)
        self.held = [h for h in self.held if h.name != key]

    def task_ready(self, key, depth, needs, prefer, forced):
        """Return the worker that gets it, or None."""
        place = self.places.get(key)
        if place is not None and self.workers[place.worker].open:
            place.task = True
            self.held = [h for h in self.held if h.name != key]
            return place.worker
        if self.spots(needs) or (forced and self.any_worker(needs)):
            before = self.over_capacity
            old = self.places.pop(key, None)
            self.held = [h for h in self.held if h.name != key]
            if old is None or self.spots(needs):
                self.put(key, needs, exceed=forced, prefer=prefer)
            self.over_capacity = before  # a forced task is no grant
            self.places[key].task = True
            return self.places[key].worker
        self.leave(key)
        self.held.append(ModelHeld(key, depth, needs))
        return None

    def task_stores(self, key, now):
        if key in self.places:
            self.places[key].stores = True
        return self.pump(now)

    def task_left(self, key, now):
        self.leave(key)
        return self.pump(now)

    def key_seen(self, key):
        if any(v.request.key == key for v in self.leases):
            self.seen.add(key)

    def key_finished(self, key, now):
        self.leave(key)
        mine = [v for v in self.leases if v.request.key == key]
        told = {(v.request.lease_id, "granted") for v in mine if v.granted_at is None}
        return told | self.end(lambda v: v.request.key == key, now)

    def key_lost(self, key, now):
        if key in self.seen and key in self.admitted():
            self.leave(key)
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
        if self.moves or not (self.capacity and (self.queue() or self.held)):
            self.moves, self.epochs_still = False, [now]
        elif now - self.epochs_still[-1] >= max(
            PATIENCE, self.epochs_still[-1] - self.epochs_still[0]
        ):
            self.epochs_still.append(now)
            quota = max(quota, 1)
        decided = set()
        while quota and (more := self.exceed(now, least_depth=1)):
            decided |= more
            quota -= 1
        self.allowance = quota
        return decided | self.pump(now)

    def nothing_running(self, now):
        if not self.capacity:
            return set()
        decided = self.exceed(now)
        if not decided and self.queue() and len(self.admitted()) >= self.ceiling:
            head = self.queue()[0]
            self.leases.remove(head)
            decided = {(head.request.lease_id, "ceiling")}
        return decided | self.pump(now)

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

    def add_worker(self, address, processes, throttle, ceiling, now, **further):
        return outcome(
            self.machine.add_worker(
                address, processes, throttle, ceiling, now, **further
            )
        )

    def remove_worker(self, address, now):
        return outcome(self.machine.remove_worker(address, now))

    def remove_holder(self, holder, now):
        return outcome(self.machine.remove_holder(holder, now))

    def set_open(self, address, any_work, top_level, now):
        return outcome(
            self.machine.set_open(address, now, any_work=any_work, top_level=top_level)
        )

    def task_stores(self, key, now):
        return outcome(self.machine.task_stores(key, now))

    def task_left(self, key, now):
        return outcome(self.machine.task_left(key, now))

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
        self.model = Model(self.chosen)
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

    def chosen(self, key):
        """The name of the worker on which the machine has put a transformation."""
        place = self.machine.places.of(key)
        names = {self.subject.holder_id(name): name for name in WORKERS}
        return None if place is None else names[place.site.address]

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
        units=st.sampled_from((None, None, 1.0, 2.0)),
        any_work=st.sampled_from((None, None, False, True)),
    )
    def add_worker(self, worker, processes, throttle, ceiling, units, any_work):
        gpus = 1.0 if worker == WORKERS[0] else 0.0
        site = ModelSite(processes * throttle, ceiling, units, gpus)
        offer = (worker, processes, throttle, ceiling, self.now)
        further = {"units": units, "supply": {"gpu": gpus}}
        if not self.steers_time:
            any_work = None
        elif any_work is not None:
            further["any_work"] = any_work
        decided = self.subject.add_worker(*offer, **further)
        assert decided == self.model.add_worker(worker, site, any_work, self.now)
        assert self.subject.add_worker(*offer, **further) == set()

    @rule(worker=st.sampled_from(WORKERS))
    def remove_worker(self, worker):
        self.released = None  # over RPC, another worker takes its place
        decided = self.subject.remove_worker(worker, self.now)
        assert decided == self.model.remove_worker(worker, self.now)

    @precondition(lambda self: self.steers_time)
    @rule(
        worker=st.sampled_from(WORKERS),
        any_work=st.sampled_from((None, False, True, True)),
        top_level=st.sampled_from((None, False, True, True)),
    )
    def set_open(self, worker, any_work, top_level):
        decided = self.subject.set_open(worker, any_work, top_level, self.now)
        assert decided == self.model.set_open(worker, any_work, top_level, self.now)

    @precondition(lambda self: self.steers_time)
    @rule(
        key=st.sampled_from(KEYS),
        depth=st.integers(0, 3),
        resources=st.sampled_from(((), (), GPU)),
        prefer=st.sampled_from((None, *WORKERS)),
        forced=st.sampled_from((False, False, False, True)),
    )
    def task_ready(self, key, depth, resources, prefer, forced):
        needs = Needs(not depth, resources)
        decided = self.machine.task_ready(
            key, depth, self.now, needs=needs, prefer=prefer, forced=forced
        )
        expected = self.model.task_ready(key, depth, needs, prefer, forced)
        assert decided == expected
        assert self.machine.holds_back(key) == (decided is None)

    @precondition(lambda self: self.steers_time)
    @rule(key=st.sampled_from(KEYS))
    def task_stores(self, key):
        decided = self.subject.task_stores(key, self.now)
        assert decided == self.model.task_stores(key, self.now)

    @precondition(lambda self: self.steers_time)
    @rule(key=st.sampled_from(KEYS))
    def task_left(self, key):
        decided = self.subject.task_left(key, self.now)
        assert decided == self.model.task_left(key, self.now)

    @rule()
    def remove_client(self):
        self.released = None
        decided = self.subject.remove_holder(CLIENT, self.now)
        assert decided == self.model.remove_holder(CLIENT, self.now)

    @rule(
        holder=st.integers(0, 3),
        key=st.one_of(st.none(), *[st.sampled_from(KEYS)] * 3),
        owner=st.one_of(st.none(), *[st.sampled_from(KEYS)] * 3),
        depth=st.integers(0, 3),
        wait=st.sampled_from((True, True, True, False)),
        resources=st.sampled_from(((), (), (), GPU)),
    )
    def request(self, holder, key, owner, depth, wait, resources):
        self.ids += 1
        holder = self.holders[holder % len(self.holders)]
        needs = Needs(False, resources)
        request = Request(f"id{self.ids}", holder, key, owner, depth, wait, needs)
        decided = self.subject.request(request, self.now)
        assert decided == self.model.request(request, self.now)

    @precondition(has_leases)
    @rule(number=st.integers(0, 50))
    def repeat_request(self, number):
        request = self.some_lease(number)
        before = snapshot(self.machine)
        decided = self.subject.request(request, self.now)
        assert decided == self.model.request(request, self.now)
        assert snapshot(self.machine) == before

    @precondition(has_leases)
    @rule(number=st.integers(0, 50))
    def release(self, number):
        request = self.some_lease(number)
        lease = (request.lease_id, request.holder, self.now)
        decided = self.subject.release(*lease)
        assert decided == self.model.release(request.lease_id, self.now)
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
        decided = self.subject.key_finished(key, self.now)
        assert decided == self.model.key_finished(key, self.now)

    @precondition(lambda self: self.steers_time)
    @rule(key=st.sampled_from(KEYS))
    def key_lost(self, key):
        decided = self.subject.key_lost(key, self.now)
        assert decided == self.model.key_lost(key, self.now)

    @precondition(lambda self: self.steers_time)
    @rule(
        seconds=st.sampled_from((0.0, 0.4, EPOCH, START_TIMEOUT, UNBOUND_TIMEOUT)),
        load=st.sampled_from((0.0, 0.49, 0.5, 0.85, 0.86, 1.0)),
    )
    def time_passes(self, seconds, load):
        self.now += seconds
        assert self.subject.expire(self.now) == self.model.expire(self.now)
        decided = self.subject.tick(self.now, load)
        assert decided == self.model.tick(self.now, load)

    @rule()
    def nothing_running(self):
        waiting = len(self.model.queue())
        decided = self.subject.nothing_running(self.now)
        assert decided == self.model.nothing_running(self.now)
        if waiting and self.model.capacity:  # invariant 4: a decision follows
            assert decided

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
        assert statistics.admitted == len(model.admitted())
        assert statistics.slots_in_use == model.in_use()
        assert statistics.lent == sum(
            not p.stores and model.waits(p.name) for p in model.places.values()
        )
        assert statistics.storing == sum(p.stores for p in model.places.values())
        assert statistics.executing == sum(
            p.task and model.takes(p) for p in model.places.values()
        )
        assert statistics.held == len(model.held)
        # what has a place has it where the model thinks, and nothing else has one
        assert {k: self.chosen(k) for k in self.machine.places.keys()} == {
            k: p.worker for k, p in model.places.items()
        }
        # invariant 5: nothing waits while a slot is free that may take it
        if len(model.admitted()) < model.ceiling:
            assert not any(model.spots(entry.needs) for entry in model.heads())
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
        using = {p.name for p in model.places.values() if model.takes(p)}
        assert set(self.machine.holding(len(model.places))) == using
        assert set(ledger.owners()) == {v.request.owner for v in model.leases} - {None}
        for key in KEYS:
            requests = [v.request for v in model.leases]
            bound = [r.lease_id for r in requests if r.key == key]
            assert ledger.bound_to(key) == bound
            assert [r.lease_id for r in ledger.requests_for(key)] == bound
            owned = [r.lease_id for r in requests if r.owner == key]
            assert ledger.owned_by(key) == owned
            assert [r.lease_id for r in ledger.requested_by(key)] == owned

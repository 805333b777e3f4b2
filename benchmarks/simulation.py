"""Random trees of transformations on the pure permission machine, in virtual time.

What is real: :class:`scheduler_ext.permission.machine.PermissionMachine`, asked and told in
the same order as by the plugin on the scheduler; it also chooses the worker of each
transformation. What is modelled: the work. A worker has as many processors as slots;
while more transformations compute there, they share the processors evenly. A
transformation begins some time after it was sent, and its result takes some time to be
stored; both times are parameters. A worker may be lost: what ran there runs again from its
beginning, what that had called and does not have a result is cancelled, and another worker
comes. Calls whose results are stored are not computed again.

Without *places* (see `Policy`) the machine only counts the slots of the whole cluster, as an
earlier version did. Then a task goes to the worker with the fewest tasks, as Dask would send
it, waits there until a slot is free, and keeps its slot until its result is stored; a top-level
task keeps one of its worker's units to its end.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from figures import percentile
from trees import Node, Worker

from scheduler_ext.permission import epoch as constants
from scheduler_ext.permission.events import Decision, Granted, Refused, Request, Start
from scheduler_ext.permission.machine import PermissionMachine
from scheduler_ext.permission.needs import TOP_LEVEL

#: seconds between two looks at epochs, timeouts and deadlocks, as in the plugin
BEAT = 0.5
#: beats without any computation after which the plugin assumes a deadlock
QUIET_BEATS = 2
#: beats without any computation after which the simulation gives up
HOPELESS_BEATS = 1000
#: the address of all slots for a machine that does not know the workers
WHOLE_CLUSTER = "tcp://cluster"


@dataclass(frozen=True)
class Policy:
    """What is varied; the defaults are what is in use.

    ``lending`` is whether a waiting transformation lends its slot, ``places`` whether the
    machine knows the slots of each worker, and the rest are the constants of the same
    names in :mod:`scheduler_ext.permission.epoch`.
    """

    name: str = "deepest first"
    deepest_first: bool = True
    lending: bool = True
    places: bool = True
    low_load: float = constants.LOW_LOAD
    high_load: float = constants.HIGH_LOAD
    low_load_share: float = constants.LOW_LOAD_SHARE
    #: seconds
    epoch: float = 10.0

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Let the machine use these constants for a while."""
        names = ("LOW_LOAD", "HIGH_LOAD", "LOW_LOAD_SHARE")
        before = {name: getattr(constants, name) for name in names}
        try:
            for name in names:
                setattr(constants, name, getattr(self, name.lower()))
            yield
        finally:
            for name, value in before.items():
                setattr(constants, name, value)


@dataclass(frozen=True)
class Outcome:
    """What came of one simulation; times are virtual seconds."""

    policy: str
    workers: int
    slots: int
    transformations: int
    makespan: float
    #: the larger of all work / slots and the longest critical path, arrival included
    ideal: float
    #: all work / (slots x the time for which their workers were there)
    efficiency: float
    #: the share of the slots whose transformations compute, while others wait for a slot
    used_while_waiting: float
    #: workers that were lost, and the transformations that were lost with them
    lost: tuple[int, int]
    refused: int
    #: slots given out beyond the capacity
    over_capacity: int
    #: from a request to its grant: {50, 90, 99 or 100: seconds}
    waits: dict[int, float]
    #: from the arrival of a tree to its end: {50, 90, 99 or 100: seconds}
    spans: dict[int, float]
    #: most transformations, top-level ones included, that had begun and not ended
    most_held: int
    #: most nested transformations that computed at the same time
    most_computing: int
    #: deadlocks that were broken, and for how long nothing computed
    deadlocks: int
    idle_seconds: float
    #: trees that never ended
    unfinished: int
    #: events that the machine was told
    events: int

    @property
    def stretch(self) -> float:
        """Makespan as a multiple of the ideal."""
        return self.makespan / self.ideal


class Simulation:
    """One run: ``Simulation(...).run()``.

    Parameters: ``arrivals`` are the times at which the trees arrive, in order, and
    ``workers_at`` those at which the workers do (all at 0 by default); ``ceiling`` is per
    worker, None for the default; ``delay`` is the time from sending a task to its
    beginning, ``storing`` that from the end of its code until its result is stored.
    At each of the times ``losses_at`` the worker that came first is lost, and another one
    comes after ``replaced`` seconds; only with places.
    """

    def __init__(
        self,
        trees: Sequence[Node],
        *,
        workers: int,
        processes: int = 1,
        throttle: int = 3,
        policy: Policy | None = None,
        arrivals: Sequence[float] | None = None,
        workers_at: Sequence[float] | None = None,
        ceiling: int | None = None,
        delay: float = 0.0,
        storing: float = 0.0,
        losses_at: Sequence[float] = (),
        replaced: float = 3.0,
    ) -> None:
        self.policy = policy or Policy()
        if losses_at and not self.policy.places:
            raise ValueError("losses_at: allowed only with places")
        self.trees = trees
        self.arrivals = arrivals or [0.0] * len(trees)
        self.machine = PermissionMachine(epoch=self.policy.epoch)
        self.slots = workers * processes * throttle
        self.now = 0.0
        self._offer = (processes, throttle, ceiling)
        self._workers_at = workers_at or [0.0] * workers
        self._delay, self._storing = delay, storing
        self._losses_at, self._replaced = losses_at, replaced
        #: seconds for which workers were there that are lost
        self._served = 0.0
        self._lost_workers = self._lost_nodes = 0
        self._numbers = itertools.count()
        #: heap of (time, number, what happens then, with what)
        self._events_to_come: list[tuple[float, int, Callable[..., None], Any]] = []
        self._workers: dict[str, Worker] = {}
        #: {key: node} of all that was asked for and has not ended
        self._nodes: dict[str, Node] = {}
        #: top-level nodes that wait for a unit; for a machine without places
        self._arrived: deque[Node] = deque()
        #: {key of a top-level node: when it arrived}
        self._arrival_of: dict[str, float] = {}
        self._computing = self._nested_computing = 0
        self._held = 0
        self._left = len(trees)
        self._waits: list[float] = []
        self._spans: list[float] = []
        self._refused = self._most_held = self._most_computing = 0
        self._deadlocks = self._quiet_beats = self._events = 0
        self._idle = 0.0
        #: seconds of computing, and of slots, while something waits for a slot
        self._used = self._usable = 0.0

    def run(self) -> Outcome:
        """Let everything arrive and end, or find out that it never will."""
        with self.policy.applied():
            self._loop()
        nodes = [node for tree in self.trees for node in tree.walk()]
        work = sum(node.work for node in nodes)
        paths = [
            arrival + tree.critical_path()
            for arrival, tree in zip(self.arrivals, self.trees, strict=True)
        ]
        makespan = max(self.now, 1e-9)
        served = self._served + sum(
            makespan - worker.arrived for worker in self._workers.values()
        )
        offered = served * self.slots / len(self._workers_at)
        return Outcome(
            policy=self.policy.name,
            workers=len(self._workers_at),
            slots=self.slots,
            transformations=len(nodes),
            makespan=makespan,
            ideal=max(work / self.slots, *paths),
            efficiency=work / max(offered, 1e-9),
            used_while_waiting=self._used / self._usable if self._usable else 1.0,
            lost=(self._lost_workers, self._lost_nodes),
            refused=self._refused,
            over_capacity=self.machine.statistics().over_capacity_total,
            waits=_percentiles(self._waits),
            spans=_percentiles(self._spans),
            most_held=self._most_held,
            most_computing=self._most_computing,
            deadlocks=self._deadlocks,
            idle_seconds=self._idle,
            unfinished=self._left,
            events=self._events,
        )

    # -- time --------------------------------------------------------------------

    def _loop(self) -> None:
        for number, at in enumerate(self._workers_at):
            self._at(at, self._worker_arrives, f"tcp://worker-{number}")
        for at, tree in zip(self.arrivals, self.trees, strict=True):
            self._at(at, self._arrive, tree)
        for at in self._losses_at:
            self._at(at, self._lose_worker, None)
        to_come = max(*self._workers_at, *self.arrivals)
        self._at(BEAT, self._beat, None)
        quiet = 0
        while self._left and quiet < HOPELESS_BEATS:
            at, _, event, subject = heapq.heappop(self._events_to_come)
            if not self._computing and self._arrival_of:
                self._idle += at - self.now
            if self.machine.waiting or self.machine.held:
                capacity = len(self._workers) * self._offer[0] * self._offer[1]
                self._used += (at - self.now) * min(self._computing, capacity)
                self._usable += (at - self.now) * capacity
            self.now = at
            event(subject)
            if event == self._beat:
                busy = self._computing or self.now <= to_come
                quiet = 0 if busy else quiet + 1

    def _at(self, time: float, event: Callable[..., None], subject: Any) -> None:
        entry = (time, next(self._numbers), event, subject)
        heapq.heappush(self._events_to_come, entry)

    def _later(self, seconds: float, event: Callable[..., None], node: Node) -> None:
        """Let something happen to a node, unless that is lost before."""
        attempt = node.attempt

        def happen(_: None) -> None:
            if node.attempt == attempt:
                event(node)

        if seconds:
            self._at(self.now + seconds, happen, None)
        else:
            event(node)

    def _beat(self, _: None) -> None:
        """What ``SeamlessSchedulerPlugin.step`` does."""
        self._at(self.now + BEAT, self._beat, None)
        machine = self.machine
        quiet_beats, self._quiet_beats = self._quiet_beats, 0
        if not (machine.live or machine.held):
            return
        self._told(machine.expire(self.now))
        if machine.epoch_due(self.now):
            load = min(1.0, self._computing / self.slots)
            self._told(machine.tick(self.now, load))
        if not (machine.waiting or machine.held) or self._computing:
            return
        if quiet_beats + 1 < QUIET_BEATS:
            self._quiet_beats = quiet_beats + 1
            return
        self._deadlocks += 1
        self._told(machine.nothing_running(self.now))

    # -- workers -----------------------------------------------------------------

    def _worker_arrives(self, address: str) -> None:
        processes, throttle, ceiling = self._offer
        slots = processes * throttle
        self._workers[address] = Worker(address, slots, self.now, since=self.now)
        if self.policy.places:
            offer = (address, processes, throttle, ceiling)
        else:
            number = len(self._workers)
            each = ceiling and ceiling * number
            offer = (WHOLE_CLUSTER, number * processes, throttle, each)
        self._told(self.machine.add_worker(*offer, self.now))
        self._fill_units()

    def _change(self, worker: Worker) -> None:
        """What computes on a worker has changed."""
        worker.version += 1
        if worker.computing:
            self._at(worker.next_done(), self._work_done, (worker, worker.version))

    def _work_done(self, subject: tuple[Worker, int]) -> None:
        worker, version = subject
        if worker.version != version:
            return
        worker.advance(self.now)
        _, _, node = heapq.heappop(worker.computing)
        self._computing -= 1
        self._nested_computing -= node.parent is not None
        self._piece_done(node)
        self._change(worker)

    def _lose_worker(self, _: None) -> None:
        """The oldest worker is lost; told in the order in which Dask tells the plugin."""
        worker = next(iter(self._workers.values()), None)
        if worker is None:
            return
        address = worker.address
        here = [node for node in self._nodes.values() if node.worker is worker]
        self._lost_workers += 1
        self._lost_nodes += len(here)
        self._served += self.now - worker.arrived
        calls = [child for node in here for child in node.children[: node.called]]
        # what was called by another one here is lost, but not run again
        again = [n for n in here if n.parent is None or n.parent.worker is not worker]
        self._told(self.machine.set_open(address, self.now, any_work=False))
        for node in here:
            self._stop(node)
            node.called = node.pending = 0
            node.worker = None
        del self._workers[address]
        for node in here:
            self._told(self.machine.task_left(node.key, self.now))
        for node in again:
            self._send(node)
        self._told(self.machine.remove_worker(address, self.now))
        for child in calls:
            self._cancel(child, released=False)
        name = f"tcp://worker-{len(self._workers_at) + self._lost_workers}"
        self._at(self.now + self._replaced, self._worker_arrives, name)

    def _cancel(self, node: Node, *, released: bool) -> None:
        """Nobody waits for a transformation any more, nor for what it has called."""
        if self._nodes.pop(node.key, None) is None:
            return
        self._stop(node)
        if node.leased:
            self._told(self.machine.task_left(node.key, self.now))
        if released:
            assert node.parent is not None and node.parent.worker is not None
            holder = node.parent.worker.address
            self._told(self.machine.release(node.key, holder, self.now))
        for child in node.children[: node.called]:
            self._cancel(child, released=True)
        node.called = node.pending = 0
        node.leased, node.worker = False, None

    def _stop(self, node: Node) -> None:
        """Its code is stopped where it is."""
        node.attempt += 1
        self._held -= node.begun
        node.begun = False
        worker = node.worker
        if worker is None:
            return
        worker.advance(self.now)
        left = [entry for entry in worker.computing if entry[2] is not node]
        if len(left) < len(worker.computing):
            heapq.heapify(left)
            worker.computing = left
            self._computing -= 1
            self._nested_computing -= node.parent is not None
            self._change(worker)

    # -- transformations -----------------------------------------------------------

    def _arrive(self, tree: Node) -> None:
        tree.key = f"base-{next(self._numbers)}"
        self._nodes[tree.key] = tree
        self._arrival_of[tree.key] = self.now
        if self.policy.places:
            self._send(tree)
        else:
            self._arrived.append(tree)
            self._fill_units()

    def _fill_units(self) -> None:
        """Send top-level work to workers with a free unit, without places."""
        while self._arrived and self._workers:
            worker = min(self._workers.values(), key=lambda w: (w.tasks, w.address))
            self._assign(self._arrived.popleft(), worker)

    def _send(self, node: Node) -> None:
        """Dask is ready to send the task of a node."""
        if not self.policy.places:
            worker = min(self._workers.values(), key=lambda w: (w.tasks, w.address))
            self._assign(node, worker)
            return
        if node.parent is None:
            address = self.machine.task_ready(node.key, 0, self.now, needs=TOP_LEVEL)
        else:
            address = self.machine.task_ready(node.key, node.depth, self.now)
        self._events += 1
        if address is not None:
            node.worker = self._workers[address]
            self._later(self._delay, self._begin, node)

    def _assign(self, node: Node, worker: Worker) -> None:
        """Give a task to a worker, which may have no slot for it."""
        node.worker = worker
        worker.tasks += 1
        worker.queue.append(node)
        self._begin_queued(worker)

    def _begin_queued(self, worker: Worker) -> None:
        for node in list(worker.queue):
            top_level = node.parent is None
            if worker.taken < worker.slots and (
                not top_level or worker.units < worker.slots
            ):
                worker.queue.remove(node)
                worker.taken += 1
                worker.units += top_level
                self._later(self._delay, self._begin, node)

    def _begin(self, node: Node) -> None:
        node.begun = True
        self._held += 1
        self._most_held = max(self._most_held, self._held)
        self._compute(node)

    def _compute(self, node: Node) -> None:
        """Do the next piece of a node's own work."""
        worker = node.worker
        assert worker is not None
        worker.advance(self.now)
        done = worker.progress + node.work / node.segments()
        heapq.heappush(worker.computing, (done, next(self._numbers), node))
        self._computing += 1
        if node.parent is not None:
            self._nested_computing += 1
            self._most_computing = max(self._most_computing, self._nested_computing)
        self._change(worker)

    def _piece_done(self, node: Node) -> None:
        if node.called == len(node.children):
            if self.policy.places:
                self._told(self.machine.task_stores(node.key, self.now))
            self._later(self._storing, self._end, node)
            return
        first = node.called
        last = len(node.children) if node.together else first + 1
        node.called = last
        called = [child for child in node.children[first:last] if not child.done]
        node.pending = len(called)
        if not called:
            self._compute(node)
            return
        worker = node.worker
        assert worker is not None
        worker.taken -= 1
        for child in called:
            self._ask(child, node)
        self._begin_queued(worker)

    def _ask(self, node: Node, owner: Node) -> None:
        assert owner.worker is not None
        node.key = f"base-{next(self._numbers)}"
        self._nodes[node.key] = node
        node.asked = self.now
        named = self.policy.lending and node.owner_known
        request = Request(
            lease_id=node.key,
            holder=owner.worker.address,
            key=node.key,
            owner=owner.key if named else None,
            depth=node.depth if self.policy.deepest_first else 0,
        )
        self._told(self.machine.request(request, self.now))

    def _told(self, decisions: Sequence[Decision]) -> None:
        self._events += 1
        for decision in decisions:
            if isinstance(decision, Start):
                self._send(self._nodes[decision.key])
                continue
            node = self._nodes[decision.lease_id]
            if isinstance(decision, Granted):
                assert node.parent is not None
                if node.parent.worker is None:  # the holder is being lost
                    continue
                node.leased = True
                self._waits.append(self.now - node.asked)
                self.machine.key_seen(node.key)
                self._events += 1
                self._send(node)
            elif isinstance(decision, Refused):
                self._refused += 1
                # It is computed by its caller, so without a slot.
                assert node.parent is not None
                node.worker = node.parent.worker
                self._begin(node)

    def _end(self, node: Node) -> None:
        self._held -= 1
        node.begun, node.done = False, True
        del self._nodes[node.key]
        worker = node.worker
        assert worker is not None
        if node.leased:
            self._told(self.machine.key_finished(node.key, self.now))
        else:
            self._told(self.machine.task_left(node.key, self.now))
        worker.tasks -= 1
        worker.taken -= 1
        parent = node.parent
        if parent is None:
            self._left -= 1
            self._spans.append(self.now - self._arrival_of.pop(node.key))
            worker.units -= 1
            self._begin_queued(worker)
            return
        self._begin_queued(worker)
        parent.pending -= 1
        if not parent.pending:
            assert parent.worker is not None
            parent.worker.taken += 1
            self._compute(parent)


def _percentiles(values: Sequence[float]) -> dict[int, float]:
    return {share: percentile(values, share) for share in (50, 90, 99, 100)}

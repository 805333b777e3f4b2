"""Random trees of transformations on the pure permission machine, in virtual time.

What is real: :class:`scheduler_ext.permission.machine.PermissionMachine`, asked and told in
the same order as by the plugin on the scheduler. What is modelled: the work. A cluster
has as many processors as slots; while more transformations compute than that, they
share the processors evenly. Where a task runs, and how long a message travels, is left
out: both are Dask's business, and the benchmarks of the real stack measure them.

Top-level transformations take one of as many units as there are slots, in order of
arrival, and keep it to their end, as they do on a real cluster.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from figures import percentile

from scheduler_ext.permission import machine as permissions
from scheduler_ext.permission.events import Decision, Granted, Request
from scheduler_ext.permission.machine import PermissionMachine

#: seconds between two looks at epochs, timeouts and deadlocks, as in the plugin
BEAT = 0.5
#: beats without any computation after which the plugin assumes a deadlock
QUIET_BEATS = 2
#: beats without any computation after which the simulation gives up
HOPELESS_BEATS = 1000
HOLDER = "tcp://holder"


@dataclass(frozen=True)
class Policy:
    """What is varied; the defaults are what is in use.

    ``lending`` is whether a waiting transformation lends its slot, and the rest are
    the constants of the same names in :mod:`scheduler_ext.permission.machine`.
    """

    name: str = "deepest first"
    deepest_first: bool = True
    lending: bool = True
    low_load: float = permissions.LOW_LOAD
    high_load: float = permissions.HIGH_LOAD
    low_load_share: float = permissions.LOW_LOAD_SHARE
    #: seconds
    epoch: float = 10.0

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Let the machine use these constants for a while."""
        names = ("LOW_LOAD", "HIGH_LOAD", "LOW_LOAD_SHARE")
        before = {name: getattr(permissions, name) for name in names}
        try:
            for name in names:
                setattr(permissions, name, getattr(self, name.lower()))
            yield
        finally:
            for name, value in before.items():
                setattr(permissions, name, value)


@dataclass(eq=False, slots=True)
class Node:
    """One transformation: ``work`` seconds of its own, around those that it calls."""

    work: float
    #: all children at the same time, or one after the other
    together: bool
    children: list[Node] = field(default_factory=list)
    #: whether the scheduler learns who asks for this one
    owner_known: bool = True
    depth: int = 0
    parent: Node | None = None
    key: str = ""
    #: seconds; when permission was asked for
    asked: float = 0.0
    #: children that were asked for, and of those the ones that have not ended
    called: int = 0
    pending: int = 0
    leased: bool = False

    def walk(self) -> Iterator[Node]:
        """This node and everything below it."""
        todo = [self]
        while todo:
            node = todo.pop()
            yield node
            todo += node.children

    def critical_path(self) -> float:
        """Seconds that the tree takes if there are processors without end."""
        below = [child.critical_path() for child in self.children]
        return self.work + (max(below, default=0.0) if self.together else sum(below))

    def segments(self) -> int:
        """In how many pieces its own work is done."""
        if not self.children:
            return 1
        return 2 if self.together else 1 + len(self.children)


def random_tree(
    rng: random.Random,
    *,
    depth: int = 5,
    width: int = 4,
    nodes: int = 60,
    mean_work: float = 1.0,
    unknown_owners: float = 0.0,
) -> Node:
    """A tree of at most ``nodes`` transformations with exponential work.

    ``unknown_owners`` is the share of calls of which the scheduler does not learn who
    asks: those from threads that user code has started.
    """

    def new(level: int) -> Node:
        known = rng.random() >= unknown_owners
        work = rng.expovariate(1 / mean_work)
        return Node(work, rng.random() < 0.5, owner_known=known, depth=level)

    root = new(0)
    count = 1
    # breadth first, so that a small budget does not end in one long branch
    todo = deque([root])
    while todo and count < nodes:
        node = todo.popleft()
        if node.depth + 1 >= depth:
            continue
        for _ in range(min(rng.randint(0, width), nodes - count)):
            child = new(node.depth + 1)
            child.parent = node
            node.children.append(child)
            todo.append(child)
            count += 1
    return root


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
    #: all work / (slots x makespan)
    efficiency: float
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

    Parameters: ``arrivals`` are the times at which the trees arrive, in order (all at
    0 by default); ``ceiling`` is per worker, None for the default.
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
        ceiling: int | None = None,
    ) -> None:
        self.policy = policy or Policy()
        self.trees = trees
        self.workers = workers
        self.arrivals = arrivals or [0.0] * len(trees)
        self.machine = PermissionMachine(epoch=self.policy.epoch)
        for number in range(workers):
            address = f"tcp://worker-{number}"
            self.machine.add_worker(address, processes, throttle, ceiling, 0.0)
        self.slots = self.machine.capacity
        self.now = 0.0
        self._numbers = itertools.count()
        self._nodes: dict[str, Node] = {}
        self._arrived: deque[Node] = deque()
        self._units = self.slots
        #: {key of a top-level node: when it arrived}
        self._arrival_of: dict[str, float] = {}
        #: seconds of work that each computing node has had since the beginning
        self._progress = 0.0
        #: heap of (progress at which a piece of work is done, number, node)
        self._computing: list[tuple[float, int, Node]] = []
        self._nested_computing = 0
        self._held = 0
        self._left = len(trees)
        self._waits: list[float] = []
        self._spans: list[float] = []
        self._refused = self._most_held = self._most_computing = 0
        self._deadlocks = self._quiet_beats = self._events = 0
        self._idle = 0.0

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
        return Outcome(
            policy=self.policy.name,
            workers=self.workers,
            slots=self.slots,
            transformations=len(nodes),
            makespan=makespan,
            ideal=max(work / self.slots, *paths),
            efficiency=work / (self.slots * makespan),
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
        arrivals = deque(zip(self.arrivals, self.trees, strict=True))
        beat = BEAT
        quiet = 0
        while self._left and quiet < HOPELESS_BEATS:
            done = self._next_done()
            until = min(beat, done, arrivals[0][0] if arrivals else beat)
            self._advance(until)
            if arrivals and arrivals[0][0] <= until:
                self._arrive(arrivals.popleft()[1])
            elif done <= until:
                _, _, node = heapq.heappop(self._computing)
                self._nested_computing -= node.parent is not None
                self._piece_done(node)
            else:
                beat += BEAT
                self._beat()
                quiet = 0 if self._computing or arrivals else quiet + 1

    def _next_done(self) -> float:
        if not self._computing:
            return float("inf")
        return self.now + (self._computing[0][0] - self._progress) / self._rate()

    def _rate(self) -> float:
        """Seconds of work per second that each computing node gets."""
        return min(1.0, self.slots / len(self._computing))

    def _advance(self, until: float) -> None:
        if self._computing:
            self._progress += (until - self.now) * self._rate()
        elif self._arrival_of:
            self._idle += until - self.now
        self.now = until

    def _beat(self) -> None:
        """What ``SeamlessSchedulerPlugin.step`` does."""
        machine = self.machine
        quiet_beats, self._quiet_beats = self._quiet_beats, 0
        if not machine.live:
            return
        self._told(machine.expire(self.now))
        if machine.epoch_due(self.now):
            load = min(1.0, len(self._computing) / self.slots)
            self._told(machine.tick(self.now, load))
        if not machine.waiting or self._computing:
            return
        if quiet_beats + 1 < QUIET_BEATS:
            self._quiet_beats = quiet_beats + 1
            return
        self._deadlocks += 1
        self._told(machine.nothing_running(self.now))

    # -- transformations -----------------------------------------------------------

    def _arrive(self, tree: Node) -> None:
        tree.key = f"base-{next(self._numbers)}"
        self._arrival_of[tree.key] = self.now
        self._arrived.append(tree)
        self._fill_units()

    def _fill_units(self) -> None:
        while self._units and self._arrived:
            self._units -= 1
            self._begin(self._arrived.popleft())

    def _begin(self, node: Node) -> None:
        self._held += 1
        self._most_held = max(self._most_held, self._held)
        self._compute(node)

    def _compute(self, node: Node) -> None:
        """Do the next piece of a node's own work."""
        done = self._progress + node.work / node.segments()
        heapq.heappush(self._computing, (done, next(self._numbers), node))
        if node.parent is not None:
            self._nested_computing += 1
            self._most_computing = max(self._most_computing, self._nested_computing)

    def _piece_done(self, node: Node) -> None:
        if node.called == len(node.children):
            self._end(node)
            return
        first = node.called
        last = len(node.children) if node.together else first + 1
        node.called = last
        node.pending = last - first
        for child in node.children[first:last]:
            self._ask(child, node)

    def _ask(self, node: Node, owner: Node) -> None:
        node.key = f"base-{next(self._numbers)}"
        self._nodes[node.key] = node
        node.asked = self.now
        named = self.policy.lending and node.owner_known
        request = Request(
            lease_id=node.key,
            holder=HOLDER,
            key=node.key,
            owner=owner.key if named else None,
            depth=node.depth if self.policy.deepest_first else 0,
        )
        self._told(self.machine.request(request, self.now))

    def _told(self, decisions: Sequence[Decision]) -> None:
        self._events += 1
        for decision in decisions:
            node = self._nodes.pop(decision.lease_id)
            if isinstance(decision, Granted):
                node.leased = True
                self._waits.append(self.now - node.asked)
                self.machine.key_seen(node.key)
                self._events += 1
            else:
                self._refused += 1
            # A refused one is computed by its caller, so without a slot.
            self._begin(node)

    def _end(self, node: Node) -> None:
        self._held -= 1
        if node.leased:
            self._told(self.machine.key_finished(node.key, self.now))
        parent = node.parent
        if parent is None:
            self._left -= 1
            self._spans.append(self.now - self._arrival_of.pop(node.key))
            self._units += 1
            self._fill_units()
            return
        parent.pending -= 1
        if not parent.pending:
            self._compute(parent)


def _percentiles(values: Sequence[float]) -> dict[int, float]:
    return {share: percentile(values, share) for share in (50, 90, 99, 100)}

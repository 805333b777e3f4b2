"""Trees of transformations and their workers, as the simulation sees them."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field


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
    #: whether its code executes or waits
    begun: bool = False
    #: whether its result is stored
    done: bool = False
    #: changes when it is lost, so that events of the lost attempt are ignored
    attempt: int = 0
    #: where it runs
    worker: Worker | None = None

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


@dataclass(eq=False, slots=True)
class Worker:
    """A worker; what computes there shares its processors."""

    address: str
    slots: int
    arrived: float
    #: seconds of work that each computing node has had, until `since`
    progress: float = 0.0
    since: float = 0.0
    #: heap of (progress at which a piece of work is done, number, node)
    computing: list[tuple[float, int, Node]] = field(default_factory=list)
    #: changes with each change of what computes
    version: int = 0
    # the rest is for a machine without places
    tasks: int = 0
    units: int = 0
    taken: int = 0
    queue: deque[Node] = field(default_factory=deque)

    def advance(self, now: float) -> None:
        """Let it compute until now."""
        if self.computing:
            self.progress += (now - self.since) * self._rate()
        self.since = now

    def next_done(self) -> float:
        """When the next piece of work is done if nothing changes."""
        return self.since + (self.computing[0][0] - self.progress) / self._rate()

    def _rate(self) -> float:
        """Seconds of work per second that each computing node gets."""
        return min(1.0, self.slots / len(self.computing))

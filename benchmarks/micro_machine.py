"""What the pure permission machine costs, for ``micro.py``."""

from __future__ import annotations

import gc
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from figures import Measured, measured

from scheduler_ext.permission.events import Decision, Request
from scheduler_ext.permission.machine import PermissionMachine

#: Requests that exist at the same time: a scheduler makes them as messages arrive.
_BATCH = 100


def _requests(numbers: Iterator[int], workers: int, count: int) -> list[Request]:
    """The next nested calls; each name is a string of its own, as from a message."""
    return [
        Request(
            name := f"base-{number}",
            f"tcp://worker-{number % workers}",
            key=name,
            owner=f"owner-{number % 1000}",
            depth=1 + number * 7 % 5,
        )
        for number in itertools.islice(numbers, count)
    ]


def _cycle_times(
    cycle: Callable[[Request], None],
    numbers: Iterator[int],
    *,
    workers: int,
    cycles: int,
    repeats: int,
) -> list[float]:
    """CPU microseconds per event of a cycle; making the requests does not count."""
    values = []
    for _ in range(repeats):
        seconds = 0.0
        for done in range(0, cycles, _BATCH):
            batch = _requests(numbers, workers, min(_BATCH, cycles - done))
            begin = time.process_time()
            for request in batch:
                cycle(request)
            seconds += time.process_time() - begin
        values.append(1e6 * seconds / (_EVENTS * cycles))
    return values


#: in a cycle: somebody asks, a task finishes, whose slot goes to the next in the
#: queue, and the task of that one appears
_EVENTS = 3


def machine_events(
    workers: int, waiting: int, *, cycles: int, repeats: int
) -> Measured:
    """CPU microseconds per event; all slots are taken, and so many requests wait."""
    numbers = itertools.count()
    permissions = PermissionMachine()
    for number in range(workers):
        permissions.add_worker(f"tcp://worker-{number}", 1, 3, None, 0.0)
    admitted: deque[str] = deque()

    def take(decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            permissions.key_seen(decision.lease_id)
            admitted.append(decision.lease_id)

    def cycle(request: Request) -> None:
        take(permissions.request(request, 0.0))
        take(permissions.key_finished(admitted.popleft(), 0.0))

    for request in _requests(numbers, workers, permissions.capacity + waiting):
        take(permissions.request(request, 0.0))
    gc.collect()
    return measured(
        f"machine, {workers:,} workers, {permissions.live:,} live leases",
        "us per event",
        _cycle_times(cycle, numbers, workers=workers, cycles=cycles, repeats=repeats),
        f"{_EVENTS * cycles:,} events each",
    )


class _Entry:
    """About as large as what the machine remembers of a lease or a key."""

    __slots__ = ("request", *"abcdefg")

    def __init__(self, request: Request) -> None:
        self.request = request


def table_events(live: int, workers: int, *, cycles: int, repeats: int) -> Measured:
    """The same leases entered and taken out of tables, without any rule.

    How much more that costs with many leases is what the caches of the processor do.
    """
    numbers = itertools.count()
    leases: dict[str, _Entry] = {}
    keys: dict[str, _Entry] = {}
    holders: dict[str, dict[str, None]] = {}
    owners: dict[str, dict[str, None]] = {}
    order: deque[str] = deque()

    def enter(request: Request) -> None:
        name = request.lease_id
        leases[name] = _Entry(request)
        keys[request.key or ""] = _Entry(request)
        holders.setdefault(request.holder, {})[name] = None
        owners.setdefault(request.owner or "", {})[name] = None
        order.append(name)

    def cycle(request: Request) -> None:
        enter(request)
        name = order.popleft()
        old = leases.pop(name).request
        del keys[name]
        del holders[old.holder][name]
        del owners[old.owner or ""][name]

    for request in _requests(numbers, workers, live):
        enter(request)
    gc.collect()
    return measured(
        f"tables alone, {workers:,} workers, {live:,} live leases",
        "us per event",
        _cycle_times(cycle, numbers, workers=workers, cycles=cycles, repeats=repeats),
        "no rules",
    )


def lines(quick: bool) -> Iterator[Measured]:
    """The machine in several sizes, then the tables alone."""
    sizes = [(10, 0), (1000, 0), (10_000, 0)]
    # as many leases as with more workers, then many more
    sizes += [(10, 2970), (10, 29_970), (10_000, 70_000)]
    if not quick:
        sizes.append((10_000, 970_000))
    cycles = 2000 if quick else 20_000
    for workers, waiting in sizes:
        yield machine_events(workers, waiting, cycles=cycles, repeats=5)
    for workers, waiting in sizes:
        live = 3 * workers + waiting
        yield table_events(live, workers, cycles=cycles, repeats=5)

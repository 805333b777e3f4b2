"""What ``soak.py --faults`` does to a stack, and which errors that excuses: pure.

Everything is drawn from generators that begin with the seed: the faults with their
times, what the drivers compute and how, which of it they cancel. The number of a fault
chooses its victim among those that are there when its time comes.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

#: how often each kind of fault comes in a deck; the next deck begins when one is through
DECK = {
    "kill a process": 4,
    "kill all processes of a worker": 1,
    "kill a fork server": 1,
    "kill a worker": 2,
    "cancel by checksum": 4,
    "interrupt a driver": 2,
    "kill a driver": 2,
    "restart the hashserver": 1,
    "restart the database": 1,
    "slow the hashserver": 1,
    "slow the database": 1,
}
#: faults that last, and what ends them
ENDS = {"restart": "start again", "slow": "let go on"}
#: seconds that they last, at least and at most
OUTAGE = (1.0, 6.0)
#: bytes of a large result
BLOB = 2_000_000
#: how a driver runs its transformations
WAYS = ("parallel", "start", "threads", "task")
#: ways in which a driver can cancel what it has started
CANCELLABLE = ("start", "threads", "task")
#: losses of its process after which a transformation fails
MAX_LOSSES = 3
#: losses of Dask workers up to which a task does not fail
MAX_WORKERS_LOST = 10
#: seconds from a cancel within which it may still be somebody else's error
CANCEL_ECHO = 20.0


# -- the plan ----------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Fault:
    """Something bad that happens at a time."""

    #: seconds since the beginning of its round
    at: float
    kind: str
    #: chooses the victim
    number: int = 0


@dataclass(frozen=True)
class Round:
    """Faults until drivers may end; then comes a quiet point."""

    number: int
    seconds: float
    faults: tuple[Fault, ...]


@dataclass(frozen=True)
class Batch:
    """What a driver runs together."""

    #: numbers of trees; the drivers of a round have a forest in common
    trees: tuple[int, ...]
    way: str
    #: numbers of large results, each of which another transformation reads
    blobs: tuple[int, ...] = ()
    #: {place in `trees`: seconds until it is cancelled}
    cancels: dict[int, float] = field(default_factory=dict)


def rounds(
    seed: int,
    lengths: tuple[float, float] = (20.0, 40.0),
    pause: tuple[float, float] = (0.5, 4.0),
) -> Iterator[Round]:
    """Plan round after round.

    Parameters
    ----------
    seed
        Of everything.
    lengths
        Seconds of the shortest and of the longest round.
    pause
        Seconds from one fault to the next, at least and at most.
    """
    rng = random.Random(f"faults/{seed}")
    deck: list[str] = []
    number = 0
    while True:
        length = round(rng.uniform(*lengths), 1)
        faults: list[Fault] = []
        #: {service: end of its last outage}
        busy: dict[str, float] = {}
        at = rng.uniform(*pause)
        while at < length:
            if not deck:
                deck = [kind for kind, times in DECK.items() for _ in range(times)]
                rng.shuffle(deck)
            kind, lasts = deck.pop(), rng.uniform(*OUTAGE)
            victim = rng.randrange(1_000_000)
            how, _, service = kind.partition(" the ")
            if how in ENDS:
                # One outage of a service at a time, the next some time after it.
                begin = max(at, busy.get(service, 0.0) + pause[0])
                busy[service] = end = begin + lasts
                faults.append(Fault(round(begin, 2), kind))
                faults.append(Fault(round(end, 2), f"{ENDS[how]} the {service}"))
            else:
                faults.append(Fault(round(at, 2), kind, victim))
            at += rng.uniform(*pause)
        yield Round(number, length, tuple(sorted(faults)))
        number += 1


def batch(seed: int, number: int, slot: int, position: int) -> Batch:
    """Plan what a driver runs.

    Parameters
    ----------
    seed
        Of everything.
    number
        Of the round.
    slot
        Which of the drivers that run at the same time, from 0.
    position
        Which batch of this slot in this round, from 0.
    """
    rng = random.Random(f"batch/{seed}/{number}/{slot}/{position}")
    # The other driver is at about the same place of the forest.
    trees = tuple(rng.sample(range(2 * position, 2 * position + 6), rng.randint(1, 4)))
    way = rng.choice(WAYS)
    cancels = {}
    if way in CANCELLABLE:
        for place in range(len(trees)):
            if rng.random() < 0.25:
                cancels[place] = round(rng.uniform(0.0, 3.0), 2)
    blobs: tuple[int, ...] = ()
    if rng.random() < 0.4:
        blobs = tuple(rng.sample(range(position, position + 3), 2))
    return Batch(trees, way, blobs, cancels)


def pause(seed: int, number: int) -> float:
    """Seconds that each transformation of a round takes at least."""
    return random.Random(f"pause/{seed}/{number}").choice([0.0, 0.05, 0.1, 0.3])


def salt(seed: int, number: int) -> str:
    """What makes the transformations of a round different from all others."""
    return f"faults/{seed}/{number}"


class Forest:
    """The trees of a round; some of their branches are the same.

    Parameters
    ----------
    grower
        A fresh one of ``tests/workloads.py``.
    seed, number
        Of everything, and of the round.
    nodes
        The most that are new in a tree.
    """

    def __init__(self, grower: Any, seed: int, number: int, nodes: int = 14) -> None:
        self._grower = grower
        self._name = f"forest/{seed}/{number}"
        self._nodes = nodes
        self._trees: list[list[Any]] = []

    def __getitem__(self, number: int) -> list[Any]:
        while len(self._trees) <= number:
            rng = random.Random(f"{self._name}/{len(self._trees)}")
            self._trees.append(self._grower.grow(rng, self._nodes))
        return self._trees[number]


# -- what is expected --------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How something ended for a driver. Times are those of the wall clock, in seconds."""

    #: "tree" or "blob"
    sort: str
    number: int
    begin: float
    end: float
    value: Any = None
    error: str | None = None
    trace: str | None = None


@dataclass
class Happened:
    """What was done in a round, by time of the wall clock."""

    #: {transformation checksum: when it was cancelled, by whomever}
    cancels: dict[str, list[float]] = field(default_factory=dict)
    #: when Seamless processes were killed, once for each
    processes: list[float] = field(default_factory=list)
    #: when Dask workers were killed
    workers: list[float] = field(default_factory=list)


_CANCELLED = re.compile(r"\bcancell?ed\b", re.IGNORECASE)
_LOST = re.compile(r"The Seamless process that ran .* was lost (\d+) times:")
_WORKERS = re.compile(r"KilledWorker")


def kind(outcome: Outcome) -> str:
    """What sort of outcome it is, for counting."""
    if outcome.error is None:
        return "values"
    sorts = {
        _LOST: "of lost processes",
        _WORKERS: "of lost workers",
        _CANCELLED: "of cancels",
    }
    found = (sort for text, sort in sorts.items() if text.search(outcome.error))
    return f"errors {next(found, 'of other sorts')}"


def wrong(
    outcome: Outcome, value: Any, checksums: set[str], happened: Happened
) -> str | None:
    """Return what is wrong with an outcome, None if nothing is.

    Parameters
    ----------
    outcome
        What the driver has said.
    value
        What plain Python gives.
    checksums
        Of all transformations that it takes.
    happened
        In this round.
    """
    if outcome.error is None:
        if outcome.value == value:
            return None
        return f"the value is {outcome.value!r} instead of {value!r}"
    lost = _LOST.search(outcome.error)
    if lost:
        kills = sum(at <= outcome.end for at in happened.processes)
        if int(lost[1]) >= MAX_LOSSES and kills >= MAX_LOSSES:
            return None
        return f"lost its process {lost[1]} times, but {kills} were killed"
    if _WORKERS.search(outcome.error):
        kills = sum(at <= outcome.end for at in happened.workers)
        if kills > MAX_WORKERS_LOST:
            return None
        return f"its workers are blamed on it, but only {kills} were killed"
    if _CANCELLED.search(outcome.error):
        times = [at for c in checksums for at in happened.cancels.get(c, ())]
        if any(outcome.begin - CANCEL_ECHO <= at <= outcome.end for at in times):
            return None
        return "cancelled, but nobody has cancelled it"
    return "an error that nothing explains"


def at_rest(status: dict[str, Any]) -> dict[str, int]:
    """Return what a scheduler still has to do, by its status; empty if nothing."""
    leases, tasks = status["permissions"], status["activity"]
    counts = {
        **{f"leases {n}": leases[n] for n in ("slots_in_use", "admitted", "waiting")},
        "leases lent": leases["lent"],
        **{
            f"tasks {n}": tasks[n]
            for n in ("waiting", "queued", "no_worker", "processing")
        },
        "transformations waiting": len(status["transformations"]["waiting"]),
        "transformations with workers": len(status["transformations"]["with_workers"]),
    }
    return {name: count for name, count in counts.items() if count}


def not_stored(
    expected: dict[str, str], results: dict[str, str], announced: Sequence[str]
) -> list[str]:
    """Return what is wrong with the results in a database.

    Parameters
    ----------
    expected
        {transformation checksum: checksum of the right result}
    results
        The same, as stored.
    announced
        Checksums of the transformations whose results somebody was given.
    """
    problems = [
        f"transformation {checksum}: its result is announced but not stored"
        for checksum in announced
        if checksum not in results
    ]
    problems += [
        f"transformation {checksum}: the result {results[checksum]} is stored, right is "
        f"{result}"
        for checksum, result in expected.items()
        if results.get(checksum, result) != result
    ]
    return problems

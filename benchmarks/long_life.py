"""Whether any table grows: ``python benchmarks/long_life.py [--seconds N] [--seed S]``.

Sends as many transformations as the time allows through a scheduler and a worker without
Seamless processes (see ``stubs.py``): independent ones, ones with nested calls, chains, ones
that fail, ones that are cancelled. Functions and values are random. Looks at all tables
of all three processes after the first part and at the end, and prints those that have grown
with the number of transformations; exit code 1 if there is any. Also prints how many
blocks of memory more there are for each transformation, which shows what many small tables
keep together; caches with a bound are full after some 100,000 transformations.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

_HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(_HERE))

import cloudpickle  # noqa: E402
import psutil  # noqa: E402
import stubs  # noqa: E402
import tables  # noqa: E402

#: transformations that are started together
BATCH = 1_000
#: what is forgotten by time is gone after so many seconds
SETTLE = 15.0
#: entries per transformation from which on a table counts as growing
SHARE = 0.05
#: different functions, so that there are several prefixes
FUNCTIONS = 300


def functions(rng: random.Random) -> Any:
    """A function with a code of its own; see `stubs.double`."""
    source = f"def double(salt, i, children, seconds):\n    return {rng.random()}\n"
    return stubs.function_of(source)


def batch(rng: random.Random, make: Any, number: int) -> tuple[list[Any], int]:
    """Transformations, and how many there are with those that they call."""
    made: list[Any] = []
    total = 0
    while total < number:
        salt, kind = rng.random(), rng.random()
        children = rng.randrange(1, 5) if kind < 0.1 else 0
        each = make(salt, rng.randrange(1000), children, 0.0)
        total += 1 + children
        made.append(each)
        if kind > 0.9:  # depends on the one before
            made.append(make(salt, each, 0, 0.0))
            total += 1
    return made, total


def run(rng: random.Random, makers: list[Any], number: int) -> int:
    """Compute a batch; return the number of transformations."""
    made, total = batch(rng, rng.choice(makers), number)
    for each in made:
        each.start()
    for each in rng.sample(made, len(made) // 50):
        each.cancel()
    for each in made:
        each.compute()
    return total


class Look(NamedTuple):
    """What a process has at one time."""

    lengths: dict[int, int]
    blocks: int

    @classmethod
    def now(cls) -> Look:
        """Look at this process."""
        return cls(tables.lengths(), sys.getallocatedblocks())

    def changes(self, by: int) -> Changes:
        """Look again; see `tables.grown` for ``by``."""
        blocks = sys.getallocatedblocks() - self.blocks
        return tables.grown(self.lengths, by), blocks


#: descriptions of tables that have grown, and how many blocks of memory there are more
Changes = tuple[list[str], int]


def remember(dask_scheduler: Any = None, dask_worker: Any = None) -> None:
    """Runs in the scheduler or worker: keep a look at it."""
    owner = dask_scheduler if dask_worker is None else dask_worker
    owner.extensions["long-life"] = Look.now()


def compare(by: int, dask_scheduler: Any = None, dask_worker: Any = None) -> Changes:
    """Runs there as well: what has changed."""
    owner = dask_scheduler if dask_worker is None else dask_worker
    changes: Changes = owner.extensions.pop("long-life").changes(by)
    return changes


def live(seconds: float, seed: int) -> int:
    """Print what grows; return how many tables that are."""
    from seamless.transformer import delayed

    for module in (tables, sys.modules[__name__]):
        cloudpickle.register_pickle_by_value(module)
    rng = random.Random(seed)
    with stubs.StubStack() as stack:
        client = stubs.client(stack.address, forgets=True)
        dask = client.client
        makers = [delayed(functions(rng)) for _ in range(FUNCTIONS)]
        processes = {kind: psutil.Process(pid) for kind, pid in stack.pids.items()}
        processes["driver"] = psutil.Process()
        done = 0
        begin = last = time.monotonic()
        #: transformations at the first look
        first: int | None = None
        while (now := time.monotonic()) < begin + seconds or first is None:
            if first is None and now > begin + seconds / 4:
                time.sleep(SETTLE)
                dask.run_on_scheduler(remember)
                dask.run(remember)
                look = Look.now()
                first = done
            done += run(rng, makers, BATCH)
            if now > last + seconds / 20:
                last = now
                memory = {k: p.memory_info().rss // 10**6 for k, p in processes.items()}
                print(json.dumps({"done": done, "s": now - begin, "MB": memory}))
                sys.stdout.flush()
        time.sleep(SETTLE)
        by = max(50, int(SHARE * (done - first)))
        changes = {"driver": look.changes(by)}
        changes["scheduler"] = dask.run_on_scheduler(compare, by)
        [changes["worker"]] = dask.run(compare, by).values()
        print(f"{done} transformations, {done - first} between the two looks")
        for kind, (grown, blocks) in changes.items():
            print(f"{kind}: {blocks / (done - first):.2f} blocks per transformation")
            for each in grown:
                print(f"{kind}: {each}")
        dask.close()
    return sum(len(grown) for grown, _ in changes.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}, {options.seconds:g} s", flush=True)
    return 1 if live(options.seconds, options.seed) else 0


if __name__ == "__main__":
    sys.exit(main())

"""Driver script: many transformations in one of several ways.

``python many_driver.py WAY NUMBER SALT [SCHEDULER]`` (the address of a `StubStack`) prints one line of JSON that begins with `BEGIN`
when the first transformation is about to start, and one that begins with `MARK` at the
end. All transformations compute next to nothing; every value is compared.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from stubs import client, function_of
from stubs import double as computed_by_stubs
from usage import measured

#: threads of the way "threads"
THREADS = 200
#: children of each parent of the way "parents"
CHILDREN = 50
#: what lines of the output begin with
BEGIN, MARK = "begin ", "many "
#: seconds between two looks at how late the client's event loop is
LOOK = 0.1


def double(salt, i):
    return 2 * i


def add(salt, x):
    return x + 1


def parent(salt, first, number):
    from seamless.transformer import delayed

    def double(salt, i):
        return 2 * i

    make = delayed(double)
    children = [make(salt, i) for i in range(first, first + number)]
    for child in children:
        child.start()
    return sum(child.run() for child in children)


def recursion(salt, depth):
    from seamless.transformer import direct

    if depth == 0:
        return 0
    return 1 + direct(recursion)(salt, depth - 1)


# -- the ways ----------------------------------------------------------------------


def start(transformations: list[Any]) -> list[Any]:
    """Start all, then run one after the other."""
    for transformation in transformations:
        transformation.start()
    return [transformation.run() for transformation in transformations]


def gather(transformations: list[Any]) -> list[Any]:
    """Await all at once."""

    async def tasks() -> list[Any]:
        return await asyncio.gather(*(each.task() for each in transformations))

    return asyncio.run(tasks())


def in_parallel(transformations: list[Any]) -> list[Any]:
    """As ``seamless.transformer.parallel`` does it, with its limit."""
    from seamless.transformer import parallel

    for _finished in parallel(transformations):
        continue
    return [transformation.run() for transformation in transformations]


def threads(transformations: list[Any]) -> list[Any]:
    """Each in a thread, `THREADS` at a time."""
    with ThreadPoolExecutor(THREADS) as executor:
        return list(executor.map(lambda each: each.run(), transformations))


#: how many independent transformations are computed
WAYS: dict[str, Callable[[list[Any]], list[Any]]] = {
    "start": start,
    "gather": gather,
    "parallel": in_parallel,
    "threads": threads,
}


def independent(
    make: Callable[[str, int], Any], way: str, salt: str, number: int
) -> tuple[list[Any], Callable[[list[Any]], list[Any]], list[Any]]:
    """(transformations, what computes them, expected values)."""
    made = [make(salt, i) for i in range(number)]
    return made, WAYS[way], [2 * i for i in range(number)]


def _children(salt: str, number: int) -> tuple[list[Any], list[Any]]:
    from seamless.transformer import delayed

    return [delayed(parent)(salt, 0, number)], [number * (number - 1)]


def _parents(salt: str, number: int) -> tuple[list[Any], list[Any]]:
    from seamless.transformer import delayed

    make = delayed(parent)
    firsts = range(0, number, CHILDREN)
    made = [make(salt, first, CHILDREN) for first in firsts]
    return made, [CHILDREN * (2 * first + CHILDREN - 1) for first in firsts]


def _chain(salt: str, number: int) -> tuple[list[Any], list[Any]]:
    from seamless.transformer import delayed

    make = delayed(add)
    last = make(salt, 0)
    for _ in range(number - 1):
        last = make(salt, last)
    return [last], [number]


def _recursion(salt: str, number: int) -> tuple[list[Any], list[Any]]:
    from seamless.transformer import delayed

    return [delayed(recursion)(salt, number)], [number]


def _dependents(salt: str, number: int) -> tuple[list[Any], list[Any]]:
    from seamless.transformer import delayed

    one = delayed(add)(salt, 0)
    make = delayed(add)
    made = [make(f"{salt}/{i}", one) for i in range(number)]
    return made, [2] * number


def _inputs(salt: str, number: int) -> tuple[list[Any], list[Any]]:
    from seamless.transformer import delayed

    names = ", ".join(f"v{i}" for i in range(number))
    source = f"def total(salt, {names}):\n    return sum([{names}])\n"
    made = delayed(function_of(source))(salt, *range(number))
    return [made], [sum(range(number))]


#: other shapes: {name: (makes transformations and expected values, how many are stored)}
SHAPES: dict[str, tuple[Callable[..., Any], Callable[[int], int]]] = {
    "children": (_children, lambda number: number + 1),
    "parents": (_parents, lambda number: number + number // CHILDREN),
    "chain": (_chain, lambda number: number),
    "recursion": (_recursion, lambda number: number + 1),
    "dependents": (_dependents, lambda number: number + 1),
    "inputs": (_inputs, lambda number: 1),
}


# -- the driver --------------------------------------------------------------------


class Lag:
    """How late the client's event loop is: the longest that a call waited for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ended = threading.Event()
        #: seconds
        self.longest = 0.0
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self._ended.wait(LOOK):
            begin = time.monotonic()
            arrived = threading.Event()
            self._loop.call_soon_threadsafe(arrived.set)
            arrived.wait()
            self.longest = max(self.longest, time.monotonic() - begin)

    def end(self) -> float:
        """Stop looking; return the longest."""
        self._ended.set()
        return self.longest


def drive(way: str, number: int, salt: str, stubs: str | None = None) -> None:
    """Compute `number` transformations in one way; print how that went."""
    import seamless
    import seamless.config
    from seamless.transformer import delayed

    from seamless_dask.transformer_client import get_seamless_dask_client

    # A shell starts what runs in the background with Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    make = delayed(double)
    if stubs is None:
        # The configuration is that of the current folder, not of this file's.
        seamless.config.init(workdir=".")
    else:
        client(stubs)
        made_by_stubs = delayed(computed_by_stubs)
        make = lambda salt, i: made_by_stubs(salt, i, 0, 0.0)  # noqa: E731
    assert make(salt, -1).run() == -2
    if way in WAYS:
        made, compute, expected = independent(make, way, salt, number)
    else:
        made, expected = SHAPES[way][0](salt, number)
        compute = start
    lag = Lag(get_seamless_dask_client().loop)

    def workload() -> dict[str, Any]:
        print(BEGIN + json.dumps(time.time()), flush=True)
        begin = time.monotonic()
        values = compute(made)
        seconds = time.monotonic() - begin
        return {"right": values == expected, "seconds": seconds, "lag": lag.end()}

    try:
        outcome = measured(workload)
    except KeyboardInterrupt:
        print(MARK + json.dumps({"interrupted": time.time()}), flush=True)
        raise
    print(MARK + json.dumps(outcome), flush=True)
    seamless.close()


if __name__ == "__main__":
    drive(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])

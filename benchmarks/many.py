"""Thousands of transformations from one driver: ``python benchmarks/many.py [--quick]``.

Each run is a fresh driver on the same real stack (see ``examples/local_stack.py``). It
makes independent transformations that compute next to nothing, has all of them run in
one of the ways that users have, and compares every value. Printed are the seconds from
the first start to the last value, the peak of the driver's memory, how many results are
new in the database, and the warnings of the driver, of which there should be none.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(_HERE.parent / "examples"))

from local_stack import LocalStack, StackError  # noqa: E402

#: threads of the way "threads"
THREADS = 200
#: what the last line of the driver begins with
MARK = "many "


# -- the driver --------------------------------------------------------------------


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


WAYS: dict[str, Callable[[list[Any]], list[Any]]] = {
    "start": start,
    "gather": gather,
    "parallel": in_parallel,
    "threads": threads,
}


def drive(way: str, number: int, salt: str) -> None:
    """Run `number` transformations in one way; print how that went."""
    import seamless
    import seamless.config
    from seamless.transformer import delayed

    def double(salt, i):
        return 2 * i

    # The configuration is that of the current folder, not of this file's.
    seamless.config.init(workdir=".")
    make = delayed(double)
    assert make(salt, -1).run() == -2
    transformations = [make(salt, i) for i in range(number)]
    begin = time.monotonic()
    values = WAYS[way](transformations)
    seconds = time.monotonic() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    right = values == [2 * i for i in range(number)]
    print(MARK + json.dumps({"right": right, "seconds": seconds, "memory": peak}))
    seamless.close()


# -- the table ---------------------------------------------------------------------


def run(stack: LocalStack, way: str, number: int, *, timeout: float) -> dict[str, Any]:
    """Run a fresh driver.

    Parameters
    ----------
    stack
        On which it runs.
    way
        One of `WAYS`.
    number
        Of transformations.
    timeout
        Seconds.

    Returns
    -------
    dict
        ``right`` (all values are), ``seconds``, ``memory`` (bytes), ``stored`` (new
        results), ``warnings`` (lines).

    Raises
    ------
    StackError
        If the driver fails or does not end.
    """
    before = len(stack.stored().results)
    salt = f"{way} {number} {before}"
    ended = stack.run(__file__, "--drive", way, number, salt, timeout=timeout)
    lines = [line for line in ended.stdout.splitlines() if line.startswith(MARK)]
    figures: dict[str, Any] = json.loads(lines[-1].removeprefix(MARK))
    figures["stored"] = len(stack.stored().results) - before - 1
    figures["warnings"] = [
        line
        for line in ended.stderr.splitlines()
        if "does not answer" in line or "Error" in line
    ]
    return figures


def table(numbers: Sequence[int], ways: Sequence[str], timeout: float) -> int:
    """Print one line for each run; return how many were not as they should be."""
    wrong = 0
    head = "way", "number", "seconds", "per s", "driver MB", "stored", "values"
    print("{:10}{:>9}{:>9}{:>7}{:>11}{:>9}  {}".format(*head))
    with LocalStack(project="many") as stack:
        for number in numbers:
            for way in ways:
                try:
                    found = run(stack, way, number, timeout=timeout)
                except StackError as error:
                    wrong += 1
                    print(f"{way:10}{number:9}  {error}", flush=True)
                    continue
                fine = found["right"] and found["stored"] == number
                wrong += not fine or bool(found["warnings"])
                print(
                    f"{way:10}{number:9}{found['seconds']:9.1f}"
                    f"{number / found['seconds']:7.0f}{found['memory'] / 1e6:11.0f}"
                    f"{found['stored']:9}  {'right' if found['right'] else 'WRONG'}",
                    *found["warnings"],
                    sep="\n",
                    flush=True,
                )
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1000 only")
    parser.add_argument(
        "--numbers", type=int, nargs="+", default=[1000, 5000, 20_000], metavar="N"
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument(
        "--timeout", type=float, default=1800.0, help="seconds for one run"
    )
    parser.add_argument(
        "--drive", nargs=3, metavar=("WAY", "N", "SALT"), help=argparse.SUPPRESS
    )
    options = parser.parse_args(arguments)
    if options.drive:
        way, number, salt = options.drive
        drive(way, int(number), salt)
        return 0
    numbers = [1000] if options.quick else options.numbers
    return 1 if table(numbers, options.ways, options.timeout) else 0


if __name__ == "__main__":
    sys.exit(main())

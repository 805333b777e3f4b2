"""What ``soak.py --faults`` compares, and where it looks for what is left."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import faults
from fault_driver import DEPTH, WIDTH
from fault_stack import Stack
from seamless import Buffer
from seamless.transformer import delayed

_HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(_HERE.parent / "tests"))

from drivers.workloads import Grower, bulk, evaluate, produce, tree_node  # noqa: E402
from helpers.stack import call_scheduler  # noqa: E402

T = TypeVar("T")


def until_none(look: Callable[[], T], seconds: float) -> T:
    """Return what is there, once that is nothing, or after so many seconds."""
    deadline = time.monotonic() + seconds
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def _checksum(value: Any, celltype: str) -> str:
    return str(Buffer(value, celltype).get_checksum().hex())


@dataclass(frozen=True)
class _Right:
    """What plain Python gives for a tree or a blob."""

    value: Any
    #: {checksum of each of its transformations: that of its result}
    results: dict[str, str]


class Checks:
    """What is right in one run.

    Parameters
    ----------
    stack
        Whose database, hashserver and scheduler are looked at.
    seed
        Of all decisions.
    """

    def __init__(self, stack: Stack, seed: int) -> None:
        self._stack = stack
        self._seed = seed
        #: {(round, sort, number): what is right}
        self._known: dict[tuple[int, str, int], _Right] = {}
        #: {transformation: result} of all that drivers have run
        self._right: dict[str, str] = {}
        self._announced: set[str] = set()

    @property
    def results(self) -> int:
        """How many results were announced to drivers and to transformations."""
        return len(self._announced)

    def judge(
        self, number: int, outcome: faults.Outcome, happened: faults.Happened
    ) -> str | None:
        """Return what is wrong with how something has ended for a driver in a round."""
        key = number, outcome.sort, outcome.number
        if key not in self._known:
            find = self._tree if outcome.sort == "tree" else self._blob
            self._known[key] = find(number, outcome.number)
            self._right.update(self._known[key].results)
        right = self._known[key]
        if outcome.error is None:
            # What it has called was announced to it.
            self._announced |= right.results.keys()
        return faults.wrong(outcome, right.value, set(right.results), happened)

    def _tree(self, number: int, position: int) -> _Right:
        forest = faults.Forest(Grower(DEPTH, WIDTH), self._seed, number)
        salt = faults.salt(self._seed, number)
        pause = faults.pause(self._seed, number)
        make = delayed(tree_node)
        seen: set[str] = set()
        value = evaluate(forest[position], 0, seen)
        results = {}
        for branch, carry in map(json.loads, seen):
            checksum = make(salt, branch, carry, pause).construct().hex()
            results[checksum] = _checksum(evaluate(branch, carry, set()), "mixed")
        return _Right(value, results)

    def _blob(self, number: int, position: int) -> _Right:
        salt = faults.salt(self._seed, number)
        producer, consumer = bulk()
        blob = produce(salt, position, faults.BLOB)
        value = [len(blob), zlib.crc32(blob)]
        produced = producer(salt, position, faults.BLOB).construct().hex()
        consumed = consumer(blob).construct().hex()
        results = {
            produced: _checksum(blob, "bytes"),
            consumed: _checksum(value, "mixed"),
        }
        return _Right(value, results)

    def at_rest(self) -> dict[str, int]:
        """Return what the scheduler still has, by its name; empty if nothing."""
        address = self._stack.scheduler_address()
        asked = subprocess.run(
            [sys.executable, "-m", "seamless_dask.status", "--json", address],
            env=self._stack.environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )
        if asked.returncode:
            return {asked.stderr.strip(): 1}
        left = faults.at_rest(json.loads(asked.stdout))
        kept = call_scheduler(address, lambda scheduler: scheduler.who_has(keys=None))
        return {**left, **({"tasks kept": len(kept)} if kept else {})}

    def stored(self) -> list[str]:
        """Return what is wrong in the database and on the hashserver."""
        results = self._stack.stored().results
        problems = faults.not_stored(self._right, results, sorted(self._announced))
        for checksum in sorted(self._announced & results.keys()):
            content = self._stack.buffer(results[checksum])
            if content is None:
                problems.append(f"transformation {checksum}: no buffer of its result")
            elif Buffer(content).get_checksum().hex() != results[checksum]:
                problems.append(f"transformation {checksum}: a wrong buffer")
        return problems

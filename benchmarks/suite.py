"""Which workloads are run, how often and in which order."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backends import THROTTLE, Backend

#: runs of one workload that may fail before a backend is spared the others
MAX_FAILURES = 2


@dataclass(frozen=True)
class Workload:
    """One line of the tables: a function of the drivers, with its arguments."""

    title: str
    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    #: Dask workers; only for backends that have some
    workers: int = 1
    #: processes that execute transformations, on each worker
    processes: int = 2
    #: whether it begins when the services have just started, with one worker
    cold: bool = False
    #: seconds of sleep in which leaves use a slot; None where that is not the point
    useful_seconds: float | None = None


def sleepers(jobs: int, leaves: int, leaf_seconds: float, processes: int) -> Workload:
    """The workload that shows how well slots are used."""
    return Workload(
        f"{jobs} x {leaves} leaves that sleep {leaf_seconds:g} s",
        "sleepers",
        {"n": jobs, "leaves": leaves, "leaf_seconds": leaf_seconds},
        processes=processes,
        useful_seconds=jobs * leaves * leaf_seconds,
    )


def on_workers(workers: int, trees: int, naps: int) -> tuple[Workload, ...]:
    """Sleepers on several workers: all there before, or all but one still to start."""
    size = f"on {workers} workers"
    sleep = trees * 4 * 3 * 1.2
    return (
        *(
            Workload(
                f"{trees} trees of sleepers {size}, {'cold' if cold else 'warm'}",
                "sleeping_trees",
                {"n": trees},
                workers,
                cold=cold,
                useful_seconds=sleep,
            )
            for cold in (False, True)
        ),
        Workload(
            f"{naps} sleep 0.5 s {size}",
            "naps",
            {"n": naps},
            workers,
            useful_seconds=naps * 0.5,
        ),
    )


FULL = (
    Workload("300 independent", "independent", {"n": 300}),
    Workload("300 x 20 ms in Python", "computing", {"n": 300}),
    Workload("50 one at a time", "one_at_a_time", {"n": 50}),
    Workload("40 x outer/middle/leaf", "tree", {"n": 40}),
    Workload("6 x 20 fan", "fan", {"n": 6, "leaves": 20}),
    Workload("40 recursions of 3", "recursion", {"n": 40, "depth": 3}),
    Workload("chain of 50", "chain", {"n": 50}),
    Workload("10 x 10 MB, there and on", "big", {"n": 10, "megabytes": 10}),
    sleepers(50, 4, 0.5, processes=5),
    *on_workers(3, trees=30, naps=480),
)

#: the same shapes, to be done with in a few minutes
QUICK = (
    Workload("100 independent", "independent", {"n": 100}),
    Workload("100 x 20 ms in Python", "computing", {"n": 100}),
    Workload("15 one at a time", "one_at_a_time", {"n": 15}),
    Workload("10 x outer/middle/leaf", "tree", {"n": 10}),
    Workload("3 x 20 fan", "fan", {"n": 3, "leaves": 20}),
    Workload("15 recursions of 3", "recursion", {"n": 15, "depth": 3}),
    Workload("chain of 20", "chain", {"n": 20}),
    Workload("4 x 10 MB, there and on", "big", {"n": 4, "megabytes": 10}),
    # with as many processes as the others, because each start of services takes time
    sleepers(10, 4, 0.25, processes=2),
)

#: for the tests
TINY = (
    Workload("6 independent", "independent", {"n": 6}),
    Workload("3 one at a time", "one_at_a_time", {"n": 3}),
    Workload("2 x outer/middle/leaf", "tree", {"n": 2}),
    sleepers(2, 2, 0.1, processes=2),
)


def measure(
    backends: Sequence[Backend],
    workloads: Iterable[Workload],
    *,
    repeats: int,
    timeout: float,
    salt: str,
    tell: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Run everything, the backends in turn, and return one record per run.

    A workload in which a backend failed twice is not given to it again: what hangs
    costs the whole timeout.
    """
    runs = []
    for (workers, processes), group in _by_cluster(workloads).items():
        able = [each for each in backends if workers == 1 or each.has_workers]
        for backend in able:
            backend.workers, backend.processes = workers, processes
        try:
            for workload in group:
                runs += _interleaved(able, workload, repeats, timeout, salt, tell)
        finally:
            for backend in able:
                backend.close()
    return runs


def _by_cluster(
    workloads: Iterable[Workload],
) -> dict[tuple[int, int], list[Workload]]:
    groups: dict[tuple[int, int], list[Workload]] = {}
    for each in workloads:
        groups.setdefault((each.workers, each.processes), []).append(each)
    return groups


def _interleaved(
    backends: Sequence[Backend],
    workload: Workload,
    repeats: int,
    timeout: float,
    salt: str,
    tell: Callable[[str], None],
) -> list[dict[str, Any]]:
    runs = []
    failures = dict.fromkeys((backend.name for backend in backends), 0)
    for repeat in range(repeats):
        for backend in backends:
            if failures[backend.name] >= MAX_FAILURES:
                continue
            load = os.getloadavg()[0]
            begin = time.monotonic()
            outcome = backend.run(
                workload.function,
                workload.arguments,
                # Short: a text of 64 characters would be taken for a checksum.
                salt=f"{salt}-{workload.function}-{repeat}",
                timeout=timeout,
                cold=workload.cold,
            )
            run = record(backend.name, workload, repeat, outcome)
            run["load_before"] = load
            run["elapsed"] = time.monotonic() - begin
            if run["problem"]:
                failures[backend.name] += 1
                print(outcome.get("error", outcome), file=sys.stderr)
            runs.append(run)
            tell(
                f"{workload.title}, {backend.name}, {repeat + 1} of {repeats}: "
                + (run["problem"] or f"{run['rate']:.1f}/s")
            )
    return runs


def record(
    backend: str,
    workload: Workload,
    repeat: int,
    outcome: Mapping[str, Any],
) -> dict[str, Any]:
    """What is kept of one run; ``problem`` is None if all went well."""
    run: dict[str, Any] = {
        "backend": backend,
        "workload": workload.title,
        "repeat": repeat,
        "problem": None,
    }
    if "error" in outcome:
        hung = re.search(r"did not end within (\S+ s)", outcome["error"])
        run["problem"] = f"did not finish in {hung[1]}" if hung else "failed"
        return run
    if not outcome["values_ok"]:
        run["problem"] = "wrong values"
        return run
    seconds, distinct = outcome["seconds"], outcome["distinct"]
    stored = outcome["stored"]
    run |= {
        "seconds": seconds,
        "transformations": distinct,
        "rate": distinct / seconds,
        "stored_share": None if stored is None else stored / distinct,
        "cpu_seconds": outcome["cpu"],
        "peak_memory_bytes": outcome["memory"],
        "latencies": outcome.get("latencies", []),
        "slot_efficiency": None,
    }
    if workload.useful_seconds is not None:
        slots = workload.workers * workload.processes * THROTTLE
        run["slot_efficiency"] = workload.useful_seconds / (slots * seconds)
    return run

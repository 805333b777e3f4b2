"""Single parts, each by itself: ``python benchmarks/micro.py [--quick]``.

- the pure permission machine: CPU microseconds per event, with the same tables alone;
- a grant: from asking on a worker to knowing, with the scheduler in another process;
- what the plugin costs a scheduler that runs plain Dask tasks;
- a Buffer from one worker process to another, against raw bytes of the same size.

Each line says how often it was measured. ``--json FILE`` writes the same as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import logging
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE), str(_HERE.parent)]

import cloudpickle  # noqa: E402
import machine  # noqa: E402
import micro_machine  # noqa: E402
from backends import PlainDask  # noqa: E402
from distributed import Client, Worker  # noqa: E402
from figures import Measured, measured, percentile, table  # noqa: E402

from scheduler_ext import detach, install  # noqa: E402

# Workers import neither this file nor its folder.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


# -- a grant -----------------------------------------------------------------------


async def grants(
    address: str, *, rate: float, count: int, repeats: int
) -> list[Measured]:
    """Milliseconds from asking to knowing, when requests come at a fixed rate.

    Counted from the moment at which a request was due, so that a queue that builds up
    is part of it. The asking side is that of a Dask worker, in this process.
    """
    from seamless_dask.cluster.leases import Leases

    medians, slow = [], []
    async with Worker(address, nthreads=1, dashboard=False) as worker:
        holder = worker.contact_address
        await worker.scheduler.seamless_register_worker(
            worker=holder, processes=10_000, throttle=3, resources={}
        )
        leases = Leases(worker)
        names = itertools.count()

        async def one(due: float) -> float:
            await asyncio.sleep(due - time.perf_counter())
            lease = await leases.acquire(f"base-{next(names)}", None, 1)
            seconds = time.perf_counter() - due
            leases.release(lease)
            return 1000 * seconds

        await asyncio.gather(*(one(time.perf_counter()) for _ in range(100)))
        for _ in range(repeats):
            begin = time.perf_counter() + 0.1
            values = await asyncio.gather(
                *(one(begin + number / rate) for number in range(count))
            )
            medians.append(percentile(values, 50))
            slow.append(percentile(values, 99))
        leases.close()
    note = f"{count:,} requests each"
    return [
        measured(f"grant at {rate:,g}/s, median", "ms", medians, note),
        measured(f"grant at {rate:,g}/s, p99", "ms", slow, note),
    ]


# -- the plugin --------------------------------------------------------------------


def _increment(number: int) -> int:
    return number + 1


def plugin_overhead(address: str, *, tasks: int, repeats: int) -> list[Measured]:
    """Plain tasks on a scheduler with the plugin, as a multiple of those without.

    The two are measured in pairs, in alternating order. The CPU time of the scheduler
    is the quieter measure, because nothing else runs there.
    """
    seconds: dict[bool, list[float]] = {False: [], True: []}
    cpu: dict[bool, list[float]] = {False: [], True: []}
    with Client(address, set_as_default=False) as client:

        def measure(plugin: bool) -> None:
            client.run_on_scheduler(install if plugin else _detach)
            client.run_on_scheduler(gc.collect)
            cpu_before = client.run_on_scheduler(time.process_time)
            begin = time.perf_counter()
            futures = client.map(_increment, range(tasks), pure=False)
            client.gather(futures)
            seconds[plugin].append(time.perf_counter() - begin)
            del futures  # which costs the scheduler time as well
            while client.run_on_scheduler(_known_tasks):
                time.sleep(0.05)
            cpu_after = client.run_on_scheduler(time.process_time)
            cpu[plugin].append(cpu_after - cpu_before)

        measure(False)
        measure(True)
        for values in (*seconds.values(), *cpu.values()):
            values.clear()  # that was the warm-up
        for repeat in range(repeats):
            for plugin in (False, True) if repeat % 2 else (True, False):
                measure(plugin)
        client.run_on_scheduler(install)
        hook = [client.run_on_scheduler(_hook_seconds) for _ in range(repeats)]
    per_task = [seconds / tasks for seconds in cpu[False]]
    share = [100 * one / statistics.median(per_task) for one in hook]
    note = "pairs"
    return [
        measured(
            f"{tasks:,} tasks without plugin", "tasks/s", _rates(tasks, seconds[False])
        ),
        measured(
            f"{tasks:,} tasks with plugin", "tasks/s", _rates(tasks, seconds[True])
        ),
        measured("time with / without plugin", "x", _divided(seconds), note),
        measured("scheduler CPU with / without plugin", "x", _divided(cpu), note),
        measured("plugin's part of that, alone", "% per task", share, "by its hook"),
    ]


def _detach(dask_scheduler: Any) -> None:
    detach(dask_scheduler)


#: the states through which a plain task goes
_LIFE = ("released", "waiting", "processing", "memory", "released", "forgotten")


def _hook_seconds(dask_scheduler: Any, tasks: int = 10_000) -> float:
    """CPU seconds that the plugin spends on one plain task."""
    plugin = dask_scheduler.plugins["seamless"]
    begin = time.process_time()
    for number in range(tasks):
        key = f"_increment-{number}"
        for start, finish in itertools.pairwise(_LIFE):
            plugin.transition(key, start, finish, stimulus_id="benchmark")
    return (time.process_time() - begin) / tasks


def _known_tasks(dask_scheduler: Any) -> int:
    return len(dask_scheduler.tasks)


def _rates(tasks: int, seconds: Iterable[float]) -> list[float]:
    return [tasks / one for one in seconds]


def _divided(values: dict[bool, list[float]]) -> list[float]:
    return [b / a for a, b in zip(values[False], values[True], strict=True)]


# -- buffers -----------------------------------------------------------------------


def _make(kind: str, size: int, seed: int) -> Any:
    content = random.Random(seed).randbytes(size)
    if kind == "bytes":
        return content
    from seamless import Buffer

    buffer = Buffer(content)
    buffer.get_checksum()  # which everything that Seamless makes has already
    return buffer


def _prepare() -> None:
    from seamless_dask.storage import serialization

    serialization.register()


def _touch(value: Any) -> int:
    return len(getattr(value, "content", value))


def _last_transfer(dask_worker: Worker) -> float:
    return float(dask_worker.transfer_incoming_log[-1]["duration"])


def buffer_transfer(address: str, *, megabytes: int, repeats: int) -> list[Measured]:
    """MB/s between two worker processes, as the receiving worker logs it."""
    size = megabytes * 1_000_000
    kinds = ("bytes", "Buffer")
    speed: dict[str, list[float]] = {kind: [] for kind in kinds}
    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(2)
        client.run(_prepare)
        here, there = list(client.scheduler_info(n_workers=-1)["workers"])[:2]
        for repeat in range(repeats + 1):
            for kind in kinds if repeat % 2 else kinds[::-1]:
                value = client.submit(
                    _make, kind, size, repeat, workers=[here], pure=False
                )
                client.submit(_touch, value, workers=[here], pure=False).result()
                touched = client.submit(_touch, value, workers=[there], pure=False)
                assert touched.result() == size
                seconds = client.run(_last_transfer, workers=[there])[there]
                if repeat:  # the first is the warm-up
                    speed[kind].append(megabytes / seconds)
    share = [b / a for a, b in zip(speed["bytes"], speed["Buffer"], strict=True)]
    return [
        measured(f"bytes of {megabytes} MB to another worker", "MB/s", speed["bytes"]),
        measured(
            f"Buffer of {megabytes} MB to another worker", "MB/s", speed["Buffer"]
        ),
        measured(f"Buffer / bytes, {megabytes} MB", "x", share, "pairs"),
    ]


# -- all of it ---------------------------------------------------------------------


@contextmanager
def _dask(processes: int) -> Iterator[str]:
    """A scheduler and workers in processes of their own."""
    dask = PlainDask(processes=processes)
    try:
        dask.open()
        yield dask.address
    finally:
        dask.close()


def _attach(address: str) -> None:
    with Client(address, set_as_default=False) as client:
        client.run_on_scheduler(install)


def measure_machine(quick: bool) -> Iterator[Measured]:
    yield from micro_machine.lines(quick)


def measure_grants(quick: bool) -> Iterator[Measured]:
    with _dask(0) as address:
        _attach(address)
        for rate, count, repeats in (
            (1.0, 5 if quick else 20, 1),
            (1000.0, 2000 if quick else 5000, 3 if quick else 5),
        ):
            yield from asyncio.run(
                grants(address, rate=rate, count=count, repeats=repeats)
            )


def measure_plugin(quick: bool) -> Iterator[Measured]:
    with _dask(1) as address:
        tasks, repeats = (2000, 4) if quick else (10_000, 8)
        yield from plugin_overhead(address, tasks=tasks, repeats=repeats)


def measure_buffers(quick: bool) -> Iterator[Measured]:
    with _dask(2) as address:
        for megabytes in (10,) if quick else (1, 10, 100):
            yield from buffer_transfer(address, megabytes=megabytes, repeats=5)


PARTS: dict[str, Callable[[bool], Iterator[Measured]]] = {
    "machine": measure_machine,
    "grants": measure_grants,
    "plugin": measure_plugin,
    "buffers": measure_buffers,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    unknown = set(args.parts) - PARTS.keys()
    if unknown:
        parser.error(f"{sorted(unknown)}: allowed are {', '.join(PARTS)}")

    logging.getLogger("distributed").setLevel(logging.WARNING)
    about = machine.describe()
    print(machine.in_words(about), end="\n\n")
    lines = [line for name in args.parts or PARTS for line in PARTS[name](args.quick)]
    rows = [[line.what, line.spread.text(), line.unit, line.note] for line in lines]
    print(table(["what", "median (least-most, repeats)", "unit", ""], rows))
    if args.json:
        result = {"machine": about, "results": [asdict(line) for line in lines]}
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

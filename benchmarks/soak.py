"""Whether anything grows: ``python benchmarks/soak.py [--quick]``.

Sends thousands of small transformations, then inputs and results of 1 MB each, through
one Dask worker of a real stack (see ``examples/local_stack.py``) and prints, step by step, what
each kind of process holds: resident memory, threads and file descriptors; how many
tasks and leases the scheduler has; and how long the tables are that are known to
grow with use. At the end comes the slope per 1000 transformations of each column,
counted from the first third on: what is filled at the start, such as caches and
memory pools, is no leak.
"""

from __future__ import annotations

import argparse
import gc
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import psutil

_HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(_HERE.parent / "examples"))

from local_stack import LocalStack  # noqa: E402

MEGABYTE = 1_000_000
#: Seamless processes that are looked at
CHILDREN = 2
FAULTS = "instead: two drivers at a time, while all that can be killed is"
#: seconds in which the observer measures a step
PATIENCE = 60.0
#: what the step lines of the driver begin with
MARK = "soak "


# -- the driver --------------------------------------------------------------------


def drive(small: int, large: int, step: int, salt: str, measured: Path) -> None:
    """Run `small` transformations, then `large` ones with 1 MB in and out; in steps.

    After each step it waits until the observer has made the file `measured`: on a busy
    machine it would measure in the middle of the next step.
    """
    import random

    import seamless
    import seamless.config
    from seamless.transformer import delayed, parallel

    def square(salt, i):
        return i * i

    def reverse(salt, blob):
        return blob.content[::-1]  # celltype bytes arrives as a seamless.Buffer

    make_small, make_large = delayed(square), delayed(reverse)
    make_large.celltypes.blob = make_large.celltypes.result = "bytes"

    def run(transformations: list[Any], expected: list[Any]) -> None:
        for _finished in parallel(transformations):
            continue
        for transformation, value in zip(transformations, expected, strict=True):
            result = transformation.run()
            assert getattr(result, "content", result) == value

    def report(kind: str, done: int) -> None:
        gc.collect()
        print(MARK + json.dumps({"kind": kind, "done": done, **tables()}), flush=True)
        deadline = time.monotonic() + PATIENCE
        while not measured.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        measured.unlink()

    # The configuration is that of the current folder, not of this file's.
    seamless.config.init(workdir=".")
    run([make_small(salt, -i) for i in range(20)], [i * i for i in range(20)])
    report("start", 0)
    for begin in range(0, small, step):
        numbers = range(begin, min(begin + step, small))
        run([make_small(salt, i) for i in numbers], [i * i for i in numbers])
        report("small", numbers.stop)
    few = max(1, min(25, large // 4))
    for begin in range(0, large, few):
        numbers = range(begin, min(begin + few, large))
        blobs = [random.Random(f"{salt}/{i}").randbytes(MEGABYTE) for i in numbers]
        run([make_large(salt, blob) for blob in blobs], [b[::-1] for b in blobs])
        del blobs
        report("1 MB", numbers.stop)
    seamless.close()


def tables() -> dict[str, int]:
    """The lengths of tables in this process that grow with use, or did."""
    from seamless.caching import buffer_cache, buffer_writer, eviction_cost
    from seamless_transformer import transformation_cache

    cache = buffer_cache._cache_instance
    results = transformation_cache.get_transformation_cache()
    lengths = {
        "strong": cache.strong_cache if cache else {},
        "weak": cache.weak_cache if cache else {},
        "sizes": cache._sizes if cache else {},
        "scratch": cache._scratch_refs if cache else {},
        "lengths": eviction_cost._cost_module.buffer_lengths._lengths,
        "writes": buffer_writer._entries,
        "dunders": results._transformation_dunder_cache,
        "results": results._transformation_cache,
    }
    return {name: len(table) for name, table in lengths.items()}


# -- the observer ------------------------------------------------------------------


def kinds(stack: LocalStack, driver: int) -> dict[str, list[psutil.Process]]:
    """The processes of the stack: driver, scheduler, worker, children, servers."""
    found = {"driver": [psutil.Process(driver)]}
    for key, status in stack.services().items():
        process = psutil.Process(status["pid"])
        if not key.startswith("daskserver-"):
            found[key.split("-")[0]] = [process]
            continue
        found["scheduler"] = [process]
        found["worker"] = _spawned(process)
        servers = [server for worker in found["worker"] for server in _spawned(worker)]
        # Those that are there from the start; others come under load and go again.
        found["child"] = [c for server in servers for c in server.children()][:CHILDREN]
    return found


def _spawned(process: psutil.Process) -> list[psutil.Process]:
    """The children of a process that multiprocessing started to do work."""
    spawned = []
    for child in process.children():
        command = " ".join(child.cmdline())
        if "spawn_main" in command or "forkserver" in command:
            spawned.append(child)
    return spawned


def sample(processes: dict[str, list[psutil.Process]]) -> dict[str, float]:
    """Memory (MB), threads and descriptors per process of each kind."""
    row: dict[str, float] = {}
    for kind, members in processes.items():
        for number, process in enumerate(members):
            name = kind if len(members) == 1 else f"{kind}{number + 1}"
            with process.oneshot():
                row[f"{name} MB"] = round(process.memory_info().rss / MEGABYTE, 1)
                row[f"{name} thr"] = process.num_threads()
                row[f"{name} fds"] = process.num_fds()
    return row


def scheduler_sizes(dask_scheduler: Any) -> dict[str, int]:
    """Runs in the scheduler: how long its tables are."""
    return {
        "tasks": len(dask_scheduler.tasks),
        "prefixes": len(dask_scheduler.task_prefixes),
        "groups": len(dask_scheduler.task_groups),
        "clients": len(dask_scheduler.clients),
    }


def worker_sizes(dask_worker: Any) -> dict[str, int]:
    """Runs in the Dask worker: how long its tables are, by the functions above."""
    runner = dask_worker.plugins["seamless-worker"]._runner.result()
    sizes = dict(tables())
    sizes["store"] = len(runner.buffers)
    sizes["tasks"] = len(dask_worker.state.tasks)
    sizes["data"] = len(dask_worker.data)
    return sizes


class Observer:
    """Takes a row at each step of the driver."""

    def __init__(self, stack: LocalStack, driver: int) -> None:
        from distributed import Client

        # The functions that it sends are in no module that the cluster could import.
        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        self._stack = stack
        self._driver = driver
        self._client = Client(stack.scheduler_address(), set_as_default=False)

    def row(self, step: dict[str, Any]) -> dict[str, Any]:
        """Measure now; `step` is what the driver said."""
        row: dict[str, Any] = {"kind": step.pop("kind"), "done": step.pop("done")}
        row.update(sample(kinds(self._stack, self._driver)))
        row.update({f"driver.{name}": n for name, n in step.items()})
        sizes = self._client.run_on_scheduler(scheduler_sizes)
        row.update({f"scheduler.{name}": n for name, n in sizes.items()})
        for sizes in self._client.run(worker_sizes).values():
            row.update({f"worker.{name}": n for name, n in sizes.items()})
        permissions = self._stack.scheduler_status()["permissions"]
        row["leases"] = permissions["admitted"] + permissions["waiting"]
        return row

    def close(self) -> None:
        """Leave the cluster."""
        self._client.close()


def soak(
    stack: LocalStack, *, small: int, large: int, step: int
) -> Iterator[dict[str, Any]]:
    """Run the driver on a stack and yield a row per step."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        measured = Path(folder, "measured")
        arguments = ["--drive", small, large, step, f"soak-{time.time()}", measured]
        yield from _rows(stack, arguments, measured)


def _rows(
    stack: LocalStack, arguments: Sequence[object], measured: Path
) -> Iterator[dict[str, Any]]:
    process = stack.start(Path(__file__).resolve(), *arguments, show_stderr=True)
    observer = None
    begin = time.monotonic()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith(MARK):
                continue
            if observer is None:
                observer = Observer(stack, process.pid)
            row = observer.row(json.loads(line.removeprefix(MARK)))
            measured.touch()
            yield {"s": round(time.monotonic() - begin, 1), **row}
    finally:
        if observer is not None:
            observer.close()
    stack.finish(process, begin=begin, timeout=60)


def slopes(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Growth of each column per 1000 transformations, by least squares."""
    settled = rows[len(rows) // 3 :]
    result = {}
    for name in settled[0]:
        if name in ("s", "kind", "done"):
            continue
        points = [(row["done"], row[name]) for row in settled if name in row]
        result[name] = round(1000 * _slope(points), 2)
    return result


def _slope(points: Sequence[tuple[float, float]]) -> float:
    n = len(points)
    mean_x = sum(x for x, _ in points) / n
    mean_y = sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    if not spread:
        return 0.0
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line per column and one column per row: there are many kinds of numbers."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    wide = max(map(len, names))
    lines = []
    for name in names:
        cells = " ".join(f"{row.get(name, '-')!s:>7}" for row in rows)
        lines.append(f"{name:<{wide}} {cells}")
    return "\n".join(lines)


def main() -> None:
    # A shell starts what runs in the background with Ctrl-C ignored, and that would be
    # inherited by the drivers that are interrupted here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--small", type=int, help="small transformations")
    parser.add_argument(
        "--large", type=int, help="transformations with 1 MB in and out"
    )
    parser.add_argument("--step", type=int, help="small transformations per row")
    parser.add_argument("--faults", action="store_true", help=FAULTS)
    parser.add_argument(
        "--seconds", type=float, default=600.0, help="with --faults: for how long"
    )
    parser.add_argument(
        "--seed", type=int, help="with --faults: of all decisions; random by default"
    )
    parser.add_argument("--drive", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.drive:
        small, large, step = map(int, args.drive[:3])
        drive(small, large, step, args.drive[3], Path(args.drive[4]))
        return
    if args.faults:
        import random

        import fault_soak

        seed = random.randrange(10**6) if args.seed is None else args.seed
        print(f"seed {seed}, {args.seconds:g} s", flush=True)
        sys.exit(1 if fault_soak.run(seed, args.seconds) else 0)
    small, large, step = (500, 20, 100) if args.quick else (5000, 200, 500)
    small = small if args.small is None else args.small
    large = large if args.large is None else args.large
    rows = []
    with LocalStack() as stack:
        for row in soak(stack, small=small, large=large, step=args.step or step):
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    print(table(rows))
    for kind in ("small", "1 MB"):
        part = [row for row in rows if row["kind"] == kind]
        if len(part) > 3:
            growing = {name: s for name, s in slopes(part).items() if abs(s) >= 0.01}
            print(f"\ngrowth per 1000 transformations ({kind}): {json.dumps(growing)}")


if __name__ == "__main__":
    main()

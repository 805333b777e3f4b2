"""The cost of the page, the report and the counting, on the scheduler's event loop.

    python benchmarks/page_cost.py [--workers 1000] [--tasks 100000]

It makes a scheduler with as many workers and unfinished transformations, which are only
entries in its tables, and prints CPU times: of one beat of the page (the figures, and the
HTML of a browser), of the answers, and of counting one transformation.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from typing import Any

from distributed import Scheduler
from distributed.core import Status
from distributed.scheduler import WorkerState

import scheduler_ext
from scheduler_ext import reports
from scheduler_ext.task_keys import TOP_LEVEL_RESOURCE
from scheduler_ext.view import figures, report_page
from scheduler_ext.view.dashboard import Page, Shown
from scheduler_ext.view.durations import Durations, Usage, Waits

SLOTS = 12
NAMES = ("simulate", "dock", "score", "minimise", "cluster_poses", "report")


def main() -> None:
    """Print one line for each cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--tasks", type=int, default=100_000)
    options = parser.parse_args()
    asyncio.run(measure(options.workers, options.tasks))


async def measure(workers: int, tasks: int) -> None:
    """Fill a scheduler, and measure."""
    async with Scheduler(port=0, dashboard_address="127.0.0.1:0") as scheduler:
        plugin = scheduler_ext.attach(scheduler, interval=3600.0)
        fill(scheduler, plugin, workers, tasks)
        operations = plugin.operations
        shown = Shown(operations)
        page = Page(shown)
        choice = figures.Choice()

        def beat() -> None:
            shown._computed = float("-inf")
            page.update()

        print(f"{workers} workers, {tasks} tasks; medians of CPU time in ms")
        say("figures of the page", lambda: figures.figures(operations, choice))
        say("figures, and one browser", beat)
        say("a sample for the curves", operations.sample)
        say("a beat without a page", lambda: operations.beat(time.monotonic()))
        say("the report as HTML", lambda: report_page.report(operations.report()))
        count_one()
        scheduler.running.clear()
        scheduler.workers.clear()
        scheduler.tasks.clear()
        scheduler.unrunnable.clear()


def fill(scheduler: Scheduler, plugin: Any, workers: int, tasks: int) -> None:
    """Entries in the tables of the scheduler and of the plugin."""
    machine, operations = plugin._machine, plugin.operations
    now = time.monotonic()
    for number in range(workers):
        address = f"tcp://10.0.{number // 250}.{number % 250}:40000"
        ws = WorkerState(
            address=address,
            status=Status.running,
            pid=0,
            name=f"SLURMCluster-{number}",
            nthreads=SLOTS,
            memory_limit=2**35,
            local_directory="/tmp",
            nanny="",
            server_id=address,
        )
        ws.metrics = {
            "cpu": 50.0,
            "memory": 2**30,
            "seamless": {"processes": SLOTS, "cpu": 1150.0, "memory": 2**33},
        }
        scheduler.workers[address] = ws
        scheduler.running.add(ws)
        machine.add_worker(address, SLOTS // 3, 3, None, now)
    codes = [f"{number:064x}" for number in range(len(NAMES))]
    for code, name in zip(codes, NAMES, strict=True):
        operations.functions.learn(code, name)
    for number in range(tasks):
        key = f"base_{codes[number % len(codes)]}-{number + 2**200:064x}"
        task = scheduler.new_task(key, None, "released")
        task.resource_restrictions = {TOP_LEVEL_RESOURCE: 1.0}
        address = machine.task_ready(key, 0, now + number * 1e-6)
        plugin._live.add(key)
        if address is None:
            task.state, state = "no-worker", "no-worker"
            scheduler.unrunnable[task] = now
        else:
            task.state, state = "processing", "processing"
            task.processing_on = scheduler.workers[address]
            task.processing_on.processing.add(task)
            task.processing_on.executing[task] = 1.0
        plugin._activity.move("released", state, True, now)
        operations.moved(key, "released", state)


def say(what: str, work: Callable[[], Any], times: int = 30) -> None:
    """Print the median CPU time of some work."""
    spent = []
    for _ in range(times):
        begin = time.process_time()
        work()
        spent.append(time.process_time() - begin)
    print(f"{what:28} {1000 * statistics.median(spent):8.3f}")


def count_one(times: int = 100_000) -> None:
    """Print the CPU time of one transformation: it waits, has a worker, and ends."""
    durations, waits = Durations(0.0, 0.0), Waits()
    waits.capacity(1, 0.0)
    told = reports.report(
        "stored", 0, begun=1, resume_wait=0.0, usage=(1.5, 1.2, 10**8)
    )
    keys = [f"base-{number:064x}" for number in range(times)]
    begin = time.process_time()
    for key in keys:
        waits.moved(key, "waiting", 1.0)
        waits.moved(key, "no-worker", 1.1)
        waits.moved(key, "processing", 3.0)
        usage = Usage(*reports.parse_usage(told))
        waited = waits.ended(key, 5.0)
        durations.ended("score", "stored", 2.0, waited, usage)
    spent = time.process_time() - begin
    print(f"{'counting one transformation':28} {1000 * spent / times:8.4f}")


if __name__ == "__main__":
    main()

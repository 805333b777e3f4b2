"""One scheduler and many workers: ``python benchmarks/crowd.py [--quick]``.

The scheduler is a real one with the plugin, in a process of its own; workers are those of
``light_workers.py``, in several processes, which compute nothing. The page is open in a
browser's place, and metrics are read. More transformations are submitted than there are slots,
so that most of them wait. Printed are, for each number of workers and of waiting
transformations:

- transformations per second and the scheduler's CPU time for each, with tasks that take no
  time (as fast as the machine allows),
- the time from the request for a lease to its grant, and from a question to its answer
  (how late the scheduler's event loop is),
- the scheduler's memory, and CPU time while nothing ends.

With ``--churn N`` as many workers join and leave a second meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE.parent), str(_HERE)]

import aiohttp  # noqa: E402
import psutil  # noqa: E402
from bokeh.client import pull_session  # noqa: E402
from distributed import Client  # noqa: E402
from light_workers import PROCESSES, THROTTLE  # noqa: E402
from scheduler_file import wait_for_facts  # noqa: E402

from scheduler_ext import messages  # noqa: E402
from scheduler_ext.task_keys import TOP_LEVEL_RESOURCE, base_key  # noqa: E402

#: processes of light workers
PARTS = 2
#: seconds for the start of the scheduler
START_SECONDS = 60.0
#: tasks that are submitted together
BATCH = 2_000
#: seconds between two questions for how late the scheduler is, and to the metrics
ASK, SCRAPE = 0.05, 5.0
#: workers, and transformations that wait
CASES = ((10, 20_000), (100, 20_000), (1000, 20_000), (10, 100_000), (1000, 100_000))
#: names of functions; each has its code
CODES = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(6)]


def compute(job: str) -> None:
    """In place of a transformation; never executed."""


class Crowd:
    """A scheduler and light workers."""

    def __init__(self, workers: int, seconds: float) -> None:
        self._workers = workers
        self._seconds = seconds
        self._number = 0

    async def __aenter__(self) -> Crowd:
        self._stack = contextlib.AsyncExitStack()
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        directory = self._stack.enter_context(tempfile.TemporaryDirectory())
        file = Path(directory, "scheduler.json")
        log = self._stack.enter_context(open(Path(directory, "log"), "wb"))
        options = ["--scheduler-file", str(file), "--port", "0"]
        options += [
            "--dashboard-address",
            "127.0.0.1:0",
            "--preload",
            "scheduler_ext.preload",
        ]
        command = [sys.executable, "-m", "dask", "scheduler", *options]
        environment = {**os.environ, "PYTHONPATH": str(_HERE.parent)}
        self.process = psutil.Process(self._run(command, environment, log).pid)
        facts = await asyncio.to_thread(wait_for_facts, file, START_SECONDS)
        self.address: str = facts["address"]
        self.page = f"http://127.0.0.1:{facts['services']['dashboard']}"
        self._parts = []
        for part in range(PARTS):
            number = self._workers // PARTS
            command = [sys.executable, str(_HERE / "light_workers.py"), self.address]
            command += [str(number), str(part), "--seconds", str(self._seconds)]
            self._parts.append(self._run(command, environment, log))
        self.client = await self._stack.enter_async_context(
            Client(self.address, asynchronous=True, set_as_default=False)
        )
        while await self._connected() < self._workers:
            await asyncio.sleep(0.2)
        self.processes = [self.process, *(psutil.Process(p.pid) for p in self._parts)]

    async def _connected(self) -> int:
        identity = await self.client.scheduler.identity(n_workers=-1)
        return len(identity["workers"])

    def _run(
        self, command: list[str], environment: dict[str, str], log: Any
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)
        return process

    async def submit(self, number: int) -> list[Any]:
        """Submit so many transformations; return their futures."""
        futures = []
        for first in range(0, number, BATCH):
            count = min(BATCH, number - first)
            keys = []
            for _ in range(count):
                self._number += 1
                checksum = hashlib.sha256(f"t{self._number}".encode()).hexdigest()
                code = CODES[self._number % len(CODES)]
                keys.append(base_key(checksum, {}, code=code))
            futures += self.client.map(
                compute,
                # as long as the job of a small transformation
                [key.ljust(2000) for key in keys],
                key=keys,
                resources={TOP_LEVEL_RESOURCE: 1},
                pure=False,
            )
        # It reads them in its own time, which is not to be measured.
        while await self._unfinished() < number:
            await asyncio.sleep(0.1)
        return futures

    async def _unfinished(self) -> int:
        states = await self.status()
        there = ("waiting", "queued", "no_worker", "processing")
        return sum(int(states[name]) for name in there)

    async def status(self) -> dict[str, Any]:
        """Counters of the scheduler's plugin."""
        call = getattr(self.client.scheduler, messages.OP_ACTIVITY)
        answer: dict[str, Any] = await call()
        return answer

    async def finished(self) -> int:
        """How many transformations have ended."""
        return int((await self.status())["transformations"]["finished_total"])

    async def leases(self) -> list[float]:
        """Seconds from request to grant, since the last time."""
        found: list[float] = []
        for number, part in enumerate(self._parts):
            self._tell(number, "leases")
            assert part.stdout is not None
            found += json.loads(await asyncio.to_thread(part.stdout.readline))
        return found

    def go(self) -> None:
        """Let the workers begin."""
        for part in range(PARTS):
            self._tell(part, "go")

    def change(self, number: int) -> None:
        """Let so many workers join, and as many leave."""
        for index in range(number):
            self._tell(index % PARTS, "start 1\nstop 1")

    def _tell(self, part: int, command: str) -> None:
        stream = self._parts[part].stdin
        assert stream is not None
        stream.write(f"{command}\n".encode())
        stream.flush()

    @contextlib.asynccontextmanager
    async def looked_at(self) -> AsyncIterator[list[float]]:
        """The page is open, metrics are read; yields how late the answers are."""
        session = await asyncio.to_thread(_opened, f"{self.page}/seamless")
        late: list[float] = []
        tasks = [
            asyncio.create_task(self._ask(late)),
            asyncio.create_task(self._scrape()),
        ]
        try:
            yield late
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.to_thread(session.close)

    async def _ask(self, late: list[float]) -> None:
        call = getattr(self.client.scheduler, messages.OP_VERSION)
        while True:
            begin = time.monotonic()
            await call()
            late.append(time.monotonic() - begin)
            await asyncio.sleep(ASK)

    async def _scrape(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                for path in ("metrics", "seamless/state.json"):
                    async with session.get(f"{self.page}/{path}") as answer:
                        await answer.read()
                await asyncio.sleep(SCRAPE)


async def measure(
    workers: int, waiting: int, seconds: float, task: float, churn: float
) -> dict[str, float]:
    """Measure one case.

    Parameters
    ----------
    workers
        Their number.
    waiting
        Transformations that wait at the beginning.
    seconds
        For how long.
    task
        Seconds that each transformation takes.
    churn
        Workers that join, and that leave, per second.
    """
    async with Crowd(workers, task) as crowd, crowd.looked_at() as late:
        slots = workers * PROCESSES * THROTTLE
        futures = await crowd.submit(waiting + slots)
        late.clear()
        begin, done = time.monotonic(), await crowd.finished()
        cpu = crowd.process.cpu_times()
        crowd.go()
        while time.monotonic() < begin + seconds:
            await asyncio.sleep(1.0)
            crowd.change(int(churn))
        spent = crowd.process.cpu_times()
        ended = await crowd.finished() - done
        took = time.monotonic() - begin
        used = spent.user + spent.system - cpu.user - cpu.system
        leases = await crowd.leases()
        found = {
            "per second": ended / took,
            "CPU ms": 1000 * used / max(1, ended),
            "scheduler busy": used / took,
            "grant p50 ms": 1000 * _quantile(leases, 0.5),
            "grant p99 ms": 1000 * _quantile(leases, 0.99),
            "late p50 ms": 1000 * _quantile(late, 0.5),
            "late p99 ms": 1000 * _quantile(late, 0.99),
            "MB": crowd.process.memory_info().rss / 1e6,
            "waiting at the end": len(futures) - await crowd.finished(),
        }
        del futures
        return found


def _opened(page: str) -> Any:
    """Open a page as a browser does; in a thread without an event loop."""
    asyncio.set_event_loop(asyncio.new_event_loop())
    return pull_session(url=page)


def _quantile(values: Sequence[float], share: float) -> float:
    if len(values) < 2:
        return float("nan")
    return statistics.quantiles(values, n=100, method="inclusive")[int(100 * share) - 1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the first case, shortly")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each case")
    parser.add_argument("--task", type=float, default=0.0, help="seconds of each task")
    parser.add_argument("--churn", type=float, default=0.0, help="workers a second")
    parser.add_argument(
        "--case", type=int, nargs=2, metavar=("WORKERS", "WAITING"), action="append"
    )
    options = parser.parse_args(arguments)
    cases = options.case or (CASES[:1] if options.quick else CASES)
    seconds = 5.0 if options.quick else options.seconds
    for workers, waiting in cases:
        found = asyncio.run(
            measure(workers, waiting, seconds, options.task, options.churn)
        )
        figures = ", ".join(f"{name} {value:.3g}" for name, value in found.items())
        print(f"{workers} workers, {waiting} waiting: {figures}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

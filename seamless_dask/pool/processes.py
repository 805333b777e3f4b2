"""Keeps the Seamless processes of a pool going, and decides which one runs a job.

A job gets a process without other jobs; if there is none, a process is started, which
takes some milliseconds. So a job that waits for nested transformations does not share
its process as long as there are few processes. From `Processes.limit` processes on, a
process whose jobs all wait takes in another job, see `seamless_dask.child.turns`: the
process with the fewest jobs, at most `MAX_SHARED`. If no process can, one more is
started all the same: a job must get a process even if all other jobs wait.

What happens when a process is lost (killed, crashed, out of memory):

- Another process takes its place.
- The jobs that ran in it run again. A job that may have brought down several processes
  ends with an error that says how they ended, see `seamless_dask.pool.blame`.
- If a process is stopped in order to cancel one job, no job is blamed.

Everything here runs on the event loop of seamless-transformer's pool.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..cluster.environment import UNRESPONSIVE_LIMIT_ENV
from ..errors import JobFailed
from ..storage.job_report import JobReport
from .blame import verdict
from .job import Evicted, PoolJob, ProcessLost, ProcessTaken
from .process import SeamlessProcess

logger = logging.getLogger(__name__)

#: failed starts of a process in a row before the jobs get errors
START_ATTEMPTS = 3
#: seconds between further tries, while the jobs get errors
START_INTERVAL = 5.0
#: minimum number of processes, beyond one per slot, before jobs share processes
MIN_HELD = 32
#: jobs that share one process, at most
MAX_SHARED = 8
#: seconds without a job after which a process ends, if there are more than at the start
IDLE_LIMIT = 60.0
#: seconds without a sign of life after which a process is taken for dead, unless the
#: environment variable says otherwise. The default is long because compiled code that
#: holds the GIL looks the same.
UNRESPONSIVE_LIMIT = 3600.0


class Processes:
    """The processes of a pool.

    Parameters
    ----------
    manager
        seamless-transformer's pool, which has no processes of its own.
    size
        Number of processes at the start; there are never fewer.
    slots
        Jobs that execute at a time, at most.
    environment
        Environment variables for them.
    scratch
        Directory in which they get directories for their temporary files.
    """

    def __init__(
        self,
        manager: Any,
        size: int,
        slots: int,
        environment: dict[str, str],
        scratch: Path,
    ) -> None:
        self._manager = manager
        self._size = size
        #: number of processes from which on jobs share processes
        self.limit = slots + max(MIN_HELD, slots)
        self._environment = environment
        #: prefix of the markers by which descendants of the processes are recognised
        self.marker = uuid.uuid4().hex
        self._scratch = scratch / f"seamless-{self.marker[:8]}"
        self._unresponsive_limit = float(
            os.environ.get(UNRESPONSIVE_LIMIT_ENV, UNRESPONSIVE_LIMIT)
        )
        self._launched = 0
        #: the processes that have not ended, by name; any thread may look at a copy
        self._by_name: dict[str, SeamlessProcess] = {}
        #: processes without a job, the last used one at the end
        self._idle: dict[SeamlessProcess, asyncio.TimerHandle] = {}
        #: jobs that need a process, in order
        self._needing: dict[asyncio.Future[SeamlessProcess], None] = {}
        #: tasks that start a process each
        self._starting: set[asyncio.Task[None]] = set()
        self._failures = 0
        #: why no process can be started at present
        self._broken: str | None = None
        self._closing = False
        #: jobs that began in a process with others
        self.shared = 0

    # -- life cycle of the processes ---------------------------------------------

    async def start(self) -> None:
        """Start `size` processes; return when they are ready.

        Raises
        ------
        RuntimeError
            If they do not start; the message says how they ended.
        """
        self._start_what_is_needed()
        while self._starting:
            await asyncio.wait(self._starting, return_when=asyncio.FIRST_COMPLETED)
            if self._broken is not None:
                raise RuntimeError(self._broken)

    async def close(self) -> None:
        """Start no more processes; the caller ends them and then calls `clean_up`."""
        self._closing = True
        for process in self.all():
            process.abandoned = True
        for timer in self._idle.values():
            timer.cancel()
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)

    async def clean_up(self, processes: Iterable[SeamlessProcess]) -> None:
        """Remove the shared memory and files of processes, which must have ended."""
        for process in processes:
            await process.release_segments()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def all(self) -> tuple[SeamlessProcess, ...]:
        """Return all processes that have not ended."""
        return tuple(self._by_name.values())

    def process(self, name: str) -> SeamlessProcess | None:
        """Return a process that has not ended; from any thread."""
        return self._by_name.get(name)

    def _start_what_is_needed(self) -> None:
        """Start processes for the jobs that need one, and to have `size` processes."""
        if self._closing:
            return
        there = sum(not p.ending and p.retiring is None for p in self.all())
        needed = max(len(self._needing), self._size - there - len(self._starting))
        for _ in range(needed - len(self._starting)):
            task = asyncio.create_task(self._start_one())
            self._starting.add(task)
            task.add_done_callback(self._started)

    def _started(self, task: asyncio.Task[None]) -> None:
        self._starting.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error(
                "A Seamless process was not started", exc_info=task.exception()
            )
        self._start_what_is_needed()

    async def _start_one(self) -> None:
        failures = self._failures
        try:
            process = await self._launch()
            await process.wait_ready()
        except Exception as error:  # noqa: BLE001 - waiting jobs are told
            # Processes that start at the same time often fail for the same reason, for
            # example if all are killed: that is one failure.
            if self._failures == failures:
                self._failures += 1
            logger.warning("A Seamless process does not start: it %s", error)
            if self._failures >= START_ATTEMPTS:
                self._broken = f"No Seamless process can be started: it {error}"
                for future in self._needing:
                    if not future.done():
                        future.set_exception(JobFailed(f"{self._broken}\n"))
                self._needing.clear()
                await asyncio.sleep(START_INTERVAL)
            return
        self._failures, self._broken = 0, None
        self._free(process)

    async def _launch(self) -> SeamlessProcess:
        self._launched += 1
        process = await SeamlessProcess.launch(
            self._manager,
            f"seamless-{self._launched}",
            environment=self._environment,
            scratch=self._scratch / str(self._launched),
            shared=self._scratch / "shared",
            marker=f"{self.marker}/{self._launched}/",
            unresponsive_limit=self._unresponsive_limit,
            on_end=self._forget,
        )
        self._by_name[process.name] = process
        return process

    def _forget(self, process: SeamlessProcess) -> None:
        self._by_name.pop(process.name, None)
        timer = self._idle.pop(process, None)
        if timer is not None:
            timer.cancel()
        self._start_what_is_needed()

    def _free(self, process: SeamlessProcess) -> None:
        """Give a process without jobs to a job that needs one, or keep it as idle."""
        if process.jobs or process.ending or process in self._idle:
            return
        if process.retiring is not None:
            process.stop(f"had to be replaced: {process.retiring}")
            self._start_what_is_needed()
            return
        while self._needing:
            future = next(iter(self._needing))
            del self._needing[future]
            if not future.done():
                future.set_result(process)
                return
        loop = asyncio.get_running_loop()
        self._idle[process] = loop.call_later(IDLE_LIMIT, self._expire, process)

    def _expire(self, process: SeamlessProcess) -> None:
        """End an idle process if there are more than `size`."""
        there = sum(not p.ending for p in self.all())
        if there > self._size:
            del self._idle[process]
            process.stop("was idle")
        else:
            loop = asyncio.get_running_loop()
            self._idle[process] = loop.call_later(IDLE_LIMIT, self._expire, process)

    # -- jobs --------------------------------------------------------------------

    async def run(self, job: PoolJob) -> JobReport:
        """Run a job until it has ended in one process; cancelling it stops it.

        Raises
        ------
        JobFailed
            If processes were lost because of it, or cannot be started.
        """
        lenders = True
        while True:
            process = await self._process(lenders and not job.evictions)
            if process.jobs:
                self.shared += 1
            try:
                report = await process.run(job)
            except ProcessTaken:
                lenders = False
            except Evicted as eviction:
                logger.info("%s, and begins again in another", eviction)
            except ProcessLost as loss:
                if self._closing:
                    raise asyncio.CancelledError from None
                if job not in loss.charged:
                    continue
                logger.warning("The Seamless process of %s %s", job.name, loss)
                error = verdict(job)
                if error is not None:
                    raise JobFailed(error) from None
            else:
                return report
            finally:
                self._free(process)

    async def _process(self, lenders: bool) -> SeamlessProcess:
        """Return a process for one job.

        Parameters
        ----------
        lenders
            Whether it may be a process whose jobs all wait.
        """
        idle = [p for p in self._idle if p.idle]
        if idle:
            # Prefer a responsive process; of these take the last used one.
            process = max(reversed(idle), key=lambda p: p.responsive)
            self._idle.pop(process).cancel()
            return process
        if lenders and len(self._by_name) + len(self._starting) >= self.limit:
            able = [p for p in self.all() if p.lendable]
            lender = min(able, key=lambda p: len(p.jobs), default=None)
            if lender is not None and len(lender.jobs) < MAX_SHARED:
                return lender
        future: asyncio.Future[SeamlessProcess]
        if self._broken is not None:
            raise JobFailed(f"{self._broken}\n")
        future = asyncio.get_running_loop().create_future()
        self._needing[future] = None
        self._start_what_is_needed()
        try:
            return await future
        except asyncio.CancelledError:
            self._needing.pop(future, None)
            if future.done() and not future.cancelled() and not future.exception():
                self._free(future.result())
            raise

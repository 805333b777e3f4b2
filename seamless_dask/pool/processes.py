"""Keeps the Seamless processes of a pool going, and decides which of them runs what.

A job gets a process in which no other one has begun; if there is none, one is started,
which takes some milliseconds. So a job that waits for nested ones keeps its process to
itself as long as there are not too many. From `Processes.limit` processes on, a process whose
job waits takes in another one, see `seamless_dask.child.turns`: the process that has the
fewest, at most `MAX_SHARED`. If no process can, one more is started all the same: that
a job waits for a process must not depend on what other jobs wait for.

What happens when a process is lost (killed, crashed, out of memory):

- Another takes its place.
- The jobs that ran in it run again. One that may have brought down several processes
  ends with an error that says how they ended, see `seamless_dask.pool.blame`.
- A process that is stopped in order to cancel one job is nobody's fault.

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

#: a process that ends while it starts is tried so often before jobs are told
START_ATTEMPTS = 3
#: seconds between further tries, while the jobs get errors
START_INTERVAL = 5.0
#: processes, at least, besides those that execute, before jobs share processes
MIN_HELD = 32
#: jobs that one process holds at most, as long as another process can be had
MAX_SHARED = 8
#: seconds after which a process ends that has had no job, beyond those of the start
IDLE_LIMIT = 60.0
#: seconds without a sign of life after which a process is taken for dead, unless the
#: environment variable says otherwise. Generous: compiled code that holds the GIL looks
#: the same, and ends some time.
UNRESPONSIVE_LIMIT = 3600.0


class Processes:
    """The processes of a pool.

    Parameters
    ----------
    manager
        seamless-transformer's pool, which has no processes of its own.
    size
        Processes that are there from the start on, and never fewer.
    slots
        Jobs that execute at a time, at most.
    environment
        Environment variables for them.
    scratch
        Where they get directories for their temporary files.
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
        #: processes from which on jobs share them
        self.limit = slots + max(MIN_HELD, slots)
        self._environment = environment
        #: begins what descendants of the processes are recognised by
        self.marker = uuid.uuid4().hex
        self._scratch = scratch / f"seamless-{self.marker[:8]}"
        self._unresponsive_limit = float(
            os.environ.get(UNRESPONSIVE_LIMIT_ENV, UNRESPONSIVE_LIMIT)
        )
        self._launched = 0
        #: all that have not ended, by name; any thread may look at a copy
        self._by_name: dict[str, SeamlessProcess] = {}
        #: those without a job, the one used last at the end
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
        """Return when all processes of the start are ready.

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
        """Start no process any more; `clean_up` is to be called at the end."""
        self._closing = True
        for process in self.all():
            process.abandoned = True
        for timer in self._idle.values():
            timer.cancel()
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)

    async def clean_up(self, processes: Iterable[SeamlessProcess]) -> None:
        """Remove what the processes, which have all ended, leave behind."""
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
        """Start processes for the jobs that need one, and those that are missing."""
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
        try:
            process = await self._launch()
            await process.wait_ready()
        except Exception as error:  # noqa: BLE001 - told to those that need a process
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
        """Give a process that has no job to one that needs it, or keep it."""
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
        """End a process that nobody needs."""
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
            Whether it may be one whose jobs all wait.
        """
        idle = [p for p in self._idle if p.idle]
        if idle:
            # One that answers; of these the one that was used last.
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

"""Keeps the Seamless processes of a pool going, and decides which of them runs what.

What happens when a process is lost (killed, crashed, out of memory):

- Another takes its place. From the first loss on, one more is kept ready for that.
- The jobs that ran in it run again. Those that may have caused the loss do so alone,
  each in a process of its own, so that they take nobody with them; after
  `MAX_LOSSES` losses they end with an error that says how the processes ended. Jobs
  that wait for nested ones are not suspected, unless it happens time and again.
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
from typing import TYPE_CHECKING, Any

from .processes import MAX_LOSSES, PoolJob, ProcessLost, SeamlessProcess

if TYPE_CHECKING:
    from seamless import Checksum

logger = logging.getLogger(__name__)

#: a process that ends while it starts is tried so often before jobs are told
START_ATTEMPTS = 3
#: seconds between further tries, while the jobs get errors
START_INTERVAL = 5.0
#: seconds without a sign of life after which a process is taken for dead, unless the
#: environment variable says otherwise. Generous: compiled code that holds the GIL looks
#: the same, and ends some time.
UNRESPONSIVE_LIMIT = 3600.0
UNRESPONSIVE_LIMIT_ENV = "SEAMLESS_DASK_UNRESPONSIVE_LIMIT"


class JobFailed(RuntimeError):
    """A transformation has failed; the text is its traceback, or names the cause."""


class Crew:
    """The processes of a pool.

    Parameters
    ----------
    manager
        seamless-transformer's pool, which has no processes of its own.
    size
        Processes that share the jobs.
    environment
        Environment variables for them.
    scratch
        Where they get directories for their temporary files.
    """

    def __init__(
        self, manager: Any, size: int, environment: dict[str, str], scratch: Path
    ) -> None:
        self._manager = manager
        self._size = size
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
        #: those that share the jobs
        self._members: list[SeamlessProcess] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._spare: SeamlessProcess | None = None
        #: why no process can be started at present
        self._broken: str | None = None
        self._closing = False
        #: set, and replaced by another, when a process is ready or none can be had
        self._changed = asyncio.Event()

    # -- life cycle of the processes ---------------------------------------------

    async def start(self) -> None:
        """Return when all processes are ready.

        Raises
        ------
        RuntimeError
            If they do not start; the message says how they ended.
        """
        self._keepers = [
            asyncio.create_task(self._keep_one()) for _ in range(self._size)
        ]
        while sum(process.ready for process in self._members) < self._size:
            if self._broken is not None:
                raise RuntimeError(self._broken)
            await self._changed.wait()

    async def close(self) -> None:
        """Replace no process any more; `clean_up` is to be called at the end."""
        self._closing = True
        for process in self.processes():
            process.abandoned = True
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    async def clean_up(self, processes: Iterable[SeamlessProcess]) -> None:
        """Remove what the processes, which have all ended, leave behind."""
        for process in processes:
            await process.release_segments()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def processes(self) -> tuple[SeamlessProcess, ...]:
        """Return all processes, also those for one job and those kept ready."""
        return tuple(self._by_name.values())

    def process(self, name: str) -> SeamlessProcess | None:
        """Return a process that has not ended; from any thread."""
        return self._by_name.get(name)

    async def _launch(self) -> SeamlessProcess:
        self._launched += 1
        process = await SeamlessProcess.launch(
            self._manager,
            f"seamless-{self._launched}",
            environment=self._environment,
            scratch=self._scratch / str(self._launched),
            marker=f"{self.marker}/{self._launched}/",
            unresponsive_limit=self._unresponsive_limit,
            on_end=self._forget,
        )
        self._by_name[process.name] = process
        return process

    def _forget(self, process: SeamlessProcess) -> None:
        self._by_name.pop(process.name, None)

    async def _keep_one(self) -> None:
        """Have one process for shared use, as long as the pool exists."""
        failures = 0
        while True:
            process = None
            try:
                process = await self._next_process()
                self._members.append(process)
                await process.wait_ready()
                failures, self._broken = 0, None
                self._notify()
                await self._refill()
                logger.info(
                    "Seamless process %s %s", process.name, await process.wait_ended()
                )
            except (ProcessLost, OSError) as exc:
                failures += 1
                logger.warning("A Seamless process does not start: it %s", exc)
                if failures >= START_ATTEMPTS:
                    self._broken = f"No Seamless process can be started: it {exc}"
                    self._notify()
                    await asyncio.sleep(START_INTERVAL)
            finally:
                if process is not None:
                    self._members.remove(process)

    def _notify(self) -> None:
        event, self._changed = self._changed, asyncio.Event()
        event.set()

    async def _next_process(self) -> SeamlessProcess:
        spare, self._spare = self._spare, None
        if spare is not None and not spare.ending:
            return spare
        return await self._launch()

    async def _refill(self) -> None:
        """Have a process ready for the next loss, if there has been one."""
        if self._launched > self._size and (self._spare is None or self._spare.ending):
            self._spare = await self._launch()

    # -- jobs --------------------------------------------------------------------

    async def run(self, job: PoolJob) -> Checksum | str:
        """Run a job until it has ended in one process; cancelling it stops it.

        Returns
        -------
        Checksum or str
            What seamless-transformer answers; a string tells of an error.

        Raises
        ------
        JobFailed
            If processes were lost because of it, or cannot be started.
        """
        while True:
            try:
                if job.losses:
                    return await self._run_alone(job)
                process = await self._least_busy()
                return await process.run(job)
            except ProcessLost as loss:
                if self._closing:
                    raise asyncio.CancelledError from None
                if job not in loss.suspects:
                    continue
                job.losses.append(str(loss))
                logger.warning("The Seamless process of %s %s", job.name, loss)
                if len(job.losses) >= MAX_LOSSES:
                    raise JobFailed(_obituary(job)) from None

    async def _least_busy(self) -> SeamlessProcess:
        while True:
            ready = [process for process in self._members if process.ready]
            if ready:
                return min(ready, key=lambda p: (not p.responsive, len(p.jobs)))
            if self._broken is not None:
                raise JobFailed(f"{self._broken}\n")
            await self._changed.wait()

    async def _run_alone(self, job: PoolJob) -> Checksum | str:
        """Run a job in a process of its own.

        There is no limit: as many may do so as may run at all, and to let one wait for
        another might let it wait for itself.
        """
        process = await self._ready_process()
        try:
            return await process.run(job)
        finally:
            process.stop("was for one job only")

    async def _ready_process(self) -> SeamlessProcess:
        problem: Exception | None = None
        for _ in range(START_ATTEMPTS):
            process = None
            try:
                process = await self._next_process()
                await process.wait_ready()
            except (ProcessLost, OSError) as exc:
                problem = exc
            except asyncio.CancelledError:
                if process is not None:
                    process.stop("is not needed any more")
                raise
            else:
                return process
        raise JobFailed(f"No Seamless process can be started: it {problem}\n")


def _obituary(job: PoolJob) -> str:
    losses = "".join(f"  {n}. it {how}\n" for n, how in enumerate(job.losses, 1))
    return (
        f"The Seamless process that ran {job.name} was lost {len(job.losses)} times, "
        f"in the end with no other job in it:\n{losses}"
    )

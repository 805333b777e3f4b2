"""One Seamless process: its start, its jobs, its end.

Uses the processes and pipes of seamless-transformer, but not its supervision. That
takes a process for dead after it was busy for three seconds, and hangs after a process
has died.
Everything here runs on the event loop of seamless-transformer's pool.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seamless_transformer.process import ConnectionClosed
from seamless_transformer.process.manager import ProcessError

from ..child import fork_server
from ..child.initializer import Initializer
from ..child.job_runner import ABANDON, PING, RUN
from ..child.output import RECENT
from ..cluster.environment import MARKER_ENV
from ..neighbours import pipes
from ..storage.job_report import JobReport
from . import os_processes
from .blame import charge
from .job import Evicted, PoolJob, ProcessLost, ProcessTaken
from .pulse import Pulse

logger = logging.getLogger(__name__)

#: seconds that a process may take for its imports
START_TIMEOUT = 120.0
#: seconds that a process has to end by itself after its connection is lost
DISCONNECTED_GRACE = 1.0
#: seconds for an answer that nothing depends on; code that holds the GIL prevents it
ANSWER_TIMEOUT = 2.0


class SeamlessProcess:
    """A process in which transformations run; made by `launch`."""

    def __init__(
        self,
        manager: Any,
        handle: Any,
        scratch: Path,
        marker: str,
        on_end: Callable[[SeamlessProcess], None],
    ) -> None:
        #: why it gets no more jobs; None if it may get jobs
        self.retiring: str | None = None
        #: its jobs; any thread may look at a copy
        self.jobs: dict[PoolJob, None] = {}
        #: keys of shared memory segments for this process
        self.segments: set[str] = set()
        #: whether it has ended or is being killed
        self.ending = False
        #: whether the pool removes its files and shared memory, not this object
        self.abandoned = False
        #: its temporary files
        self.scratch = scratch
        self.marker = marker
        self._on_ended = on_end
        self._manager = manager
        self._handle = handle
        self._pulse = Pulse(
            f"Seamless process {handle.name} (pid {handle.pid})",
            functools.partial(handle.request, PING),
            self.jobs,
        )
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._ended = asyncio.Event()
        self._loss = ProcessLost("has not ended")
        self._reason: str | None = None
        self._blame = False
        self._background: set[asyncio.Task[None]] = set()
        #: done when a job was answered, or evicted to begin elsewhere
        self._settled: dict[PoolJob, asyncio.Future[None]] = {}
        #: kept, since the handle forgets it when the pool is shut down
        self._process = handle.process
        self._sentinel = os_processes.Sentinel(self._process)
        self._loop.add_reader(self._sentinel.fd, self._on_end)

    @classmethod
    async def launch(
        cls,
        manager: Any,
        name: str,
        *,
        environment: dict[str, str],
        scratch: Path,
        shared: Path,
        marker: str,
        unresponsive_limit: float,
        on_end: Callable[[SeamlessProcess], None],
    ) -> SeamlessProcess:
        """Start a process without waiting until it is ready.

        Parameters
        ----------
        manager
            seamless-transformer's pool.
        name
            Name of the process.
        environment
            Environment variables for it.
        scratch
            Directory for its temporary files; removed with it.
        shared
            Directory that it shares with the other processes.
        marker
            See `seamless_dask.cluster.environment.MARKER_ENV`.
        unresponsive_limit
            Seconds without a sign of life after which it is killed.
        on_end
            Called with the process when it has ended.

        Raises
        ------
        OSError
            If the system cannot start a process.
        """
        scratch.mkdir(parents=True)
        initializer = Initializer(
            {**environment, "TMPDIR": str(scratch), MARKER_ENV: marker}, shared
        )
        try:
            handle = await manager._manager.start_worker(
                name=name, initializer=initializer, restart=False
            )
        except OSError:
            manager._manager._handles.pop(name, None)
            scratch.rmdir()
            raise
        handle.cancel_watchers()
        pipes.attach(handle.endpoint)
        self = cls(manager, handle, scratch, marker, on_end)
        self._in_background(self._watch(unresponsive_limit))
        return self

    @property
    def name(self) -> str:
        """Unique in its pool."""
        return str(self._handle.name)

    @property
    def pid(self) -> int:
        """The id of the process."""
        return int(self._handle.pid)

    @property
    def responsive(self) -> bool:
        """Whether it answers promptly."""
        return self._pulse.responsive

    @property
    def ready(self) -> bool:
        """Whether it can be given jobs."""
        return not self.ending and self._ready.done()

    # -- start and end -----------------------------------------------------------

    def started(self) -> None:
        """Note that the process has reported to be ready."""
        if not self._ready.done():
            self._ready.set_result(None)

    async def wait_ready(self) -> None:
        """Wait until it can be given jobs.

        Raises
        ------
        ProcessLost
            If it ends before, or is not ready within `START_TIMEOUT`.
        """
        # Not `wait_for`, which ignores a cancellation at the moment of success.
        await asyncio.wait({self._ready}, timeout=START_TIMEOUT)
        if not self._ready.done():
            self.stop(f"did not start within {START_TIMEOUT:g} s")
        await asyncio.shield(self._ready)

    async def wait_ended(self) -> ProcessLost:
        """Wait until it has ended; return how."""
        await self._ended.wait()
        return self._loss

    def stop(self, reason: str, *, blame: bool = False) -> None:
        """Kill it and its descendants; its jobs end with ProcessLost.

        Parameters
        ----------
        reason
            For log and error texts; completes "process ...".
        blame
            Whether its jobs are the cause.
        """
        if self.ending:
            return
        self.ending = True
        self._reason, self._blame = reason, blame
        try:
            self._loop.run_in_executor(
                None, os_processes.kill_tree, self.pid, self.marker
            )
        except RuntimeError:
            # The interpreter exits, and no thread can be started.
            os_processes.kill_tree(self.pid, self.marker)

    def _on_end(self) -> None:
        self._loop.remove_reader(self._sentinel.fd)
        self._sentinel.close()
        process = self._process
        process.join(1)  # it has ended: this only collects its exit code
        cause = self._reason or os_processes.describe_exit(process.exitcode)
        if process.exitcode is not None:
            process.close()  # frees its descriptors now, not at garbage collection
        self.ending = True
        charged = (
            charge(self.jobs, cause)
            if self._reason is None or self._blame
            else frozenset()
        )
        self._loss = ProcessLost(cause, charged)
        os_processes.hang_up(self._handle.endpoint._conn)
        if not self._ready.done():
            self._ready.set_exception(self._loss)
            self._ready.exception()  # mark it as retrieved: perhaps no caller waits
        for task in self._background:
            task.cancel()
        self._on_ended(self)
        self._ended.set()
        self._manager._manager._handles.pop(self.name, None)
        if not self.abandoned:
            self._in_background(self._clean_up())

    async def _clean_up(self) -> None:
        """Remove the shared memory, descendants and files of the ended process."""
        await self._handle.endpoint.wait_closed()
        await self.release_segments()
        try:
            await self._loop.run_in_executor(None, self._remove_what_is_left)
        except RuntimeError:
            # The interpreter exits, and no thread can be started.
            self._remove_what_is_left()

    def _remove_what_is_left(self) -> None:
        self._kill_what_is_left()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _kill_what_is_left(self) -> None:
        os_processes.kill(
            process
            for orphan in fork_server.orphans()
            for process in os_processes.tree(orphan.pid)
        )
        os_processes.kill_marked(self.marker)

    async def release_segments(self) -> None:
        """Remove the shared memory that it has not fetched or not filled."""
        while self.segments:
            await self._manager._release_pointer(self.segments.pop())

    def _in_background(self, coroutine: Any) -> None:
        task = self._loop.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _watch(self, limit: float) -> None:
        """Kill it when it does not answer for `limit` seconds."""
        await asyncio.wait({self._ready})
        self.stop(await self._pulse.stops(limit), blame=True)

    # -- jobs --------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether it can be given a job that does not share it."""
        return self.ready and not self.jobs and self.retiring is None

    @property
    def lendable(self) -> bool:
        """Whether all its jobs seem to wait, so that it may take in another job."""
        return (
            self.ready
            and self.responsive
            and self.retiring is None
            and all(job.waiting and not job.evictions for job in self.jobs)
        )

    async def run(self, job: PoolJob) -> JobReport:
        """Run a job.

        Cancellation stops the code of the job. Either the process is stopped; or, if the
        job waits while another one executes there, its code is never resumed.

        Raises
        ------
        ProcessLost
            If the process ends before the job does.
        ProcessTaken
            If another job executes there.
        Evicted
            See `evict`.
        """
        job.waiting = 0
        job.begun += 1
        self.jobs[job] = None
        self._settled[job] = settled = self._loop.create_future()
        try:
            request = asyncio.ensure_future(
                self._handle.request(RUN, {**job.payload, "job": job.id})
            )
            request.add_done_callback(_retrieve)
            request.add_done_callback(lambda _: _settle(settled))
            try:
                await settled
            except asyncio.CancelledError:
                if not request.done():
                    self._stop_job(job)
                raise
            if not request.done():
                raise Evicted(f"{job.name} waited long for its process")
            try:
                report: JobReport | None = request.result()
            except (ProcessError, ConnectionClosed):
                raise await self._disconnected() from None
        finally:
            del self.jobs[job], self._settled[job]
        if report is None:
            job.begun -= 1
            raise ProcessTaken(self.name)
        report.begun = job.begun
        report.waited += job.waited
        for what in report.left:
            # Its subprocesses were ended already; its threads end with this process.
            logger.warning("%s left running and is done: %s", job.name, what)
            self.retire(f"{job.name} left running {what}")
        for reason in report.replace:
            self.retire(reason)
        return report

    def _stop_job(self, job: PoolJob) -> None:
        """Stop the code of a cancelled job."""
        reason = f"was stopped to cancel {job.name}"
        if not job.waiting or all(other is job for other in self.jobs):
            self.stop(reason)
            return

        async def abandon_or_stop() -> None:
            if not await self._abandon(job):
                self.stop(reason)

        self.retire(f"{job.name} was cancelled while it waited there")
        self._in_background(abandon_or_stop())

    async def evict(self, job_id: str, waited: float) -> None:
        """Let a job begin again elsewhere if it still waits while another one executes.

        Parameters
        ----------
        job_id
            See `PoolJob.id`.
        waited
            Seconds that it has waited.
        """
        job = next((job for job in self.jobs if job.id == job_id), None)
        if job is None or not await self._abandon(job):
            return
        settled = self._settled.get(job)
        if settled is not None and _settle(settled):
            job.evictions += 1
            job.waited += waited

    async def recent_output(self, job: PoolJob, *, stream: bool) -> list[Any]:
        """Return the newest output of a job; with `stream`, it sends what follows.

        Returns
        -------
        list
            Pieces, see `scheduler_ext.outputs`; empty if the process does not answer.
        """
        if stream:
            job.payload["streams"] = True  # also if it begins again
        try:
            return list(
                await self._handle.request(
                    RECENT, {"job": job.id, "stream": stream}, timeout=ANSWER_TIMEOUT
                )
            )
        except (ProcessError, ConnectionClosed, asyncio.TimeoutError, TimeoutError):
            return []

    def give_up(self, job_id: str) -> None:
        """Stop the process: a job seems to wait for a lock that an abandoned job holds.

        Its jobs begin again elsewhere.

        Parameters
        ----------
        job_id
            See `PoolJob.id`.
        """
        for job in self.jobs:
            if job.id == job_id:
                for each in self.jobs:
                    each.evictions += 1
                self.stop(
                    f"stood still with {job.name}, after another one was given up"
                )
                return

    async def _abandon(self, job: PoolJob) -> bool:
        """Never resume a job; False if it executes, or the process has ended."""
        try:
            abandoned = await self._handle.request(ABANDON, {"job": job.id})
        except (ProcessError, ConnectionClosed):
            return False
        if abandoned:
            self.retire(f"{job.name} was given up in it")
        return bool(abandoned)

    def retire(self, reason: str) -> None:
        """Give it no more jobs; it ends after its present ones."""
        logger.info("Seamless process %s (pid %d): %s", self.name, self.pid, reason)
        if self.retiring is None:
            self.retiring = reason

    async def _disconnected(self) -> ProcessLost:
        """Return how the process ended; kill it if it outlives its closed pipe."""
        grace = self._loop.call_later(
            DISCONNECTED_GRACE,
            functools.partial(self.stop, "closed its connection", blame=True),
        )
        try:
            return await self.wait_ended()
        finally:
            grace.cancel()


def _settle(future: asyncio.Future[None]) -> bool:
    """Resolve a future; return False if it was done before."""
    if future.done():
        return False
    future.set_result(None)
    return True


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Keep asyncio from logging an exception that was never retrieved."""
    if not future.cancelled():
        future.exception()

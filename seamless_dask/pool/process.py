"""One Seamless process: its start, its jobs, its end.

Uses the processes and pipes of seamless-transformer, but not its supervision, which
takes a process that is busy for three seconds for dead, and hangs after a death.
Everything here runs on the event loop of seamless-transformer's pool.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seamless_transformer.process import ConnectionClosed
from seamless_transformer.process.manager import ProcessError

from ..child import fork_server
from ..child.initializer import Initializer
from ..child.job_runner import ABANDON, PING, RUN
from ..cluster.environment import MARKER_ENV
from ..neighbours import pipes
from ..storage.job_report import JobReport
from . import os_processes

logger = logging.getLogger(__name__)

#: a job that may have ended so many processes is not run again
MAX_LOSSES = 3
#: seconds that a process may take for its imports
START_TIMEOUT = 120.0
#: seconds between two looks at whether a process answers
PING_INTERVAL = 10.0
#: seconds without an answer after which a process gets new jobs only if all are so
PING_PATIENCE = 2.0
#: seconds that the end of a job may take, after that of its code, without a warning
END_PATIENCE = 10.0
#: seconds from the loss of a connection to the end of the process behind it
DISCONNECTED_GRACE = 1.0


@dataclass(eq=False)
class PoolJob:
    """A transformation that is to run in one of the processes."""

    #: how error messages call it
    name: str
    #: what the process is sent
    payload: dict[str, Any]
    #: of the Dask task, if it is one
    key: str | None = None
    #: whether the log tells that its end takes long
    warned: bool = False
    #: nested transformations for which it waits
    waiting: int = 0
    #: how the processes ended that it may have ended
    losses: list[str] = field(default_factory=list)
    #: how many have ended while this and all others in them waited
    unexplained: int = 0
    #: how often its code has begun again, because another job executed for long in
    #: its process
    evictions: int = 0
    #: seconds that it waited in processes in which it did not go on
    waited: float = 0.0
    #: how often it was given to a process
    begun: int = 0
    #: how the process knows it
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


class ProcessLost(RuntimeError):
    """A process has ended; the text says how.

    Parameters
    ----------
    cause
        For humans.
    suspects
        The jobs that may have caused it; empty if it was ended on purpose.
    """

    def __init__(self, cause: str, suspects: frozenset[PoolJob] = frozenset()) -> None:
        super().__init__(cause)
        self.suspects = suspects


class ProcessTaken(RuntimeError):
    """Another job executes in a process, so that it cannot have this one now."""


class Evicted(RuntimeError):
    """A job that waits was given up in its process, in order to begin elsewhere."""


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
        #: why it is to have no more jobs; None: it may have some
        self.retiring: str | None = None
        #: its jobs; any thread may look at a copy
        self.jobs: dict[PoolJob, None] = {}
        #: keys of shared memory segments that are meant for it
        self.segments: set[str] = set()
        #: whether it answers promptly
        self.responsive = True
        #: whether it has ended or is being killed
        self.ending = False
        #: whether somebody else removes what it leaves behind
        self.abandoned = False
        #: its temporary files
        self.scratch = scratch
        self.marker = marker
        self._on_ended = on_end
        self._manager = manager
        self._handle = handle
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._ended = asyncio.Event()
        self._loss = ProcessLost("has not ended")
        self._reason: str | None = None
        self._blame = False
        self._background: set[asyncio.Task[None]] = set()
        #: done when a job was answered, or is to begin elsewhere
        self._settled: dict[PoolJob, asyncio.Future[None]] = {}
        self._sentinel = os_processes.Sentinel(handle.process)
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
            Of the process.
        environment
            Environment variables for it.
        scratch
            Directory for its temporary files; removed with it.
        shared
            Directory that it has in common with others.
        marker
            See `seamless_dask.cluster.environment.MARKER_ENV`.
        unresponsive_limit
            Seconds without a sign of life after which it is killed.
        on_end
            Called with it when it has ended.

        Raises
        ------
        OSError
            If the system does not let us.
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
        self._in_background(self._watch_pulse(unresponsive_limit))
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
    def ready(self) -> bool:
        """Whether it can be given jobs."""
        return not self.ending and self._ready.done()

    # -- start and end -----------------------------------------------------------

    def started(self) -> None:
        """Take note that the process says it is ready."""
        if not self._ready.done():
            self._ready.set_result(None)

    async def wait_ready(self) -> None:
        """Wait until it can be given jobs.

        Raises
        ------
        ProcessLost
            If it ends before, or does not get there within `START_TIMEOUT`.
        """
        # Not `wait_for`: cancelled at the moment of success, it would go on.
        await asyncio.wait({self._ready}, timeout=START_TIMEOUT)
        if not self._ready.done():
            self.stop(f"did not start within {START_TIMEOUT:g} s")
        await asyncio.shield(self._ready)

    async def wait_ended(self) -> ProcessLost:
        """Wait until it has ended; return how."""
        await self._ended.wait()
        return self._loss

    def stop(self, reason: str, *, blame: bool = False) -> None:
        """Kill it and all that it has started; what it runs ends with ProcessLost.

        Parameters
        ----------
        reason
            For humans; completes "process ...".
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
            # The interpreter exits, and no thread can be had.
            os_processes.kill_tree(self.pid, self.marker)

    def _on_end(self) -> None:
        self._loop.remove_reader(self._sentinel.fd)
        self._sentinel.close()
        process = self._handle.process
        process.join(1)  # it has ended: this only collects its exit code
        cause = self._reason or os_processes.describe_exit(process.exitcode)
        if process.exitcode is not None:
            process.close()  # its descriptors; not when garbage is collected
        blame = self._reason is None or self._blame
        self.ending = True
        self._loss = ProcessLost(cause, self._suspects() if blame else frozenset())
        os_processes.hang_up(self._handle.endpoint._conn)
        if not self._ready.done():
            self._ready.set_exception(self._loss)
            self._ready.exception()  # nobody need be waiting
        for task in self._background:
            task.cancel()
        self._on_ended(self)
        self._ended.set()
        self._manager._manager._handles.pop(self.name, None)
        if not self.abandoned:
            self._in_background(self._clean_up())

    def _suspects(self) -> frozenset[PoolJob]:
        """Those that did something. If all wait, it was nobody, or one in a thread."""
        busy = frozenset(job for job in self.jobs if not job.waiting)
        if busy:
            return busy
        for job in self.jobs:
            job.unexplained += 1
        return frozenset(job for job in self.jobs if job.unexplained >= MAX_LOSSES)

    async def _clean_up(self) -> None:
        """Remove what the process leaves behind."""
        await self._handle.endpoint.wait_closed()
        await self.release_segments()
        try:
            await self._loop.run_in_executor(None, self._remove_what_is_left)
        except RuntimeError:
            # The interpreter exits, and no thread can be had.
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

    async def _watch_pulse(self, limit: float) -> None:
        """Notice when the process does not answer: user code may hold the GIL.

        That is no reason to kill it; it gets no more jobs meanwhile. Only what does
        not answer for `limit` seconds is taken for dead.
        """
        await asyncio.wait({self._ready})
        while not self.ending:
            await asyncio.sleep(PING_INTERVAL)
            since = time.monotonic()
            ping = asyncio.ensure_future(self._handle.request(PING))
            ping.add_done_callback(_retrieve)
            await asyncio.wait({ping}, timeout=PING_PATIENCE)
            if ping.done():
                if not ping.cancelled() and ping.exception() is None:
                    self._warn_of_endings(ping.result())
                continue
            logger.info("Seamless process %s (pid %d) is busy", self.name, self.pid)
            self.responsive = False
            await asyncio.wait({ping}, timeout=limit - PING_PATIENCE)
            if not ping.done():
                self.stop(f"did not answer for {limit:g} s", blame=True)
                return
            self.responsive = True
            logger.info(
                "Seamless process %s answers again after %.1f s",
                self.name,
                time.monotonic() - since,
            )

    def _warn_of_endings(self, ending: dict[str, float]) -> None:
        """Tell of jobs, once each, that have computed their result and do not end."""
        for job in self.jobs:
            seconds = ending.get(job.id, 0.0)
            if seconds > END_PATIENCE and not job.warned:
                job.warned = True
                logger.warning(
                    "The code of %s ended %.0f s ago, but its clean-up has not: a "
                    "finaliser (__del__) may wait for ever, or a large result is being "
                    "stored. It keeps its slot until then, or until it is cancelled",
                    job.name,
                    seconds,
                )

    # -- jobs --------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether it can be given a job that has it for itself."""
        return self.ready and not self.jobs and self.retiring is None

    @property
    def lendable(self) -> bool:
        """Whether its jobs all seem to wait, so that it may take in another one."""
        return (
            self.ready
            and self.responsive
            and self.retiring is None
            and all(job.waiting and not job.evictions for job in self.jobs)
        )

    async def run(self, job: PoolJob) -> JobReport:
        """Run a job.

        If it is cancelled, its code stops: with the process, or by never going on if
        it waits while another job executes there.

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
            # Processes have been ended by now; threads end with this process.
            logger.warning("%s left running and is done: %s", job.name, what)
            self.retire(f"{job.name} left running {what}")
        for reason in report.replace:
            self.retire(reason)
        return report

    def _stop_job(self, job: PoolJob) -> None:
        """Have the code of a job stop that nobody wants any more."""
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
        """Let a job begin elsewhere if it still waits while another one executes.

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

    def give_up(self, job_id: str) -> None:
        """Let a job begin elsewhere that seems to wait for what an abandoned one holds.

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
        """Have a job never go on; False if it executes, or the process has ended."""
        try:
            abandoned = await self._handle.request(ABANDON, {"job": job.id})
        except (ProcessError, ConnectionClosed):
            return False
        if abandoned:
            self.retire(f"{job.name} was given up in it")
        return bool(abandoned)

    def retire(self, reason: str) -> None:
        """Give it no more jobs; it ends with the last that it has."""
        logger.info("Seamless process %s (pid %d): %s", self.name, self.pid, reason)
        if self.retiring is None:
            self.retiring = reason

    async def _disconnected(self) -> ProcessLost:
        """The pipe is at its end, so the process is, or had better be."""
        grace = self._loop.call_later(
            DISCONNECTED_GRACE,
            functools.partial(self.stop, "closed its connection", blame=True),
        )
        try:
            return await self.wait_ended()
        finally:
            grace.cancel()


def _settle(future: asyncio.Future[None]) -> bool:
    """Have whoever waits for a future go on; say whether it was not done before."""
    if future.done():
        return False
    future.set_result(None)
    return True


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Keep asyncio from reporting an exception that nobody waits for any more."""
    if not future.cancelled():
        future.exception()

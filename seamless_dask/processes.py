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
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seamless_transformer.process import ConnectionClosed
from seamless_transformer.process.manager import ProcessError

from . import pipes, watchdog
from .child import Initializer

if TYPE_CHECKING:
    from seamless import Checksum

logger = logging.getLogger(__name__)

#: a job that may have ended so many processes is not run again
MAX_LOSSES = 3
#: seconds that a process may take for its imports
START_TIMEOUT = 120.0
#: seconds between two looks at whether a process answers
PING_INTERVAL = 10.0
#: seconds without an answer after which a process gets new jobs only if all are so
PING_PATIENCE = 2.0
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
    #: nested transformations for which it waits
    waiting: int = 0
    #: how the processes ended that it may have ended
    losses: list[str] = field(default_factory=list)
    #: how many have ended while this and all others in them waited
    unexplained: int = 0


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
        self._sentinel = watchdog.Sentinel(handle.process)
        self._loop.add_reader(self._sentinel.fd, self._on_end)

    @classmethod
    async def launch(
        cls,
        manager: Any,
        name: str,
        *,
        environment: dict[str, str],
        scratch: Path,
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
        marker
            See `seamless_dask.watchdog.MARKER`.
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
            {**environment, "TMPDIR": str(scratch), watchdog.MARKER: marker}
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
            self._loop.run_in_executor(None, watchdog.kill_tree, self.pid, self.marker)
        except RuntimeError:
            # The interpreter exits, and no thread can be had.
            watchdog.kill_tree(self.pid, self.marker)

    def _on_end(self) -> None:
        self._loop.remove_reader(self._sentinel.fd)
        self._sentinel.close()
        process = self._handle.process
        process.join(1)  # it has ended: this only collects its exit code
        cause = self._reason or watchdog.describe_exit(process.exitcode)
        if process.exitcode is not None:
            process.close()  # its descriptors; not when garbage is collected
        blame = self._reason is None or self._blame
        self.ending = True
        self._loss = ProcessLost(cause, self._suspects() if blame else frozenset())
        watchdog.hang_up(self._handle.endpoint._conn)
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
        await self._loop.run_in_executor(None, watchdog.kill_marked, self.marker)
        remove = functools.partial(shutil.rmtree, self.scratch, ignore_errors=True)
        await self._loop.run_in_executor(None, remove)

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
            ping = asyncio.ensure_future(self._handle.request("ping"))
            ping.add_done_callback(_retrieve)
            await asyncio.wait({ping}, timeout=PING_PATIENCE)
            if ping.done():
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

    # -- jobs --------------------------------------------------------------------

    async def run(self, job: PoolJob) -> Checksum | str:
        """Run a job; cancelling it kills the process.

        Returns
        -------
        Checksum or str
            What seamless-transformer answers.

        Raises
        ------
        ProcessLost
            If the process ends before the job does.
        """
        job.waiting = 0
        self.jobs[job] = None
        try:
            request = asyncio.ensure_future(
                self._handle.request("execute_transformation", job.payload)
            )
            request.add_done_callback(_retrieve)
            try:
                await asyncio.wait({request})
            except asyncio.CancelledError:
                if not request.done():
                    self.stop(f"was stopped to cancel {job.name}")
                raise
            try:
                return request.result()
            except (ProcessError, ConnectionClosed):
                raise await self._disconnected() from None
        finally:
            del self.jobs[job]

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


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Keep asyncio from reporting an exception that nobody waits for any more."""
    if not future.cancelled():
        future.exception()

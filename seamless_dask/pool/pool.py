"""The pool of Seamless processes in a Dask worker.

Uses the internals of seamless-transformer's pool, as `seamless_dask.pool.process` and
`seamless_dask.pool.buffer_requests` do. A nested call is answered in one exchange: with
the pool's own protocol the child process would poll, and could not tell which job calls.
`seamless_dask.pool.processes` decides which process runs a job.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
from seamless import Buffer, Checksum, ensure_open
from seamless_transformer import worker as transformer_worker
from seamless_transformer.process import manager as process_manager

from ..child import fork_server
from ..child.job_runner import STARVED, STUCK
from ..child.output import OUTPUT
from ..child.small_buffers import BUFFERS, SMALL, Contents, ResultChecksum
from ..errors import JobFailed
from ..neighbours.replacing import replace
from ..storage.cache import BufferStore
from ..storage.job_report import JobReport
from . import os_processes
from .buffer_requests import BufferRequests
from .job import PoolJob
from .processes import Processes
from .users import User

logger = logging.getLogger(__name__)

#: threads for blocking operations, such as a message that does not fit into a pipe
MAX_THREADS = 4096
#: seconds between SIGTERM and SIGKILL
GRACE = 1.0
#: seconds until the next message about output that nobody wants
OUTPUT_INTERVAL = 2.0
_pool_of_this_process: Pool | None = None
_creation = threading.Lock()


class Pool:
    """Starts, feeds and ends the Seamless processes of this process.

    seamless-transformer has one pool per process. The workers of a dummy scheduler,
    which live in one process, share it.

    Parameters
    ----------
    processes
        Number of processes.
    environment
        Environment variables for the processes.
    scratch
        Directory for their temporary files.
    """

    def __init__(
        self, processes: int, environment: dict[str, str], scratch: str | Path
    ) -> None:
        self.processes = processes
        #: buffers with which requests of the processes are answered
        self.buffers = BufferStore()
        self._requests = BufferRequests(
            self.buffers, self.segments_of, self._find, self._made
        )
        self._environment = environment
        self._scratch = Path(scratch)
        self._users: list[User] = []
        self._manager: Any = None
        self._processes: Processes
        self._lock = threading.Lock()

    @classmethod
    def of_this_process(
        cls, processes: int, environment: dict[str, str], scratch: str | Path
    ) -> Pool:
        """Return the pool of this process; the arguments are for a new one."""
        global _pool_of_this_process
        with _creation:
            if _pool_of_this_process is None:
                _pool_of_this_process = cls(processes, environment, scratch)
            return _pool_of_this_process

    @property
    def throttle(self) -> int:
        """Concurrent jobs per process."""
        return transformer_worker.TRANSFORMATION_THROTTLE

    def join(self, user: User) -> None:
        """Serve a worker; for the first one, start the processes (a second or two).

        Raises
        ------
        RuntimeError
            If this process has Seamless processes that are not ours, or if they do not
            start; the message says how they ended.
        """
        with self._lock:
            self._users.append(user)
            if self._manager is None:
                try:
                    self._start()
                except BaseException:
                    self._users.remove(user)
                    raise

    async def leave(self, user: User) -> None:
        """Stop serving a worker; after the last one, end the processes."""
        global _pool_of_this_process
        with self._lock:
            if user in self._users:
                self._users.remove(user)
            if self._users:
                return
        await self._stop()
        with _creation:
            if _pool_of_this_process is self:
                _pool_of_this_process = None

    def _start(self) -> None:
        """Do what `seamless_transformer.worker.spawn` does, with our own processes."""
        if transformer_worker.has_spawned():
            raise RuntimeError("This process has Seamless processes of its own")
        ensure_open("spawn workers")
        fork_server.use(self._scratch)
        os.environ.setdefault(transformer_worker._ALLOW_REMOTE_CLIENTS_ENV, "1")
        transformer_worker._set_dask_available(True)
        self._manager = manager = transformer_worker._WorkerManager(0)
        replace(process_manager, "_CTX", fork_server.Context())
        self._processes = Processes(
            manager,
            self.processes,
            self.processes * self.throttle,
            self._environment,
            self._scratch,
        )
        replace(transformer_worker, "_worker_manager", manager)
        transformer_worker._set_has_spawned(True)
        started = asyncio.run_coroutine_threadsafe(self._take_over(), manager.loop)
        try:
            started.result()
        except BaseException:
            asyncio.run(self._stop())
            raise

    async def _take_over(self) -> None:
        manager = self._manager
        # The default executor has enough threads for a fixed number of processes only.
        executor = transformer_worker._DaemonThreadPoolExecutor(
            MAX_THREADS, thread_name_prefix="seamless-pool"
        )
        manager.loop.set_default_executor(executor)
        replace(manager, "_executor", executor).shutdown(wait=False)
        replace(manager, "_prefetched_buffers", self.buffers)
        replace(manager, "_dispatch", self._dispatch_other)
        handlers = manager._manager
        handlers.add_parent_handler("__worker_ready__", self._on_ready)
        handlers.add_parent_handler("delegate_transformation_submit", self._delegate)
        handlers.add_parent_handler(STARVED, self._on_starved)
        handlers.add_parent_handler(STUCK, self._on_stuck)
        handlers.add_parent_handler(OUTPUT, self._on_output)
        self._requests.install(manager)
        await self._processes.start()

    def _on_ready(self, handle: Any, _payload: Any) -> dict[str, Any]:
        process = self._processes.process(handle.name)
        if process is not None:
            process.started()
        return {"status": "ok", "generation": 1}

    async def _on_starved(self, handle: Any, payload: Any) -> None:
        process = self._processes.process(handle.name)
        if process is not None:
            await process.evict(payload["job"], payload["waited"])

    async def _on_stuck(self, handle: Any, payload: Any) -> None:
        process = self._processes.process(handle.name)
        if process is not None:
            process.give_up(payload["job"])

    async def _on_output(self, handle: Any, payload: Any) -> float:
        process = self._processes.process(handle.name)
        for job in () if process is None else process.jobs:
            if job.id == payload["job"] and job.on_output is not None:
                return job.on_output(payload)
        return OUTPUT_INTERVAL

    async def _stop(self) -> None:
        """End the processes and their descendants, within two seconds.

        Starts no thread, because that fails while the interpreter exits.
        """
        manager, self._manager = self._manager, None
        if manager is None:
            return
        processes = self._processes
        await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(processes.close(), manager.loop)
        )
        there = processes.all()
        doomed = [p for process in there for p in os_processes.tree(process.pid)]
        alive = await _signal(doomed, signal.SIGTERM, GRACE)
        alive = await _signal(alive, signal.SIGKILL, GRACE / 2)
        if alive:
            logger.warning("Processes %s do not end", [p.pid for p in alive])
        os_processes.kill_marked(processes.marker)
        await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(processes.clean_up(there), manager.loop)
        )
        transformer_worker.shutdown_workers(wait=False)
        fork_server.stop()
        self.buffers.clear()

    @property
    def alive(self) -> int:
        """Number of processes that exist now; more than `processes` under load."""
        return len(self._processes.all())

    # -- requests of the processes -----------------------------------------------

    def user_of(self, owner_key: str | None) -> User:
        """Return the worker that runs a task; any worker if that one is not known."""
        if owner_key is not None:
            for user in self._users:
                if owner_key in user.running:
                    return user
        return self._users[0]

    async def _delegate(self, handle: Any, payload: dict[str, Any]) -> dict[str, Any]:
        owner = payload.get("owner_dask_key")
        user = self.user_of(owner)
        caller = self._job(handle, owner)
        if caller is not None:
            caller.waiting += 1
        answer = asyncio.run_coroutine_threadsafe(
            user.nested.answer(handle.name, payload), user.loop
        )
        # If the process is lost meanwhile, this is cancelled and the caller stays
        # marked as waiting, so that it is not blamed for the loss.
        response = await asyncio.wrap_future(answer)
        if caller is not None:
            caller.waiting -= 1
        return response

    async def _find(self, process: str, checksum: str) -> Buffer | None:
        """Get a buffer that a process asks for and this process does not have."""
        user = self.user_of(None)
        found = asyncio.run_coroutine_threadsafe(
            user.nested.buffer(process, checksum), user.loop
        )
        return await asyncio.wrap_future(found)

    def _made(self, process: str, buffer: Buffer) -> None:
        """Start to write a buffer, before the job that made it can end."""
        user = self.user_of(next(iter(self.jobs_of(process)), None))
        user.loop.call_soon_threadsafe(user.uploads.made, buffer)

    def _job(self, handle: Any, key: str | None) -> PoolJob | None:
        process = self._processes.process(handle.name)
        if process is None or key is None:
            return None
        return next((job for job in process.jobs if job.key == key), None)

    # -- jobs --------------------------------------------------------------------

    async def recent_output(self, key: str, *, stream: bool) -> list[Any] | None:
        """Return the newest output of a task; see `SeamlessProcess.recent_output`.

        Returns
        -------
        list or None
            None if no process runs it.
        """
        found = asyncio.run_coroutine_threadsafe(
            self._recent_output(key, stream), self._manager.loop
        )
        return await asyncio.wrap_future(found)

    async def _recent_output(self, key: str, stream: bool) -> list[Any] | None:
        for process in self._processes.all():
            for job in tuple(process.jobs):
                if job.key == key:
                    return await process.recent_output(job, stream=stream)
        return None

    def segments_of(self, process_name: str) -> set[str]:
        """Keys of the shared memory for a process, which is removed when it ends."""
        process = self._processes.process(process_name)
        return set() if process is None else process.segments

    def jobs_of(self, process_name: str) -> set[str]:
        """Return the keys of the tasks that a process is running; from any thread."""
        process = self._processes.process(process_name)
        if process is None:
            return set()
        return {job.key for job in tuple(process.jobs) if job.key is not None}

    async def dispatch(
        self,
        transformation_dict: dict[str, Any],
        *,
        tf_checksum: str,
        tf_dunder: dict[str, Any],
        scratch: bool,
        strict_dunder: bool,
        key: str,
        depth: int,
        inputs: Sequence[Buffer],
        label: str | None = None,
        streams: bool = False,
        on_output: Callable[[dict[str, Any]], float] | None = None,
    ) -> tuple[str, Contents, JobReport]:
        """Run a transformation in one of the processes; cancelling it stops it.

        Parameters
        ----------
        transformation_dict, tf_checksum, tf_dunder, scratch, strict_dunder
            The transformation.
        key, depth
            Key of its Dask task, and its depth in the tree of transformations.
        inputs
            Buffers that it needs; small ones are sent with the job.
        label
            Stands for it in logs and errors; its checksum by default.
        streams
            Whether its output is sent to `on_output` while it runs.
        on_output
            Called with each message about its output, on the loop of the pool or of the
            caller; returns the seconds until the next one.

        Returns
        -------
        str
            Checksum of the result in hexadecimal digits, or the marker of a written
            remote job.
        Contents
            Small buffers that the process has made, among them the result.
        JobReport
            The report of its process.

        Raises
        ------
        JobFailed
            With the traceback of the user's code, or a description of how its processes
            ended.
        """
        from seamless_transformer.remote_job import parse_remote_job_written

        small = {
            buffer.get_checksum().hex(): buffer.content
            for buffer in inputs
            if 0 < len(buffer) <= SMALL
        }
        job = PoolJob(
            name=f"transformation {label or tf_checksum}",
            payload={
                "transformation_dict": transformation_dict,
                "tf_checksum": Checksum(tf_checksum),
                "tf_dunder": {**tf_dunder, BUFFERS: small},
                "scratch": scratch,
                "strict_dunder": strict_dunder,
                "owner_dask_key": key,
                "owner_dask_priority": depth,
                "streams": streams,
            },
            key=key,
            on_output=on_output,
        )
        running = asyncio.run_coroutine_threadsafe(
            self._processes.run(job), self._manager.loop
        )
        report = await asyncio.wrap_future(running)
        if report.output is not None and on_output is not None:
            on_output(report.output)
        result = report.result
        if isinstance(result, str):
            if parse_remote_job_written(result) is None:
                raise JobFailed(result, report)
            return result, {}, report
        made = result.buffers if isinstance(result, ResultChecksum) else {}
        return Checksum(result).hex(), made, report

    async def _dispatch_other(
        self,
        transformation_dict: dict[str, Any] | None,
        tf_checksum: Checksum,
        tf_dunder: dict[str, Any],
        scratch: bool,
        *,
        strict_dunder: bool = False,
        **_options: Any,
    ) -> Checksum | str:
        """Run a transformation that other code than our tasks gives to the pool."""
        checksum = Checksum(tf_checksum)
        job = PoolJob(
            name=f"transformation {checksum.hex()}",
            payload={
                "transformation_dict": transformation_dict,
                "tf_checksum": checksum,
                "tf_dunder": tf_dunder,
                "scratch": scratch,
                "strict_dunder": strict_dunder,
                "owner_dask_key": None,
            },
        )
        try:
            report = await self._processes.run(job)
        except JobFailed as error:
            return str(error)
        result: Checksum | str = report.result
        return result


async def _signal(
    processes: list[psutil.Process], number: signal.Signals, seconds: float
) -> list[psutil.Process]:
    """Send a signal and wait; return the processes that are still there."""
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue
    deadline = time.monotonic() + seconds
    while True:
        processes = os_processes.remaining(processes)
        if not processes or time.monotonic() > deadline:
            return processes
        await asyncio.sleep(0.02)

"""The pool of Seamless processes in a Dask worker.

The only module that knows the inside of seamless-transformer's pool. Nested
transformations are answered here in one exchange per transformation: the pool's own
protocol would have the child poll, and cannot tell which job asks.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psutil
from seamless import Checksum
from seamless_transformer import worker as transformer_worker

from .buffers import BufferStore
from .child import Initializer

if TYPE_CHECKING:
    from .runtime import WorkerRuntime

logger = logging.getLogger(__name__)

#: the pool's own limit of jobs per process: ours is the number of Dask tasks
UNLIMITED = 1 << 30
#: seconds between the request to end and SIGKILL
GRACE = 1.0

_pool_of_this_process: Pool | None = None
_creation = threading.Lock()


class Pool:
    """Starts, feeds and ends the Seamless processes of this process.

    seamless-transformer has one pool per process. The workers of a dummy scheduler,
    which live in one process, share it.

    Parameters
    ----------
    processes
        How many.
    environment
        Environment variables for the processes.
    """

    def __init__(self, processes: int, environment: dict[str, str]) -> None:
        self.processes = processes
        #: where the processes' requests for buffers are answered from
        self.buffers = BufferStore()
        self._environment = environment
        self._runtimes: list[WorkerRuntime] = []
        self._manager: Any = None
        self._lock = threading.Lock()

    @classmethod
    def of_this_process(cls, processes: int, environment: dict[str, str]) -> Pool:
        """Return the pool of this process; the arguments are for a new one."""
        global _pool_of_this_process
        with _creation:
            if _pool_of_this_process is None:
                _pool_of_this_process = cls(processes, environment)
            return _pool_of_this_process

    @property
    def throttle(self) -> int:
        """Concurrent jobs per process."""
        return transformer_worker.TRANSFORMATION_THROTTLE

    def join(self, runtime: WorkerRuntime) -> None:
        """Serve a worker; the first starts the processes, which takes a second or two.

        Raises
        ------
        RuntimeError
            If this process has Seamless processes that are not ours.
        """
        with self._lock:
            self._runtimes.append(runtime)
            if self._manager is None:
                try:
                    self._start()
                except BaseException:
                    self._runtimes.remove(runtime)
                    raise

    async def leave(self, runtime: WorkerRuntime) -> None:
        """Serve a worker no longer; the last ends the processes."""
        global _pool_of_this_process
        with self._lock:
            if runtime in self._runtimes:
                self._runtimes.remove(runtime)
            if self._runtimes:
                return
        await self._stop()
        with _creation:
            if _pool_of_this_process is self:
                _pool_of_this_process = None

    def _start(self) -> None:
        original = transformer_worker._child_initializer
        # The pool pickles the initializer that it finds under this name, and uses it
        # again whenever it replaces a process.
        transformer_worker._child_initializer = Initializer(self._environment)
        try:
            transformer_worker.spawn(self.processes, dask_available=True)
        finally:
            transformer_worker._child_initializer = original
        self._manager = manager = transformer_worker._worker_manager
        asyncio.run_coroutine_threadsafe(
            self._take_over(manager), manager.loop
        ).result()

    async def _take_over(self, manager: Any) -> None:
        for name in manager._limits:
            manager._limits[name] = asyncio.Semaphore(UNLIMITED)
        manager._prefetched_buffers = self.buffers
        handlers = manager._manager
        handlers.add_parent_handler("delegate_transformation_submit", self._delegate)
        handlers.add_parent_handler(
            "download", functools.partial(self._download, manager._handle_download)
        )

    def _runtime_of(self, owner_key: str | None) -> WorkerRuntime:
        if owner_key is not None:
            for runtime in self._runtimes:
                if runtime.is_running(owner_key):
                    return runtime
        return self._runtimes[0]

    async def _delegate(self, handle: Any, payload: dict[str, Any]) -> dict[str, Any]:
        runtime = self._runtime_of(payload.get("owner_dask_key"))
        answer = asyncio.run_coroutine_threadsafe(
            runtime.nested(handle.name, payload), runtime.loop
        )
        return await asyncio.wrap_future(answer)

    async def _download(
        self, original: Callable[..., Any], handle: Any, payload: dict[str, Any]
    ) -> dict[str, Any]:
        checksum = Checksum(payload["checksum"]).hex()
        if self.buffers.at_hand(checksum) is None:
            # The original would block the pool's event loop while it fetches.
            loop = self._runtimes[0].loop
            found = asyncio.run_coroutine_threadsafe(
                self.buffers.resolve(checksum), loop
            )
            await asyncio.wrap_future(found)
        return await original(handle, payload)

    def jobs_of(self, process_name: str) -> set[str]:
        """Return the transformation checksums that a process is running."""
        manager = self._manager
        with manager._active_dispatch_lock:
            return {
                checksum
                for checksum, names in manager._active_handles.items()
                if process_name in names
            }

    def cancel(self, tf_checksum: str) -> None:
        """Stop a transformation: the processes that run it are replaced."""
        transformer_worker.cancel_by_checksum(tf_checksum)

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
    ) -> str:
        """Run a transformation in the least busy process.

        Returns
        -------
        str
            Checksum of the result in hexadecimal digits, or the marker of a written
            remote job.

        Raises
        ------
        JobFailed
            With the traceback of the user's code.
        """
        from seamless_transformer.remote_job import parse_remote_job_written

        result = await transformer_worker.dispatch_to_workers(
            transformation_dict,
            tf_checksum=Checksum(tf_checksum),
            tf_dunder=tf_dunder,
            scratch=scratch,
            strict_dunder=strict_dunder,
            owner_dask_key=key,
            owner_dask_priority=depth,
        )
        if isinstance(result, str):
            if parse_remote_job_written(result) is None:
                raise JobFailed(result)
            return result
        return Checksum(result).hex()

    async def _stop(self) -> None:
        """End the processes and what they started, within two seconds.

        Needs no thread: when the interpreter exits, none can be had.
        """
        manager, self._manager = self._manager, None
        if manager is None:
            return
        doomed = []
        for handle in manager._handles:
            handle.restart = False
            if handle.pid is not None:
                doomed.extend(_tree(handle.pid))
        alive = await _signal(doomed, signal.SIGTERM, GRACE)
        alive = await _signal(alive, signal.SIGKILL, GRACE / 2)
        if alive:
            logger.warning("Processes %s do not end", [p.pid for p in alive])
        transformer_worker.shutdown_workers(wait=False)


class JobFailed(RuntimeError):
    """The code of a transformation raised; the text is its traceback."""


def _tree(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


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
        # wait_procs reaps those that are children of this process
        _, processes = psutil.wait_procs(processes, timeout=0)
        if not processes or time.monotonic() > deadline:
            return processes
        await asyncio.sleep(0.02)

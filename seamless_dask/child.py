"""Runs inside each Seamless process of a Dask worker, before its first job.

The pool of seamless-transformer starts these processes; some things are arranged
here, because nothing outside the process can:

- Jobs that wait for nested transformations must not exhaust the threads in which
  jobs run (by default as many as cores + 4), so the executor grows as needed. So does
  that for nested transformations that are to run in the same process.
- The parent must learn *which* job asks for a nested transformation, from whatever
  thread or event loop.
- Messages to and from the parent need no threads of their own.
- When the Dask worker dies, so do its Seamless processes and what they started.
"""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import wait
from typing import Any

from . import child_values, pipes, selection, small_buffers, thread_loops
from .bounds import Collector, bound_results, synchronize_caches
from .job_context import JobExecutor, JobLocal, inherit_in_threads, let_each_job_ask
from .job_isolation import PROCESS_ENV, isolate_jobs

#: Jobs that one process can hold. Threads are started on demand; one that waits costs
#: some 100 kB.
MAX_JOBS = 4096


def _end_with_parent() -> None:
    """Wait for the end of the Dask worker, then end this process and its children."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    wait([parent.sentinel])
    import psutil

    for process in psutil.Process().children(recursive=True):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    os._exit(1)


def _survive_exit(execute: Callable[[Any], Any], payload: Any) -> Any:
    """Let user code that calls `sys.exit` fail, and not the process with its jobs."""
    try:
        return execute(payload)
    except SystemExit as exc:
        return "".join(traceback.format_exception(SystemExit, exc, exc.__traceback__))


class Initializer:
    """Prepares a Seamless process; instances travel to it by pickle.

    Parameters
    ----------
    environment
        Environment variables for the process.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    async def __call__(self, channel: Any) -> None:
        pipes.attach(channel._endpoint)
        threading.Thread(
            target=_end_with_parent, name="seamless-dask-guard", daemon=True
        ).start()
        os.environ.update(self.environment)
        os.environ[PROCESS_ENV] = multiprocessing.current_process().name
        executor = ThreadPoolExecutor(MAX_JOBS, thread_name_prefix="seamless-job")
        asyncio.get_running_loop().set_default_executor(executor)

        from seamless_transformer import transformation_class, worker

        transformation_class._COMPUTE_EXECUTOR = JobExecutor(
            MAX_JOBS, thread_name_prefix="seamless-local"
        )
        worker._execute_transformation_request = functools.partial(
            _survive_exit, worker._execute_transformation_request
        )
        worker._execute_transformation_request = Collector(
            worker._execute_transformation_request
        )
        worker._CURRENT_OWNER_DASK_KEY = JobLocal()
        worker._CURRENT_OWNER_DASK_PRIORITY = JobLocal()
        inherit_in_threads(
            [worker._CURRENT_OWNER_DASK_KEY, worker._CURRENT_OWNER_DASK_PRIORITY]
        )
        let_each_job_ask()
        isolate_jobs(worker._get_current_owner_dask_key)
        synchronize_caches()
        bound_results()
        thread_loops.install()
        small_buffers.install(worker)
        child_values.install(worker)
        if selection.ENVIRONMENT in self.environment:
            selection.select_in_seamless_process(
                self.environment[selection.ENVIRONMENT]
            )
        await worker._child_initializer(channel)

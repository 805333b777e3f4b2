"""Runs inside each Seamless process of a Dask worker, before its first job.

The pool of seamless-transformer starts these processes; some things can only be arranged
inside the process:

- One job at a time executes; the process is reset after each.
- Jobs that wait for nested transformations must not use up the threads for nested
  transformations that run in the same process.
- The parent must learn *which* job calls a nested transformation; calls may come from
  any thread or event loop.
- Messages to and from the parent need no threads of their own.
- When the Dask worker dies, so do its Seamless processes and their descendants.
  Processes that a job has left running end with the job.
"""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import os
import tempfile
import threading
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from ..cluster import selection
from ..cluster.environment import PROCESS_ENV, SELECTION_ENV
from ..neighbours import event_loops, fewer_requests, own_random, pipes
from ..neighbours.bounded_tables import bound_results, synchronize_caches
from ..neighbours.event_loops import JobExecutor
from ..neighbours.replacing import replace
from . import (
    bash_commands,
    compiling,
    cores,
    fork_server,
    forked_jobs,
    output,
    small_buffers,
    sources,
    values,
    waits,
)
from .code_end import CodeEnd
from .garbage import Collector
from .holdings import JobState
from .job_identity import JobLocal, inherit_in_threads, let_each_job_ask
from .job_runner import ABANDON, PING, RUN, STARVED, STUCK, JobRunner
from .turn_keeper import TurnKeeper

logger = logging.getLogger(__name__)

#: Added to the score by which Linux chooses a process to kill when memory is short, in
#: thousandths of the memory.
KILLED_FIRST = 300
#: Jobs that one process can hold. Threads are started on demand; a waiting thread costs
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


def _be_killed_first() -> None:
    """When memory is short, let the system end this process and not the Dask worker.

    If the worker ends, so do its other processes. It would often be chosen, because its
    caches may use a good part of the limit of a container or batch job. Linux only.
    """
    try:
        with open("/proc/self/oom_score_adj", "r+") as file:
            score = int(file.read())
            file.seek(0)
            file.write(str(min(1000, score + KILLED_FIRST)))
    except OSError as error:
        logger.debug("The system chooses which process to end: %r", error)


def _leave_the_fork_server() -> None:
    """Replace the inherited state that this process must not share with its siblings."""
    fork_server.forget_inherited()
    # A job that kills its process group must not hit other Seamless processes.
    os.setpgid(0, 0)
    # Code of the user may start processes. Their orphans become children of this process,
    # so that they can be ended.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    # Jobs use the default start method of this Python, not that of this process.
    multiprocessing.set_start_method(None, force=True)
    fork_server.adopt_orphans()
    _be_killed_first()
    # Set it here: `tempfile` would test it by writing a file, which fails on a full disk.
    tempfile.tempdir = os.environ["TMPDIR"]
    import numpy.random

    # After a fork, Python only seeds its own generator again.
    numpy.random.seed()


def _select(text: str) -> None:
    """Apply the selection of the driver script, before the first transformation.

    Nested calls must still go through the parent process, but seamless-transformer
    would connect to a selected cluster. So execution is set to ``process``, and only
    probes are told that they run remotely.

    Parameters
    ----------
    text
        Value of the environment variable `SELECTION_ENV`.
    """
    from seamless_config.select import select_execution
    from seamless_transformer import probe_index

    select_execution("process")
    if selection.select(json.loads(text)):
        replace(probe_index, "get_execution", _remote)


def _remote() -> str:
    return "remote"


class Initializer:
    """Prepares a Seamless process; instances travel to it by pickle.

    Parameters
    ----------
    environment
        Environment variables for the process.
    shared
        Directory that the processes of a Dask worker share. Its parent is a directory
        of the pool, in the directory of the worker.
    """

    def __init__(self, environment: dict[str, str], shared: Path) -> None:
        self.environment = environment
        self.shared = shared

    async def __call__(self, channel: Any) -> None:
        pipes.attach(channel._endpoint)
        threading.Thread(
            target=_end_with_parent, name="seamless-dask-guard", daemon=True
        ).start()
        os.environ.update(self.environment)
        cores.allow()
        os.environ[PROCESS_ENV] = multiprocessing.current_process().name
        _leave_the_fork_server()

        from seamless_transformer import transformation_class, worker

        replace(
            transformation_class,
            "_COMPUTE_EXECUTOR",
            JobExecutor(MAX_JOBS, thread_name_prefix="seamless-local"),
        )
        replace(worker, "_CURRENT_OWNER_DASK_KEY", JobLocal())
        replace(worker, "_CURRENT_OWNER_DASK_PRIORITY", JobLocal())
        let_each_job_ask()
        own_random.install()
        synchronize_caches()
        bound_results()
        event_loops.install()
        fewer_requests.install()
        values.install(worker)
        sources.install()
        collector = Collector()
        small_buffers.install(worker)
        output.install(worker)
        compiling.install(self.shared)
        if SELECTION_ENV in self.environment:
            _select(self.environment[SELECTION_ENV])
        self._take_turns(channel, worker, collector)
        await worker._child_initializer(channel)

    def _take_turns(self, channel: Any, worker: Any, collector: Collector) -> None:
        """Let one job at a time execute; called after all other changes of globals."""
        loop = asyncio.get_running_loop()

        def starved(job: str, waited: float) -> None:
            asyncio.run_coroutine_threadsafe(
                channel.request(STARVED, {"job": job, "waited": waited}), loop
            )

        def stuck(job: str) -> None:
            asyncio.run_coroutine_threadsafe(channel.request(STUCK, {"job": job}), loop)

        keeper = TurnKeeper(None, starved, stuck)
        inherit_in_threads(
            [worker._CURRENT_OWNER_DASK_KEY, worker._CURRENT_OWNER_DASK_PRIORITY],
            keeper,
        )
        bash_commands.let_commands_wait(
            worker._get_current_owner_dask_key, waits.install(keeper)
        )
        forked_jobs.install(worker, keeper)
        # After each job, the process goes back to its present state.
        state = JobState(
            descriptors=[channel._endpoint._conn.fileno()],
            temporary=[tempfile.gettempdir(), str(self.shared.parent.parent)],
        )
        keeper.watch(state)
        code_end = CodeEnd(state.put_names_back)
        code_end.install()
        code_end.guard(loop, state.replaced, keeper.blame)
        runner = JobRunner(
            worker._execute_transformation_request,
            keeper,
            collector.collect,
            code_end,
            channel.request,
        )
        channel.add_request_handler(RUN, runner.run)
        channel.add_request_handler(ABANDON, runner.abandon)
        channel.add_request_handler(output.RECENT, runner.recent_output)
        channel.add_request_handler(PING, runner.ping)

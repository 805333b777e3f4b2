"""Runs inside each Seamless process of a Dask worker, before its first job.

The pool of seamless-transformer starts these processes; some things are arranged
here, because nothing outside the process can:

- One job at a time executes; the process is put right after each.
- Jobs that wait for nested transformations must not exhaust the threads of those that
  are to run in the same process.
- The parent must learn *which* job asks for a nested transformation, from whatever
  thread or event loop.
- Messages to and from the parent need no threads of their own.
- When the Dask worker dies, so do its Seamless processes and what they started. What a
  job has started and left ends with the job.
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
    small_buffers,
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

#: By how many thousandths of the memory a Seamless process seems larger than it is to
#: the system when it looks for a process to end.
KILLED_FIRST = 300
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


def _be_killed_first() -> None:
    """When memory is short, let the system end this process and not the Dask worker.

    That would take the other processes along. The limit may be that of a container or of
    a batch job, of which the worker has a good part in its caches. Linux only.
    """
    try:
        with open("/proc/self/oom_score_adj", "r+") as file:
            score = int(file.read())
            file.seek(0)
            file.write(str(min(1000, score + KILLED_FIRST)))
    except OSError as error:
        logger.debug("The system chooses which process to end: %r", error)


def _leave_the_fork_server() -> None:
    """Give this process what it should not have in common with its siblings."""
    fork_server.forget_inherited()
    # Whoever kills a group of processes, by its leader's id, is to hit his own.
    os.setpgid(0, 0)
    # Code of the user may start processes. What they leave behind becomes a child of
    # this process, so that it can be ended.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    # In the way that is usual for this Python, not in that of this process itself.
    multiprocessing.set_start_method(None, force=True)
    fork_server.adopt_orphans()
    _be_killed_first()
    # Not looked for: that writes a file, for which there may be no room.
    tempfile.tempdir = os.environ["TMPDIR"]
    import numpy.random

    # Python does so for its own generator.
    numpy.random.seed()


def _select(text: str) -> None:
    """Select what the driver has selected, before the first transformation.

    What this process calls still goes through its parent: seamless-transformer would
    take a selected cluster for one to connect to. Only probes are told that they run
    there.

    Parameters
    ----------
    text
        Value of the environment variable `seamless_dask.cluster.selection.ENVIRONMENT`.
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
        Directory that the processes of a Dask worker have in common, in a directory of
        their own in that of the worker.
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
        collector = Collector()
        small_buffers.install(worker)
        compiling.install(self.shared)
        if SELECTION_ENV in self.environment:
            _select(self.environment[SELECTION_ENV])
        self._take_turns(channel, worker, collector)
        await worker._child_initializer(channel)

    def _take_turns(self, channel: Any, worker: Any, collector: Collector) -> None:
        """Let one job at a time execute. What is global has its final state by now."""
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
        # After each job all that was replaced so far is as it is now.
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
        )
        channel.add_request_handler(RUN, runner.run)
        channel.add_request_handler(ABANDON, runner.abandon)
        channel.add_request_handler(PING, runner.ping)

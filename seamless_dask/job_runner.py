"""Runs the jobs of a Seamless process, each in a thread of its own.

A new thread has nothing of the job before: no thread-local values, no decimal context.
What the process has of it is put right before the answer goes out; where that cannot be
done, the answer says why the process has to be replaced.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import forkserver
from typing import Any

import psutil

from .child_errors import error_text
from .job_context import belong_to
from .state_system import Status
from .turns import JobTurn, TurnKeeper

logger = logging.getLogger(__name__)

#: request by which a process is given a job
RUN = "seamless_dask_run"
#: request by which a job that waits in a process is given up
ABANDON = "seamless_dask_abandon"
#: message that a job which could go on waits long for its process
STARVED = "seamless_dask_starved"
#: seconds that threads which a job leaves behind have to end by themselves
THREADS_GRACE = 0.05
#: seconds in which processes that were killed normally have ended
PROCESSES_GRACE = 1.0


@dataclass
class JobReport:
    """How a job went in its process."""

    #: checksum of the result, or the text of an error
    result: Any
    #: threads and processes that it has left running, as words
    left: list[str] = field(default_factory=list)
    #: what else the process cannot have another job for
    replace: list[str] = field(default_factory=list)
    #: seconds from its begin to its end
    wall: float = 0.0
    #: seconds of CPU time, those of its subprocesses included
    cpu_user: float = 0.0
    cpu_system: float = 0.0
    #: the most memory that the process had meanwhile, in bytes; None: not known
    memory_peak: int | None = None
    #: the process, and when it was started (seconds since the epoch)
    pid: int = 0
    process_started: float = 0.0
    #: how often it was given to a process: it may have been lost with one
    begun: int = 1
    #: seconds that it could go on and waited for its process
    waited: float = 0.0


class JobRunner:
    """Answers the requests of the Dask worker to run jobs.

    Parameters
    ----------
    execute
        Runs a job; returns a checksum or the text of an error.
    keeper
        Lets one job at a time execute.
    """

    def __init__(self, execute: Callable[[Any], Any], keeper: TurnKeeper) -> None:
        self._execute = execute
        self._keeper = keeper
        self._process_started = time.time()

    async def run(self, payload: dict[str, Any]) -> JobReport | None:
        """Run a job; None if another one executes in this process."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[JobReport | None] = loop.create_future()

        def work() -> None:
            report = self._run(JobTurn(payload["job"]), payload)
            try:
                loop.call_soon_threadsafe(tell, report)
            except RuntimeError as error:  # the loop is closed: the process is ending
                logger.debug(
                    "Nobody is told how job %s ended: %r", payload["job"], error
                )

        def tell(report: JobReport | None) -> None:
            if not answer.done():  # it is if the Dask worker has been lost
                answer.set_result(report)

        threading.Thread(target=work, name="seamless-job", daemon=True).start()
        return await answer

    def abandon(self, payload: dict[str, Any]) -> bool:
        """Let a job that waits never go on; False if it executes."""
        return self._keeper.abandon(payload["job"])

    def _run(self, job: JobTurn, payload: dict[str, Any]) -> JobReport | None:
        belong_to(job)
        if not self._keeper.begin(job):
            return None
        _reset_memory_peak()
        began = time.perf_counter()
        try:
            result = self._execute(payload)
        except BaseException as error:  # noqa: BLE001 - the job fails, not the process
            result = error_text(error)
        wall = time.perf_counter() - began
        left = _leftover_threads(job)
        if self._keeper.is_alone(job):
            left += _leftover_processes()
        report = JobReport(result, left, self._keeper.end(job), wall)
        report.cpu_user, report.cpu_system = job.cpu_user, job.cpu_system
        report.memory_peak = Status().memory_peak
        report.pid, report.process_started = os.getpid(), self._process_started
        report.waited = job.waited
        return report


def _leftover_threads(job: JobTurn) -> list[str]:
    deadline = time.monotonic() + THREADS_GRACE
    for thread in tuple(job.threads):
        thread.join(max(0.0, deadline - time.monotonic()))
    # The monitor of tqdm only looks at bars, of which none is left.
    names = [t.name for t in job.threads if type(t).__name__ != "TMonitor"]
    if not names:
        return []
    return [f"threads: {', '.join(sorted(names))}"]


def _leftover_processes() -> list[str]:
    """End the processes that the last job has left; they are children of this one."""
    # It stays until the end of a process, which is no fault of the job.
    server: Any = forkserver._forkserver
    server._stop()
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return []
    names = []
    left = psutil.Process().children(recursive=True)
    for process in left:
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                names.append(f"{process.name()} ({process.pid})")
                process.kill()
        except psutil.NoSuchProcess:
            continue
    # Nobody else would take note of their end.
    psutil.wait_procs(left, timeout=PROCESSES_GRACE)
    if not names:
        return []
    return [f"processes: {', '.join(names)}"]


def _reset_memory_peak() -> None:
    """Have the system forget how much memory this process once had. Linux only."""
    try:
        descriptor = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, b"5")
        finally:
            os.close(descriptor)
    except OSError as error:
        logger.debug("The peak of memory stays that of all jobs: %r", error)

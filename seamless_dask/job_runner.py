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
from typing import Any

from . import forked_jobs
from .child_errors import error_text
from .job_context import belong_to
from .leftovers import Leftovers, end_processes
from .turn_keeper import TurnKeeper
from .turns import JobTurn

logger = logging.getLogger(__name__)

#: request by which a process is given a job
RUN = "seamless_dask_run"
#: request by which a job that waits in a process is given up
ABANDON = "seamless_dask_abandon"
#: message that a job which could go on waits long for its process
STARVED = "seamless_dask_starved"
#: message that a job may wait for a lock which an abandoned one holds
STUCK = "seamless_dask_stuck"


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
        self._pid, self._process_started = os.getpid(), time.time()
        self._leftovers = Leftovers()

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
        began = time.perf_counter()
        error: BaseException | None = None
        try:
            result = self._execute(payload)
        except BaseException as exc:  # noqa: BLE001 - the job fails, not the process
            result, error = error_text(exc), exc
        wall = time.perf_counter() - began
        if os.getpid() != self._pid:
            forked_jobs.end(error, result)
        try:
            report = self._end(job, result)
        except BaseException as exc:
            logger.exception("A job does not end as it should")
            report = JobReport(result, replace=[f"a job did not end well: {exc!r}"])
        report.wall = wall
        report.cpu_user, report.cpu_system = job.cpu_user, job.cpu_system
        report.memory_peak = job.memory_peak
        report.pid, report.process_started = self._pid, self._process_started
        report.waited = job.waited
        return report

    def _end(self, job: JobTurn, result: Any) -> JobReport:
        """Put the process right."""
        own, others = self._keeper.threads_of(job)
        left = self._leftovers.threads(own, others) + end_processes()
        return JobReport(result, left, self._keeper.end(job, left))

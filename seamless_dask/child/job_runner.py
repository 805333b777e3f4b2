"""Runs the jobs of a Seamless process, each in a thread of its own.

A new thread has nothing of the job before: no thread-local values, no decimal context, no
trace function. When it has ended, and its thread-local objects are gone, another thread
resets the process. Only then the answer is sent; if the reset fails, the answer says why
the process has to be replaced.

The job may have replaced functions that this module needs, so they are bound at its
import.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from os import getpid
from queue import SimpleQueue
from time import perf_counter, thread_time, time
from typing import Any

from ..storage.job_report import JobReport
from . import forked_jobs
from .code_end import CodeEnd
from .errors import error_text
from .job_identity import belong_to
from .leftovers import Leftovers, end_processes
from .output import OUTPUT, JobOutput
from .turn_keeper import TurnKeeper
from .turns import JobTurn

logger = logging.getLogger(__name__)

_exit = os._exit
#: has an entry for each thread of this process
_TASKS = "/proc/self/task"

#: request to run a job
RUN = "seamless_dask_run"
#: request never to resume a job that waits
ABANDON = "seamless_dask_abandon"
#: request to check that a process answers; the answer names the jobs that are ending
PING = "ping"
#: message that a job is ready to go on, but waits long for its process
STARVED = "seamless_dask_starved"
#: message that a job may wait for a lock that an abandoned job holds
STUCK = "seamless_dask_stuck"


@dataclass
class _Ended:
    """The outcome of a job whose thread is about to end."""

    job: JobTurn
    thread: threading.Thread
    report: JobReport
    #: seconds of CPU time of its thread
    seconds: float
    tell: Callable[[JobReport | None], None]


class JobRunner:
    """Answers the requests of the Dask worker to run jobs.

    Parameters
    ----------
    execute
        Runs a job; returns a checksum or the text of an error.
    keeper
        Lets one job at a time execute.
    collect
        Frees the garbage of a job; called with the seconds of CPU time of its thread.
    code_end
        Puts back the functions that the end of a job needs.
    request
        Sends a request, of that name and with that content, to the Dask worker; returns
        the answer.
    """

    def __init__(
        self,
        execute: Callable[[Any], Any],
        keeper: TurnKeeper,
        collect: Callable[[float], None],
        code_end: CodeEnd,
        request: Callable[[str, Any], Awaitable[Any]],
    ) -> None:
        self._execute = execute
        self._keeper = keeper
        self._collect = collect
        self._code_end = code_end
        self._request = request
        #: {job id: its output}, and the tasks that send it
        self._outputs: dict[str, JobOutput] = {}
        #: {job id: the thread that executes it}
        self._threads: dict[str, threading.Thread] = {}
        self._streaming: dict[str, asyncio.Task[None]] = {}
        self._pid, self._process_started = getpid(), time()
        self._leftovers = Leftovers()
        self._ended: SimpleQueue[_Ended] = SimpleQueue()
        threading.Thread(
            target=self._finish_jobs, name="seamless-clean-up", daemon=True
        ).start()

    async def run(self, payload: dict[str, Any]) -> JobReport | None:
        """Run a job; None if another one executes in this process."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[JobReport | None] = loop.create_future()
        output = JobOutput(payload["job"], streams=bool(payload.get("streams")))

        def work() -> None:
            job = JobTurn(payload["job"], output=output)
            try:
                ended = self._run(job, payload)
            except BaseException as error:  # the Dask worker waits for an answer
                logger.exception("The end of a job fails")
                text = f"The end of the transformation fails: {error_text(error)}"
                ended = self._report(text, replace=["the end of a job failed"]), 0.0
            if ended is None:
                tell(None)
            else:
                report, seconds = ended
                self._ended.put(_Ended(job, thread, report, seconds, tell))

        def tell(report: JobReport | None) -> None:
            try:
                loop.call_soon_threadsafe(settle, report)
            except RuntimeError as error:  # the loop is closed: the process is ending
                logger.debug(
                    "Nobody is told how job %s ended: %r", payload["job"], error
                )

        def settle(report: JobReport | None) -> None:
            if not answer.done():  # it is done if the Dask worker has been lost
                answer.set_result(report)

        thread = threading.Thread(target=work, name="seamless-job", daemon=True)
        self._outputs[output.job] = output
        if output.streams:
            self._stream(output)
        thread.start()
        self._threads[output.job] = thread
        try:
            return await answer
        finally:
            del self._threads[output.job]
            del self._outputs[output.job]
            output.stop()
            streaming = self._streaming.pop(output.job, None)
            if streaming is not None:
                await streaming  # what it has sent comes before the answer

    def _stream(self, output: JobOutput) -> None:
        async def send(message: dict[str, Any]) -> float:
            return float(await self._request(OUTPUT, message))

        async def stream() -> None:
            try:
                await output.stream(send)
            except Exception:  # a bug of ours, or a lost worker, must not end the job
                logger.exception("The output of job %s is not sent", output.job)

        self._streaming[output.job] = asyncio.ensure_future(stream())

    async def recent_output(self, payload: dict[str, Any]) -> list[Any]:
        """Return the newest output of a job; with "stream", send what follows."""
        output = self._outputs.get(payload["job"])
        if output is None:
            return []
        begins = payload["stream"] and not output.streams
        pieces = output.recent(stream=payload["stream"])
        if begins:
            self._stream(output)
        return pieces

    def abandon(self, payload: dict[str, Any]) -> bool:
        """Never resume a job that waits; False if it executes."""
        return self._keeper.abandon(payload["job"])

    async def ping(self, _payload: Any) -> dict[str, float]:
        """Answer; see `TurnKeeper.ending`. End the process if a job can never answer."""
        for job, thread in self._threads.items():
            if _is_lost(thread):
                logger.critical(
                    "The thread of job %s was ended by something else than Python", job
                )
                _exit(1)
        return self._keeper.ending()

    def _run(
        self, job: JobTurn, payload: dict[str, Any]
    ) -> tuple[JobReport, float] | None:
        """Execute a job; return its report, and the CPU seconds of this thread."""
        belong_to(job)
        self._code_end.expect()
        if not self._keeper.begin(job):
            return None
        began = perf_counter()
        raised: BaseException | None = None
        try:
            try:
                result = self._execute(payload)
            finally:
                self._code_end.put_back()
        except BaseException as error:  # noqa: BLE001 - the job fails, not the process
            result, raised = error_text(error), error
        wall = perf_counter() - began
        if getpid() != self._pid:
            forked_jobs.end(raised, result)
        report = self._report(result, wall=wall, output=job.output.end())
        if job.broke is not None:
            report.result = job.broke
            report.replace.append("a job has replaced what the process needs")
        return report, thread_time()

    def _report(self, result: Any, **values: Any) -> JobReport:
        started = self._process_started
        return JobReport(result, pid=self._pid, process_started=started, **values)

    def _finish_jobs(self) -> None:
        while True:
            try:
                self._finish(self._ended.get())
            except BaseException:
                # No job would get its answer any more: the Dask worker is to notice.
                logger.exception("A Seamless process cannot go on")
                _exit(1)

    def _finish(self, ended: _Ended) -> None:
        """Reset the process after the thread of a job has ended, and answer."""
        job, report = ended.job, ended.report
        try:
            _join(ended.thread)
            self._collect(ended.seconds)
            own, others = self._keeper.threads_of(job)
            report.left = self._leftovers.threads(own, others) + end_processes()
            report.replace += self._keeper.end(job, report.left)
        except BaseException as error:
            logger.exception("A job does not end as it should")
            report.replace.append(f"a job did not end well: {error!r}")
        report.cpu_user, report.cpu_system = job.cpu_user, job.cpu_system
        report.memory_peak, report.waited = job.memory_peak, job.waited
        ended.tell(report)


_join = threading.Thread.join


def _is_lost(thread: threading.Thread) -> bool:
    """Say whether a thread has ended without Python's knowledge, as by pthread_exit.

    Linux only; elsewhere False.
    """
    return (
        thread.is_alive()
        and os.path.isdir(_TASKS)
        and not os.path.exists(f"{_TASKS}/{thread.native_id}")
    )

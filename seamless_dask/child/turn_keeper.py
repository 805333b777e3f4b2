"""Makes the threads of a Seamless process wait for the turn of their job.

Reports jobs that wait long or stand still, and measures the CPU time and memory that each
job uses in its turn. Runs inside each Seamless process.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from . import usage
from .turns import JobTurn, State, Turns

logger = logging.getLogger(__name__)

#: minimum of seconds that a job waits for its process before it is started elsewhere
PATIENCE = 1.0
#: seconds of CPU time up to which a job counts as standing still
STANDSTILL_CPU = 0.05
#: prefix of the names of threads that run nested transformations in their caller's process
LOCAL_THREADS = "seamless-local"


class TurnKeeper:
    """Makes the threads of a Seamless process wait for their turn.

    Parameters
    ----------
    state
        The global state of the process; None: see `watch`.
    on_starved
        Called, from any thread, with the id of a job that could go on and has waited
        for its process as long as it had executed before, at least for `PATIENCE`; and
        with the seconds for which it has waited.
    on_stuck
        Called with the id of a job that has the turn and has needed no CPU time for
        half of the time for which it has executed, at least for `PATIENCE`, while the
        process has an abandoned job: it may wait for a lock that the abandoned job holds.
    """

    def __init__(
        self,
        state: State | None,
        on_starved: Callable[[str, float], None],
        on_stuck: Callable[[str], None],
    ) -> None:
        self._turns: Turns
        if state is not None:
            self.watch(state)
        self._on_starved = on_starved
        self._on_stuck = on_stuck
        self.forget_all()
        self._charged: JobTurn | None = None
        self._used = usage.now()

    def forget_all(self) -> None:
        """Start anew in a process that a job has forked."""
        # In the forked process, a lock that another thread held is never released.
        self._changed = threading.Condition()
        #: of each thread: whether it counts as one that executes
        self._thread = threading.local()

    def watch(self, state: State) -> None:
        """Set the global state of the process, before its first job."""
        self._turns = Turns(state)

    def begin(self, job: JobTurn) -> bool:
        """Let a new job execute in the calling thread if it can do so at once."""
        with self._changed:
            if not self._turns.begin(job):
                return False
            job.threads.add(threading.current_thread())
            self._clock()
            self._thread.executes = True
            return True

    def end(self, job: JobTurn, left: list[str]) -> list[str]:
        """See `Turns.end`."""
        with self._changed:
            self._charge()
            self._charged = None
            problems = self._turns.end(job, left)
            self._clock()
            return problems

    def threads_of(
        self, job: JobTurn
    ) -> tuple[list[threading.Thread], list[threading.Thread]]:
        """Return the threads of a job, and those of all others."""
        with self._changed:
            others = [t for j in self._turns.jobs if j is not job for t in j.threads]
            return list(job.threads), others

    def ending(self) -> dict[str, float]:
        """Return {job id: seconds since the end of its code} of jobs that end now."""
        now = monotonic()
        return {
            job.id: now - job.code_ended
            for job in list(self._turns.jobs)
            if job.code_ended is not None
        }

    def blame(self, error: str) -> bool:
        """Set the error of the job that has the turn; False if no job has it.

        Takes no lock.
        """
        job = self._turns.holder
        if job is not None:
            job.broke = error
        return job is not None

    def abandon(self, job_id: str) -> bool:
        """Never resume a job; False if it has the turn, or is not in this process."""
        with self._changed:
            for job in self._turns.jobs:
                if job.id == job_id:
                    return self._turns.abandon(job)
            return False

    @contextmanager
    def waiting(self, job: JobTurn | None) -> Iterator[None]:
        """Count the calling thread as waiting, so that another job may get the turn.

        Parameters
        ----------
        job
            The job of the thread; None: do nothing.
        """
        if job is None or not getattr(self._thread, "executes", False):
            yield
            return
        self._thread.executes = False
        self._waits(job)
        try:
            yield
        finally:
            self._executes(job)
            self._thread.executes = True

    @contextmanager
    def executing(self, job: JobTurn | None) -> Iterator[None]:
        """Count the calling thread as executing for a job, once that has the turn."""
        if job is None or getattr(self._thread, "executes", False):
            yield
            return
        self._executes(job)
        self._thread.executes = True
        try:
            yield
        finally:
            self._thread.executes = False
            self._waits(job)

    def starting(self, job: JobTurn, thread: threading.Thread) -> None:
        """Note that an executing job is about to start a thread."""
        with self._changed:
            job.threads.add(thread)
            job.executing += 1

    def started(self) -> None:
        """Note that the calling thread is a thread that a job has started."""
        self._thread.executes = True

    def ended(self, job: JobTurn, thread: threading.Thread) -> None:
        """Note that a thread of a job has ended, or could not be started."""
        with self._changed:
            job.threads.discard(thread)
        self._waits(job)

    def _waits(self, job: JobTurn) -> None:
        with self._changed:
            self._turns.waits(job)
            self._clock()

    def _executes(self, job: JobTurn) -> None:
        with self._changed:
            may = self._turns.executes(job)
            self._clock()
            if not may:
                self._wait(job)

    def _wait(self, job: JobTurn) -> None:
        """Wait until a job has the turn. An abandoned job waits here for ever."""
        began = monotonic()

        def goes_on() -> bool:
            return self._turns.holder is job

        def goes_on_or_is_lost() -> bool:
            return goes_on() or job.lost is not None

        self._changed.wait_for(goes_on_or_is_lost, max(PATIENCE, job.busy))
        if not goes_on():
            if job.lost is not None:
                logger.warning("A transformation begins again: %s", job.lost)
            self._on_starved(job.id, job.waited + monotonic() - began)
            self._stand_by(job)
        job.waited += monotonic() - began

    def _stand_by(self, job: JobTurn) -> None:
        """Wait for the turn; an abandoned job checks whether other jobs stand still."""
        seen: JobTurn | None = None
        cpu = since = 0.0
        while self._turns.holder is not job:
            self._changed.wait(PATIENCE)
            holder, now = self._turns.holder, monotonic()
            if not job.abandoned or holder is None or not holder.executing:
                seen = None
                continue
            needed = usage.cpu_without(_threads_of_others(holder))
            if holder is not seen or needed > cpu + STANDSTILL_CPU:
                seen, cpu, since = holder, needed, now
            elif now - since > max(PATIENCE, _executed(holder, now) / 2):
                self._on_stuck(holder.id)
                seen = None

    def _clock(self) -> None:
        """Count the time of the job that has the turn; wake the waiting threads."""
        now = monotonic()
        holder = self._turns.holder
        if holder is not self._charged:
            self._charge()
            self._charged = holder
            if holder is not None:
                usage.forget_memory_peak()
        for job in self._turns.jobs:
            if job.since is not None:
                job.busy += now - job.since
                job.since = None
            if job is holder and job.executing:
                job.since = now
        self._changed.notify_all()

    def _charge(self) -> None:
        """Count the CPU time and memory of the process for the job that had the turn."""
        before, self._used = self._used, usage.now()
        job, used = self._charged, self._used
        if job is not None:
            job.cpu_user += used.cpu_user - before.cpu_user
            job.cpu_system += used.cpu_system - before.cpu_system
            if used.memory_peak is not None:
                peak = max(used.memory_peak, job.memory_peak or 0)
                if (
                    used.child_peak > before.child_peak
                ):  # the largest one was of this job
                    peak = max(peak, used.child_peak)
                job.memory_peak = peak


def _executed(job: JobTurn, now: float) -> float:
    return job.busy + (0.0 if job.since is None else now - job.since)


def _threads_of_others(job: JobTurn) -> set[int]:
    """Return the native ids of Python's threads that run no code of this job."""
    return {
        thread.native_id
        for thread in threading.enumerate()
        if thread.native_id is not None
        and thread not in job.threads
        and not thread.name.startswith(LOCAL_THREADS)
    }

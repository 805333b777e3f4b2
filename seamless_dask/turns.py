"""Whose turn it is in a Seamless process: one transformation executes at a time.

Normally a process has one job. When the pool has no process left, a job whose threads
all wait for nested transformations lets another one execute in its process. Then what
is global in the process (see `seamless_dask.process_state`) is put aside for the one
that waits, and put back before it goes on; it goes on when the other one has ended, or
waits in its turn.

`Turns` decides, and knows neither threads nor time; `TurnKeeper` has threads wait.
Runs inside each Seamless process.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from .state_part import CannotPutBack
from .state_system import Status, reset_memory_peak

logger = logging.getLogger(__name__)

#: seconds that a job waits at least for its process before it is started elsewhere
PATIENCE = 1.0
#: seconds of CPU time that our own threads need while a job stands still
STANDSTILL_CPU = 0.05


class State(Protocol):
    """What is global in a process; see `seamless_dask.process_state`."""

    def save(self) -> Any:
        """Return the present state."""

    def restore(self, saved: Any) -> None:
        """Put a state back.

        Raises
        ------
        CannotPutBack
            If that is not possible.
        """

    def reset(self) -> list[str]:
        """Put the state of a fresh process back; return what resists."""

    def is_held(self) -> bool:
        """Say whether a job that waits has what another one must not touch."""


@dataclass(eq=False)
class JobTurn:
    """A job of this process."""

    id: str
    #: threads of it that execute, or want to
    executing: int = 0
    #: its state while another job has the turn
    saved: Any = None
    #: why it cannot go on here; None: it can
    lost: str | None = None
    #: whether it goes on elsewhere, or nowhere
    abandoned: bool = False
    #: seconds in which it had the turn and executed, up to `since`
    busy: float = 0.0
    #: time (monotonic) since which it has the turn and executes
    since: float | None = None
    #: seconds of CPU time of the process, and of its children, in its turn
    cpu_user: float = 0.0
    cpu_system: float = 0.0
    #: the most memory that the process had in its turn, in bytes; None: not known
    memory_peak: int | None = None
    #: seconds that its threads, which could go on, waited for the turn
    waited: float = 0.0
    #: threads that its code has started
    threads: set[threading.Thread] = field(default_factory=set)


class Turns:
    """Decides which job has the turn.

    Parameters
    ----------
    state
        What is global in the process.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        #: the job whose state the process has
        self.holder: JobTurn | None = None
        #: jobs that could go on, in order
        self.ready: list[JobTurn] = []
        #: jobs that have begun and not ended, without the abandoned ones
        self.jobs: list[JobTurn] = []

    def begin(self, job: JobTurn) -> bool:
        """Give a new job the turn if that is possible at once; say whether it is."""
        holder = self.holder
        if self.ready or (
            holder is not None and (holder.executing or self._state.is_held())
        ):
            return False
        job.executing = 1
        self.jobs.append(job)
        if self._hand_over(job):
            return True
        self.jobs.remove(job)
        if self.holder is job and holder is not None:
            # The process is not like a fresh one: the job that waits goes on in it.
            self._hand_over(holder)
        return False

    def executes(self, job: JobTurn) -> bool:
        """A thread of a job executes if it may: say whether it may."""
        if job.abandoned:
            return False
        job.executing += 1
        if job is self.holder:
            return True
        if job not in self.ready and job.lost is None:
            self.ready.append(job)
        self._next()
        return job is self.holder

    def waits(self, job: JobTurn) -> None:
        """A thread of a job waits, or has ended."""
        job.executing -= 1
        self._next()

    def end(self, job: JobTurn, left: list[str]) -> list[str]:
        """Take note that a job has ended; return what cannot be put right after it.

        Parameters
        ----------
        left
            What it leaves behind. That, too, keeps others from going on here.
        """
        if job.abandoned:
            return []
        self.jobs.remove(job)
        self.holder = None
        problems = self._state.reset()
        if left or problems:
            for other in self.jobs:
                other.lost = (left or problems)[0]
            self.ready.clear()
        self._next()
        return problems

    def abandon(self, job: JobTurn) -> bool:
        """Let a job never go on; False if it has the turn."""
        if job is self.holder:
            return False
        if not job.abandoned:
            job.abandoned = True
            self.jobs.remove(job)
            if job in self.ready:
                self.ready.remove(job)
        return True

    def _next(self) -> None:
        if self.ready and (self.holder is None or not self.holder.executing):
            self._hand_over(self.ready.pop(0))

    def _hand_over(self, job: JobTurn) -> bool:
        """Give a job the turn, in its state; False if a new one would not find its."""
        previous, self.holder = self.holder, job
        if previous is not None and previous in self.jobs:
            try:
                previous.saved = self._state.save()
            except CannotPutBack as error:
                if job.saved is None:  # a new job: it does not begin here
                    self.holder = previous
                    return False
                previous.lost = str(error)
        if job.saved is None:
            return previous is None or not self._state.reset()
        try:
            self._state.restore(job.saved)
        except CannotPutBack as error:
            # It never gets the turn again, and begins in another process.
            job.lost = str(error)
            self.holder = None
            self._state.reset()
            self._next()
        else:
            job.saved = None
        return True


class TurnKeeper:
    """Has the threads of a Seamless process wait for their turn.

    Parameters
    ----------
    state
        What is global in the process; None: see `watch`.
    on_starved
        Called, from any thread, with the id of a job that could go on and has waited
        for its process as long as it had executed before, at least for `PATIENCE`; and
        with the seconds for which it has waited.
    on_stuck
        Called with the id of a job that has the turn and has needed no CPU time for
        half of the time for which it has had it, at least for `PATIENCE`, while an
        abandoned job is there: it may wait for a lock which that one holds.
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
        self._cpu = os.times()

    def forget_all(self) -> None:
        """Start anew in a process that a job has forked."""
        # In the forked process a lock stays taken that another thread had.
        self._changed = threading.Condition()
        #: of each thread: whether it counts as one that executes
        self._thread = threading.local()

    def watch(self, state: State) -> None:
        """Take over what is global in the process, before its first job."""
        self._turns = Turns(state)

    def begin(self, job: JobTurn) -> bool:
        """Let a new job execute in the calling thread if it can do so at once."""
        with self._changed:
            if not self._turns.begin(job):
                return False
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
        """Return the threads that a job has started, and those of all others."""
        with self._changed:
            others = [t for j in self._turns.jobs if j is not job for t in j.threads]
            return list(job.threads), others

    def abandon(self, job_id: str) -> bool:
        """Let a job never go on; False if it has the turn, or is not here."""
        with self._changed:
            for job in self._turns.jobs:
                if job.id == job_id:
                    return self._turns.abandon(job)
            return False

    @contextmanager
    def waiting(self, job: JobTurn | None) -> Iterator[None]:
        """Have the calling thread, of a job, wait: another job may have the turn.

        Parameters
        ----------
        job
            None: nothing is to be done.
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
        """Have the calling thread execute for a job whose other threads may wait."""
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
        """Take note that a job, which executes, is about to start a thread."""
        with self._changed:
            job.threads.add(thread)
            job.executing += 1

    def started(self) -> None:
        """Take note that the calling thread is one of these."""
        self._thread.executes = True

    def ended(self, job: JobTurn, thread: threading.Thread) -> None:
        """Take note that such a thread has ended, or was not started."""
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
        """Wait until a job has the turn. An abandoned one waits here for ever."""
        began = time.monotonic()

        def goes_on() -> bool:
            return self._turns.holder is job

        def goes_on_or_is_lost() -> bool:
            return goes_on() or job.lost is not None

        self._changed.wait_for(goes_on_or_is_lost, max(PATIENCE, job.busy))
        if not goes_on():
            if job.lost is not None:
                logger.warning("A transformation begins again: %s", job.lost)
            self._on_starved(job.id, job.waited + time.monotonic() - began)
            self._stand_by(job)
        job.waited += time.monotonic() - began

    def _stand_by(self, job: JobTurn) -> None:
        """Wait for the turn; an abandoned job looks whether others stand still."""
        seen: JobTurn | None = None
        cpu = since = 0.0
        while self._turns.holder is not job:
            self._changed.wait(PATIENCE)
            holder, now = self._turns.holder, time.monotonic()
            needed = sum(os.times()[:4])
            if not job.abandoned or holder is None or not holder.executing:
                seen = None
            elif holder is not seen or needed > cpu + STANDSTILL_CPU:
                seen, cpu, since = holder, needed, now
            elif now - since > max(PATIENCE, _executed(holder, now) / 2):
                self._on_stuck(holder.id)
                seen = None

    def _clock(self) -> None:
        """Count the time of the job that has the turn; tell those that wait for it."""
        now = time.monotonic()
        holder = self._turns.holder
        if holder is not self._charged:
            self._charge()
            self._charged = holder
            if holder is not None:
                reset_memory_peak()
        for job in self._turns.jobs:
            if job.since is not None:
                job.busy += now - job.since
                job.since = None
            if job is holder and job.executing:
                job.since = now
        self._changed.notify_all()

    def _charge(self) -> None:
        """Count the CPU time and memory of the process for the job that had the turn."""
        before, self._cpu = self._cpu, os.times()
        job = self._charged
        if job is not None:
            cpu = self._cpu
            job.cpu_user += cpu.user - before.user
            job.cpu_user += cpu.children_user - before.children_user
            job.cpu_system += cpu.system - before.system
            job.cpu_system += cpu.children_system - before.children_system
            peak = Status().memory_peak
            if peak is not None:
                job.memory_peak = max(peak, job.memory_peak or 0)


def _executed(job: JobTurn, now: float) -> float:
    return job.busy + (0.0 if job.since is None else now - job.since)

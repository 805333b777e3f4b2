"""Decides which job of a Seamless process has the turn: one executes at a time.

Normally a process has one job. When the pool has no process left, a job whose threads
all wait for nested transformations lets another job execute in its process. Then the
global state of the process (see `seamless_dask.child.state.process`) is saved for the
waiting job, and put back before it goes on; it goes on when the other job has ended, or
waits itself.

This module knows nothing of time and starts no threads; see
`seamless_dask.child.turn_keeper`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, Protocol

from .state.part import CannotPutBack


class State(Protocol):
    """The global state of a process; see `seamless_dask.child.state.process`."""

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
        """Put back the state of a fresh process; return the problems with that."""

    def is_held(self) -> bool:
        """Say whether a waiting job holds resources that no other job may touch."""


@dataclass(eq=False)
class JobTurn:
    """A job of this process."""

    id: str
    #: number of its threads that execute, or are ready to
    executing: int = 0
    #: its state while another job has the turn
    saved: Any = None
    #: why it cannot go on here; None: it can
    lost: str | None = None
    #: whether it never goes on here: it was cancelled, or begins again elsewhere
    abandoned: bool = False
    #: time (monotonic) at which its code has ended; None: it has not
    code_ended: float | None = None
    #: the error of a job whose code has broken its process; None: it has not
    broke: str | None = None
    #: seconds in which it had the turn and executed, up to `since`
    busy: float = 0.0
    #: time (monotonic) since which it has the turn and executes
    since: float | None = None
    #: seconds of CPU time of the process, and of its children, in its turn
    cpu_user: float = 0.0
    cpu_system: float = 0.0
    #: peak memory of the process in its turn, or of its largest child if no job before had
    #: such a large one, in bytes; None: not known
    memory_peak: int | None = None
    #: seconds for which its threads were ready to go on, but waited for the turn
    waited: float = 0.0
    #: what it writes, a `seamless_dask.child.output.JobOutput`; None: nobody looks
    output: Any = None
    #: threads that run its code: that of the job, and those that it has started
    threads: set[threading.Thread] = field(default_factory=set)


class Turns:
    """Decides which job has the turn.

    Parameters
    ----------
    state
        The global state of the process.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        #: the job whose state the process has
        self.holder: JobTurn | None = None
        #: jobs that are ready to go on, in order
        self.ready: list[JobTurn] = []
        #: jobs that have begun and not ended, without the abandoned ones
        self.jobs: list[JobTurn] = []
        #: why no job can begin or go on any more; None: they can
        self.spoiled: str | None = None

    def begin(self, job: JobTurn) -> bool:
        """Give a new job the turn if that is possible at once; say whether it is."""
        holder = self.holder
        if (
            self.spoiled
            or self.ready
            or (holder is not None and (holder.executing or self._state.is_held()))
        ):
            return False
        job.executing = 1
        self.jobs.append(job)
        if self._hand_over(job):
            return True
        self.jobs.remove(job)
        if self.holder is job and holder is not None:
            # The process could not be reset: it is left to the waiting job.
            self._hand_over(holder)
        return False

    def executes(self, job: JobTurn) -> bool:
        """Note that a thread of a job is ready to execute; say whether it may."""
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
        """Note that a thread of a job waits, or has ended."""
        job.executing -= 1
        self._next()

    def end(self, job: JobTurn, left: list[str]) -> list[str]:
        """Note that a job has ended, and reset the process; return the problems.

        Parameters
        ----------
        left
            Threads and processes that it has left running. They, too, prevent other
            jobs from going on here.
        """
        if job.abandoned:
            return []
        self.jobs.remove(job)
        self.holder = None
        problems = self._state.reset()
        if left or problems:
            self.spoiled = (left or problems)[0]
            for other in self.jobs:
                other.lost = self.spoiled
            self.ready.clear()
        self._next()
        return problems

    def abandon(self, job: JobTurn) -> bool:
        """Never resume a job; False if it has the turn."""
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
        """Give a job the turn, in its state; False if a new job cannot get a fresh one."""
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

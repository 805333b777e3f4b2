"""The transformations that a Dask worker executes, and which of them wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distributed.worker_state_machine import SecedeEvent

if TYPE_CHECKING:
    from distributed import Worker


@dataclass(eq=False)
class RunningJob:
    """A transformation that this worker is executing."""

    key: str
    tf_checksum: str
    depth: int
    started: float = field(default_factory=time.monotonic)
    #: nested transformations that it waits for
    pending: int = 0
    #: its calls, also those made in a process that has died: when the transformation
    #: runs again, it repeats them
    requests: set[asyncio.Task[dict[str, Any]]] = field(default_factory=set)
    #: whether Dask has been told that the task waits
    seceded: bool = False


class RunningJobs:
    """The transformations that one Dask worker executes; lives on its event loop.

    Parameters
    ----------
    worker
        The Dask worker.
    jobs_of
        Returns the keys of the tasks that a Seamless process, given by name, runs.
    """

    def __init__(self, worker: Worker, jobs_of: Callable[[str], set[str]]) -> None:
        self._worker = worker
        self._jobs_of = jobs_of
        self._jobs: dict[str, RunningJob] = {}

    def __contains__(self, key: str) -> bool:
        """Whether a task is being executed here; from any thread."""
        return key in self._jobs

    @contextmanager
    def occupied(self, key: str, tf_checksum: str, depth: int) -> Iterator[None]:
        """Count a task as one that executes, so that it may have nested work."""
        if key in self._jobs:
            yield
            return
        self._jobs[key] = running = RunningJob(key, tf_checksum, depth)
        try:
            yield
        except asyncio.CancelledError:
            self._cancel_requests(running)
            raise
        finally:
            del self._jobs[key]

    def callers(self, process: str, owner_key: str | None) -> list[RunningJob]:
        """Return the calling transformation, or all candidates if it is not known.

        If the key is given, no other transformation is a candidate: a call of a
        transformation that has ended or was cancelled must not be attributed to another
        one in the same process. The key is not known for calls from threads that no job
        has started. Then the likeliest candidate comes first: transformations that do
        not wait already come before the others, the latest first.
        """
        if owner_key is not None:
            asking = self._jobs.get(owner_key)
            return [] if asking is None else [asking]
        keys = self._jobs_of(process)
        candidates = [job for job in self._jobs.values() if job.key in keys]
        return sorted(candidates, key=lambda job: (job.pending > 0, -job.started))

    @contextmanager
    def waiting(self, callers: Sequence[RunningJob]) -> Iterator[None]:
        for caller in callers:
            caller.pending += 1
            self.secede(caller)
        try:
            yield
        finally:
            for caller in callers:
                caller.pending -= 1

    def caller_waits(self, process: str | None, key: str | None) -> dict[str, Any]:
        """Note that a transformation waits for a process that it has started.

        Parameters
        ----------
        process
            Name of the Seamless process under which it runs.
        key
            Key of the transformation's task, if that is known.

        Returns
        -------
        dict
            ``key`` (None if it is not known) and ``depth`` of the transformation.
        """
        callers = self.callers(process or "", key)
        for caller in callers:
            self.secede(caller)
        return {
            "key": callers[0].key if callers else None,
            "depth": max((caller.depth for caller in callers), default=0),
        }

    def secede(self, job: RunningJob) -> None:
        """Tell Dask that a task waits, so that other tasks can use its slot.

        The same as `distributed.secede`, which is for tasks that run in threads.
        """
        if job.seceded:
            return
        job.seceded = True
        self._worker.handle_stimulus(
            SecedeEvent(
                key=job.key,
                compute_duration=time.monotonic() - job.started,
                stimulus_id=f"seamless-secede-{time.time()}",
            )
        )

    def _cancel_requests(self, running: RunningJob) -> None:
        """Cancel the nested requests of a task, unless another task shares them."""
        for request in tuple(running.requests):
            others = (r for r in self._jobs.values() if r is not running)
            if not any(request in other.requests for other in others):
                request.cancel()

"""Sends submissions to the scheduler, several as one graph.

A graph costs the client and the scheduler about 0.9 ms, and each further task in it about
0.05 ms. Submissions made in one turn of the event loop therefore share a graph. While the
scheduler holds many tasks back because no slot is free, a task that arrives somewhat later
does not start later, so then submissions are collected for a while.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import dask

from .tasks import Job, run_transformation

if TYPE_CHECKING:
    from distributed import Client, Future

    from .client_loop import ClientLoop
    from .pace import Pace

#: seconds for which submissions are collected while the cluster has enough to do
WINDOW = 0.05
#: tasks that wait for a slot on the scheduler, from which on that is so
ENOUGH = 16
#: tasks in one graph at the most
MOST = 200


class Batches:
    """Collects the submissions of one client; any thread may use it.

    Parameters
    ----------
    client
        The client that submits.
    loop
        Its event loop.
    pace
        Knows how many tasks the scheduler holds back.
    on_failure
        Called with a job that could not be sent, and the reason.
    """

    def __init__(
        self,
        client: Client,
        loop: ClientLoop,
        pace: Pace,
        on_failure: Callable[[Job, Exception], None],
    ) -> None:
        self._client = client
        self._loop = loop
        self._pace = pace
        self._on_failure = on_failure
        self._lock = threading.RLock()
        #: jobs that are not sent yet, with resources, annotations and futures
        self._jobs: list[tuple[Job, dict[str, float], dict[str, str], Future]] = []
        #: whether a call of `flush` is scheduled, and at once
        self._scheduled = self._urgent = False

    def submit(
        self,
        job: Job,
        resources: dict[str, float],
        annotations: dict[str, str],
        future: Future,
    ) -> None:
        """Submit a task without dependencies, soon; or at once, as the last of many.

        Nested work has a slot already, so it is never kept for a while.

        Parameters
        ----------
        job, resources, annotations
            The task.
        future
            That of its key. If it is cancelled by then, the task is not sent.
        """
        with self._lock:
            self._jobs.append((job, resources, annotations, future))
            if len(self._jobs) >= MOST:
                self.flush()
            elif not self._scheduled or (job.depth and not self._urgent):
                self._scheduled = True
                self._urgent = bool(job.depth) or self._pace.held < ENOUGH
                self._loop.call_soon(self._schedule, self._urgent)

    def _schedule(self, urgent: bool) -> None:
        if urgent:
            self.flush()
        else:
            self._loop.asyncio_loop.call_later(WINDOW, self.flush)

    def flush(self) -> None:
        """Send what was collected; later submissions come after it."""
        with self._lock:
            self._scheduled = self._urgent = False
            collected, self._jobs = self._jobs, []
            graphs: dict[Any, list[Job]] = {}
            for job, resources, annotations, future in collected:
                if not future.cancelled():
                    needs = tuple(sorted(resources.items()))
                    kind = job.depth, needs, tuple(sorted(annotations.items()))
                    graphs.setdefault(kind, []).append(job)
            for (depth, needs, notes), jobs in graphs.items():
                self._send(jobs, depth, dict(needs), dict(notes))

    def _send(
        self,
        jobs: list[Job],
        depth: int,
        resources: dict[str, float],
        annotations: dict[str, str],
    ) -> None:
        try:
            # Its futures go at once: those of `submit` keep the tasks.
            with dask.annotate(**annotations):
                self._client.map(
                    run_transformation,
                    jobs,
                    key=[job.key for job in jobs],
                    priority=depth,
                    resources=resources,
                    pure=False,
                )
        except Exception as error:  # noqa: BLE001 - whatever a job contains, or a closed client
            if len(jobs) == 1:
                self._on_failure(jobs[0], error)
                return
            # One of them cannot be sent, which must not concern the others.
            for job in jobs:
                self._send([job], depth, resources, annotations)

"""Scaling on a batch system: carries out what the fleet decides.

Runs on the event loop of the scheduler, once a second: how many workers does the work
need (the policy), what is to be done about it (the fleet), do it (here). Everything that
takes time runs in tasks of its own, each kind at most once at a time.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import Callable, Coroutine
from typing import Any

import dask.config
from dask.utils import parse_timedelta
from distributed.deploy import Adaptive
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.metrics import monotonic

from . import commands
from .adaptive import choose_now
from .dask_config import lifetime_seconds, stagger_seconds
from .ending import ask, make_sure
from .events import News
from .fleet import Actions, Fleet, Gone, Rules
from .parameters import Parameters
from .queues import Queue, UnreadableAnswer
from .scaling import ScalingPolicy
from .submission import Submitter

logger = logging.getLogger(__name__)

#: Most of the life of a worker in which it has a successor already.
LEAD_SHARE = 0.1


def rules(parameters: Parameters, system: str) -> Rules:
    """When patience with jobs ends, by the parameters and Dask's configuration.

    The configuration key ``seamless-dask.queue-interval`` is the least time between two
    questions to the queue.
    """
    defaults = Rules()
    lifetime = lifetime_seconds(parameters, walltime=True)
    if lifetime is not None:  # of the worker that draws the shortest one
        lifetime -= stagger_seconds(parameters)
    death_timeout = dask.config.get(f"jobqueue.{system}.death-timeout", None)
    interval = dask.config.get("seamless-dask.queue-interval", defaults.query)
    return Rules(
        death_timeout=parse_timedelta(death_timeout or defaults.death_timeout),
        query=parse_timedelta(interval),
        lifetime=lifetime,
        lead=min(defaults.lead, (lifetime or 0.0) * LEAD_SHARE),
    )


class _Arrivals(SchedulerPlugin):
    """Tells of workers that come and go."""

    name = "seamless-fleet"

    def __init__(self, adaptive: BatchAdaptive):
        self._adaptive = adaptive
        self._names: dict[str, str] = {}

    def add_worker(self, scheduler: Any, worker: str) -> None:
        name = self._names[worker] = str(scheduler.workers[worker].name)
        self._adaptive.arrived(name, worker)

    def remove_worker(self, scheduler: Any, worker: str, **kwargs: Any) -> None:
        name = self._names.pop(worker, None)
        if name is not None:
            self._adaptive.departed(name, worker)


class BatchAdaptive(Adaptive):
    """Adds and removes jobs of a batch system, so that the workers follow the work.

    `plugin` is the Seamless plugin of the scheduler, `processes` the number of workers
    per job, `on_news` is called on the event loop.
    """

    def __init__(
        self,
        cluster: Any,
        *,
        plugin: Any,
        policy: ScalingPolicy,
        queue: Queue,
        rules: Rules,
        processes: int,
        on_news: Callable[[News], None],
        interval: str,
    ):
        self.fleet = Fleet(rules, logger.info)
        self._plugin = plugin
        self._policy = policy
        self._queue = queue
        self._processes = processes
        self._on_news = on_news
        self._submitter = Submitter(cluster, queue)
        self._tasks: set[asyncio.Task[None]] = set()
        self._asking = False
        self._silent = ""
        self._news = News((), "")
        self._shown: tuple[Any, ...] = ()
        self._dask_scheduler = cluster.scheduler
        cluster.scheduler.add_plugin(_Arrivals(self))
        super().__init__(
            cluster,
            interval=interval,
            minimum=0,
            maximum=math.inf,  # the policy has the bounds
        )

    @property
    def healthy(self) -> bool:
        """Whether no job has failed so far."""
        return not self.fleet.troubled

    # --- events from the scheduler

    def arrived(self, name: str, address: str) -> None:
        """A worker has connected."""
        job_id = self._submitter.job_of(name)
        if job_id is None:
            logger.info("Worker %s at %s is not of a job of ours.", name, address)
            return
        logger.info("Worker %s of job %s connected from %s.", name, job_id, address)
        self.fleet.connected(job_id, address, monotonic())

    def departed(self, name: str, address: str) -> None:
        """A worker is gone."""
        job_id = self._submitter.job_of(name)
        if job_id is not None:
            logger.info("Worker %s of job %s is gone.", name, job_id)
            self.fleet.disconnected(job_id, address, monotonic())

    # --- once a second

    async def adapt(self) -> None:
        """Decide, and start what follows from it; does not wait for it."""
        fleet = self.fleet
        now = monotonic()
        fleet.leave(self._plugin.leaves)
        have = (len(fleet.live(now)) + fleet.submitting) * self._processes
        workers, reason = self._policy.decide(self._plugin.demand(), have, now)
        wanted = math.ceil(workers / self._processes)
        if wanted != fleet.wanted:
            logger.info("Wanted jobs: %d, before %d: %s", wanted, fleet.wanted, reason)
            self._plugin.scaling.decided(
                fleet.wanted * self._processes,
                wanted * self._processes,
                reason,
                time.time(),
            )
            fleet.wanted = wanted
        self._carry_out(fleet.step(now, self._free(now)))
        self._tell(now)

    def _free(self, now: float) -> list[str]:
        """Jobs that are more than wanted, and whose workers all may end."""
        live = self.fleet.live(now)
        surplus = len(live) - self.fleet.wanted
        if surplus <= 0:
            return []
        return choose_now(
            self._dask_scheduler,
            self._plugin,
            {job.id: list(job.workers) for job in live if job.workers},
            surplus,
        )

    def _carry_out(self, actions: Actions) -> None:
        if actions.submit:
            self._run(self._submit(actions.submit))
        if actions.cancel:
            for job_id, why in actions.cancel.items():
                logger.info("Cancelling job %s: %s.", job_id, why)
            self._run(self._cancel(list(actions.cancel)))
        for job_id in actions.retire:
            logger.info("Job %s is no longer needed, its workers retire.", job_id)
            self._run(self._retire(job_id))
        if actions.query and not self._asking:
            self._run(self._ask())

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("Scaling: a step failed", exc_info=task.exception())

    # --- what takes time

    async def _submit(self, count: int) -> None:
        """Submit jobs one after the other; a failure ends the row."""
        for done in range(count):
            try:
                job_id = await self._submitter.submit(self.fleet.nodes.excluded)
            except (commands.CommandFailed, ValueError) as error:
                self.fleet.withdrawn(count - done - 1)
                self.fleet.refused(str(error), monotonic())
                return
            logger.info("Submitted job %s.", job_id)
            self.fleet.submitted(job_id, monotonic())
            self._tell(monotonic())

    async def _cancel(self, job_ids: list[str]) -> None:
        """Cancel jobs; what is still in the queue at the next look is cancelled again."""
        try:
            result = await commands.run(self._queue.cancel_command(job_ids))
        except commands.CommandFailed as error:
            logger.warning("Cancelling jobs %s: %s", ", ".join(job_ids), error)
            return
        said = (result.errors.strip() or result.output.strip())[:500]
        if result.code and not re.search(self._queue.too_late, said):
            logger.warning("Cancelling jobs %s: %s", ", ".join(job_ids), said)

    async def _retire(self, job_id: str) -> None:
        """Let the workers of a job finish what they run, then end it."""
        addresses = list(self.fleet.jobs[job_id].workers)
        retired = await self._plugin.retire(addresses)
        job = self.fleet.jobs.get(job_id)
        if job is not None and self.fleet.retired(
            job_id, monotonic(), kept=not retired
        ):
            await self._cancel([job_id])

    async def _ask(self) -> None:
        """Ask the queue about all jobs."""
        self._asking = True
        asked_at = monotonic()
        try:
            rows = await ask(self._queue, self.fleet.jobs)
        except (commands.CommandFailed, UnreadableAnswer) as error:
            if str(error) != self._silent:  # not every half minute
                self._silent = str(error)
                logger.warning("The queue cannot be asked: %s", error)
            return
        finally:
            self._asking = False
        if self._silent:
            self._silent = ""
            logger.info("The queue answers again.")
        for gone in self.fleet.answered(rows, asked_at, monotonic()):
            self._bury(gone)

    def _bury(self, gone: Gone) -> None:
        self._submitter.forget(gone.job.id)
        if gone.infrastructure:
            for address in gone.job.lost:
                self._plugin.forgive(address)

    # --- what others are told

    def _tell(self, now: float) -> None:
        """Pass on what has changed."""
        fleet = self.fleet
        backoff = max(fleet.refusals, fleet.misfits, key=lambda b: b.retry_at)
        shown = (
            fleet.counts(),
            backoff.reason,
            backoff.failures,
            tuple(fleet.nodes.excluded),
        )
        if shown != self._shown:
            self._shown = shown
            offset = time.time() - now
            self._plugin.scaling.update(
                jobs=fleet.counts(),
                submission_error=None
                if not backoff.failures
                else {
                    "time": time.time(),
                    "message": backoff.reason,
                    "retry_at": backoff.retry_at + offset,
                    "failures": backoff.failures,
                },
                excluded_nodes={
                    node: {
                        "until": exclusion.until + offset,
                        "reason": exclusion.reason,
                    }
                    for node, exclusion in fleet.nodes.excluded.items()
                },
            )
        news = News(tuple(fleet.jobs), backoff.reason)
        if news != self._news:
            self._news = news
            self._on_news(news)

    # --- the end

    async def end(self, seconds: float) -> list[str]:
        """Cancel all jobs and look whether they have gone.

        Takes no longer than about `seconds`. Returns the jobs that may be left, because
        the queue has them still, or could not be asked.
        """
        self.stop(reason="the cluster ends")
        deadline = monotonic() + seconds
        if self._tasks:  # a submission under way has a job id to tell
            await asyncio.wait(set(self._tasks), timeout=seconds / 4)
        for task in self._tasks:
            task.cancel()
        left = self.fleet.cancel_all()
        if not left:
            return []
        logger.info("Cancelling all jobs: %s.", ", ".join(left))
        return await make_sure(self._queue, left, deadline)

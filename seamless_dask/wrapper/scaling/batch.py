"""Scaling on a batch system: carries out the decisions of the fleet.

Runs on the event loop of the scheduler, once a second: the policy computes how many
workers the work needs, the fleet decides what to do, and this module does it. Steps that
take time run in asyncio tasks of their own, each kind at most once at a time.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any

import dask.config
from distributed.deploy import Adaptive
from distributed.metrics import monotonic

from ..events import News
from ..jobs import commands
from ..jobs.cancellation import ask, cancel, make_sure, search
from ..jobs.queues import Queue, UnreadableAnswer
from ..jobs.signs_of_life import Signs
from ..jobs.submission import Refused, Submitter
from ..settings.dask_config import lifetime_seconds, stagger_seconds
from ..settings.durations import parse_duration
from ..settings.parameters import Parameters
from .arrivals import Arrivals
from .fleet import Actions, Fleet, Gone, Rules
from .local import choose_now
from .policy import ScalingPolicy

logger = logging.getLogger(__name__)

#: Largest part of a worker's life during which it may already have a successor.
LEAD_SHARE = 0.1


def rules(parameters: Parameters, system: str) -> Rules:
    """The time limits for jobs, from the parameters and Dask's configuration.

    The configuration key ``seamless-dask.queue-interval`` is the least time between two
    questions to the queue, ``seamless-dask.queue-delay`` how long it may not show a job.
    """
    defaults = Rules()
    lifetime = lifetime_seconds(parameters, walltime=True)
    if lifetime is not None:  # the shortest one that a worker may draw
        lifetime -= stagger_seconds(parameters)
    key = f"jobqueue.{system}.death-timeout"
    death_timeout = dask.config.get(key, None)
    interval = dask.config.get("seamless-dask.queue-interval", defaults.query)
    hidden = parse_duration(
        dask.config.get("seamless-dask.queue-delay", defaults.hidden)
    )
    return Rules(
        maximum=parameters.maximum_jobs,
        death_timeout=parse_duration(death_timeout or defaults.death_timeout),
        death_timeout_key=key,
        query=parse_duration(interval),
        hidden=hidden,
        unseen=2 * hidden,
        lifetime=lifetime,
        lead=min(defaults.lead, (lifetime or 0.0) * LEAD_SHARE),
    )


class BatchAdaptive(Adaptive):
    """Adds and removes jobs of a batch system, so that the workers follow the work.

    `plugin` is the Seamless plugin of the scheduler, `processes` the number of workers
    per job, `on_news` is called on the event loop, `signs` watches the output of jobs
    before their workers connect.
    """

    #: The last fault that was logged.
    _fault = ""

    def __init__(
        self,
        cluster: Any,
        *,
        plugin: Any,
        policy: ScalingPolicy,
        queue: Queue,
        rules: Rules,
        signs: Signs,
        processes: int,
        on_news: Callable[[News], None],
        interval: str,
    ):
        self.fleet = Fleet(rules, logger.info)
        self._plugin = plugin
        self._policy = policy
        self._signs = signs
        self._processes = processes
        self._on_news = on_news
        self._submitter = Submitter(cluster, queue)
        self._tasks: set[asyncio.Task[None]] = set()
        self._asking = False
        self._searching = False
        self._looking = False
        self._silent = ""
        self._news = News((), "")
        self._shown: tuple[Any, ...] = ()
        self._dask_scheduler = cluster.scheduler
        cluster.scheduler.add_plugin(Arrivals(self.arrived, self.departed))
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
        """Decide, and start the resulting actions, without waiting for them."""
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
        actions = fleet.step(now, self._free(now))
        self._tell(now)  # the guard must know of a submission before it is made
        self._carry_out(actions)

    def _free(self, now: float) -> list[str]:
        """Surplus jobs whose workers may all end."""
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
        if actions.search and not self._searching:
            self._run(self._search())
        if not self._looking:
            self._run(self._look_for_life())

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._explain(error)

    def _explain(self, error: BaseException) -> str:
        """The text of an error. One that nobody expects is logged, but not every second."""
        if isinstance(error, (Refused, commands.CommandFailed)):
            return str(error)
        said = f"{type(error).__name__}: {error}"
        if said != self._fault:
            self._fault = said
            logger.error("Scaling: a step failed", exc_info=error)
        return said

    # --- actions that take time

    async def _submit(self, count: int) -> None:
        """Submit jobs one after the other, until one fails."""
        for done in range(count):
            try:
                await self._submitter.submit(self.fleet.nodes.excluded)
            except Exception as error:  # noqa: BLE001 - or no job is submitted ever again
                self.fleet.withdrawn(count - done - 1)
                # a fault may be anywhere, also after the batch system has taken the job
                doubtful = not isinstance(error, Refused) or error.doubtful
                why = self._explain(error)
                self.fleet.refused(why, monotonic(), doubtful=doubtful)
                self._tell(monotonic())
                return
            job = self._submitter.last
            if job.impossible:
                why = (
                    f"the batch system takes no job that avoids them: {job.impossible}"
                )
                self.fleet.nodes.give_up(why, monotonic())
            certain = self.fleet.submitted(job.id, monotonic(), job.avoids)
            if certain:
                logger.info("Submitted job %s.", job.id)
            else:
                self._submitter.doubt()
                self.fleet.withdrawn(count - done - 1)
            self._tell(monotonic())
            if not certain:
                return

    async def _cancel(self, job_ids: list[str]) -> None:
        """Cancel jobs; jobs that stay in the queue are cancelled again later."""
        try:
            said = await cancel(self._submitter.queue, job_ids)
        except Exception as error:  # noqa: BLE001 - whatever it is, they may go on
            said = self._explain(error)
        if said:
            logger.warning("Cancelling jobs %s: %s", ", ".join(job_ids), said)
            self.fleet.not_cancelled(job_ids)

    async def _retire(self, job_id: str) -> None:
        """Let the workers of a job finish their tasks, then end the job."""
        job = self.fleet.jobs.get(job_id)
        if job is None:  # it has just ended
            return
        try:
            retired = await self._plugin.retire(list(job.workers))
        except Exception as error:  # noqa: BLE001 - or the job counts as one that leaves
            logger.info("Job %s stays: %s", job_id, self._explain(error))
            retired = False
        if self.fleet.retired(job_id, monotonic(), kept=not retired):
            await self._cancel([job_id])

    async def _ask(self) -> None:
        """Ask the queue about all jobs."""
        self._asking = True
        asked_at = monotonic()
        try:
            rows = await ask(self._submitter.queue, self.fleet.jobs)
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

    async def _search(self) -> None:
        """Search the queue for jobs by name: there may be some that the fleet lacks."""
        self._searching = True
        asked_at = monotonic()
        try:
            rows = await search(self._submitter.queue)
        except (commands.CommandFailed, UnreadableAnswer) as error:
            if self.fleet.suspicion:
                logger.warning("The queue cannot be searched: %s", error)
            return
        finally:
            self._searching = False
        self._submitter.found(self.fleet.searched(rows, asked_at, monotonic()))

    async def _look_for_life(self) -> None:
        """Check whether the scripts of jobs without a worker make progress."""
        self._looking = True
        try:
            waiting = [
                job.id
                for job in self.fleet.jobs.values()
                if job.alone_since is not None
            ]
            for job_id in await self._signs.look(waiting, monotonic()):
                self.fleet.alive(job_id, monotonic())
        finally:
            self._looking = False

    def _bury(self, gone: Gone) -> None:
        self._submitter.forget(gone.job.id)
        if gone.infrastructure:
            for address in gone.job.lost:
                self._plugin.forgive(address)

    # --- reports

    def _tell(self, now: float) -> None:
        """Report changes to the scheduler plugin and to the main thread."""
        fleet = self.fleet
        oldest = min(
            (
                job.connected_at
                for job in fleet.jobs.values()
                if job.workers and job.connected_at is not None
            ),
            default=None,
        )
        backoff = max(fleet.refusals, fleet.misfits, key=lambda b: b.retry_at)
        shown = (
            fleet.counts(),
            fleet.pending_reasons(),
            backoff.reason,
            backoff.failures,
            tuple(fleet.nodes.excluded),
            oldest,
        )
        if shown != self._shown:
            self._shown = shown
            offset = time.time() - now
            self._plugin.scaling.update(
                jobs=fleet.counts(),
                pending_reasons=fleet.pending_reasons(),
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
                oldest_job=None if oldest is None else oldest + offset,
            )
        news = News(
            tuple({**fleet.unproved, **dict.fromkeys(fleet.jobs)}),
            backoff.reason,
            unseen=tuple(fleet.unseen()),
            doubtful=fleet.rules.hidden if fleet.submitting or fleet.suspicion else 0.0,
            job_name=self._submitter.queue.job_name,
            options=self._submitter.queue.options,
        )
        if news != self._news:
            self._news = news
            self._on_news(news)

    # --- the end

    async def end(self, seconds: float) -> News:
        """Cancel all jobs and check whether they have gone.

        Takes no longer than about `seconds`. Returns the jobs that may be left, because
        the queue still has them, or did not answer.
        """
        self.stop(reason="the cluster ends")
        deadline = monotonic() + seconds
        if self._tasks:  # a submission under way may still return a job id
            await asyncio.wait(set(self._tasks), timeout=seconds / 4)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        queue = self._submitter.queue
        farewell = self.fleet.farewell(monotonic())
        if self.fleet.adopted_at == -math.inf and not farewell.doubtful:
            return News((), "")
        logger.info(
            "Cancelling all jobs: %s.", ", ".join(farewell.left) or "none is known"
        )
        left = await make_sure(queue, farewell.left, deadline, farewell)
        return News(
            tuple(left),
            "",
            unseen=tuple(farewell.unseen),
            doubtful=self.fleet.rules.hidden if farewell.doubtful else 0.0,
            job_name=queue.job_name,
            options=queue.options,
        )

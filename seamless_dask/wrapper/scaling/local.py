"""Scaling on one machine: starts and ends the workers of a LocalCluster.

Runs on the event loop of the scheduler, once a second. The policy decides how many workers
the work needs; this module decides which of them may end.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from distributed import Nanny
from distributed.core import Status
from distributed.deploy import Adaptive
from distributed.metrics import monotonic

from .backoff import Backoff
from .policy import ScalingPolicy

logger = logging.getLogger(__name__)

_Job = TypeVar("_Job")

#: Bounds of the pause after workers that could not start, in seconds.
PAUSE = (5.0, 300.0)
#: How long a process of a worker may take to start, in seconds. File systems can be
#: slow; but Dask starts no other worker meanwhile.
START_SECONDS = 300.0
#: Time between two checks for those that take longer, while Dask is waited for, in seconds.
CHECK_PAUSE = 1.0
#: States of a nanny in which a worker that is gone will not come back.
ENDED = {Status.closing_gracefully, Status.closing, Status.closed, Status.failed}

#: States of a nanny that has ended itself.
GONE = {Status.closed, Status.failed}
#: Time between two checks for starting workers while the cluster closes, in seconds.
END_PAUSE = 0.1


def choose(
    jobs: Mapping[_Job, Sequence[str]],
    free: Collection[str],
    number: int,
    results: Collection[str] = (),
) -> list[_Job]:
    """Choose up to `number` jobs to end, the first ones first.

    `jobs` has the connected workers of each job; a job is chosen only if all of them are
    `free`. If every job would end, one that holds `results` stays, because no other
    worker could take them over.
    """
    able = [job for job, workers in jobs.items() if set(workers) <= set(free)]
    chosen = able[: max(0, number)]
    if len(chosen) == len(jobs):
        holding = [job for job in chosen if set(jobs[job]) & set(results)]
        if holding:
            chosen.remove(holding[-1])
    return chosen


def choose_now(
    scheduler: Any, plugin: Any, jobs: Mapping[_Job, Sequence[str]], number: int
) -> list[_Job]:
    """Choose jobs to end by the current state of their workers; see `choose`."""
    known = list(scheduler.workers.values())
    idle = plugin.valid_workers_downscaling(scheduler, known)
    return choose(
        jobs,
        {ws.address for ws in idle},
        number,
        {ws.address for ws in known if ws.has_what},
    )


class LocalNanny(Nanny):
    """A nanny whose start may be given up, and then ends without an error.

    For Dask it would be one, with a traceback in the log.
    """

    #: Set before the process of its worker is killed.
    given_up = False

    async def start_unsafe(self) -> LocalNanny:
        """Start the worker; if the start was given up, return when all is closed."""
        try:
            await super().start_unsafe()
        except Exception as error:
            if not self.given_up:
                raise
            logger.info("Worker %s was not started: %s", self.name, error)
            await self.close()
        return self


class LocalAdaptive(Adaptive):
    """Adds and ends workers, so that their number follows the work.

    `plugin` is the Seamless plugin of the scheduler. The bounds are those of the policy.
    """

    #: A LocalCluster, whose scheduler is in this process.
    cluster: Any

    def __init__(
        self,
        cluster: Any,
        *,
        plugin: Any,
        policy: ScalingPolicy,
        interval: str,
        minimum: int = 0,
        maximum: float = math.inf,
    ):
        self._plugin = plugin
        self._policy = policy
        self._wanted = 0
        #: Names of workers that have had a nanny.
        self._kept: set[Any] = set()
        #: {id of a starting worker process: when it was first seen}
        self._seen: dict[int, float] = {}
        #: Names of workers that have connected.
        self._connected: set[Any] = set()
        #: Starts of workers that failed.
        self._starts = Backoff(*PAUSE)
        self._starting: asyncio.Task[None] | None = None
        #: Ends workers that start while the cluster closes.
        self._ending: asyncio.Task[None] | None = None
        #: {name of a worker that finishes its tasks: whether it has ended}
        self._retiring: dict[Any, asyncio.Task[bool]] = {}
        #: Why the last start failed, until `_clear_away` has handled it.
        self._start_error = ""
        if cluster.new_spec["cls"] is Nanny:
            cluster.new_spec["cls"] = LocalNanny
        super().__init__(
            cluster, interval=interval, minimum=minimum, maximum=maximum, wait_count=1
        )

    async def adapt(self) -> None:
        """Decide, and carry out the decision; one call at a time."""
        if self._adapting:
            return
        self._adapting = True
        try:
            await self._step()
        finally:
            self._adapting = False

    async def _step(self) -> None:
        now = monotonic()
        self._end_stuck(now)
        await self._end_retired()
        await self._clear_away(now)
        staying = self._staying()
        have = len(staying)
        wanted, reason = self._policy.decide(self._plugin.demand(), have, now)
        if wanted != self._wanted:
            logger.info("Workers: %d -> %d: %s", self._wanted, wanted, reason)
            self._plugin.scaling.decided(self._wanted, wanted, reason, time.time())
            self._wanted = wanted
        if wanted < have:
            await self._end(staying, have - wanted)
        elif wanted > have and now >= self._starts.retry_at:
            there = len(self.cluster.worker_spec)
            if there > have:
                logger.info("Replacing workers: %d leave.", there - have)
            self.cluster.scale(there + wanted - have)
            if self._starting is None or self._starting.done():
                self._starting = asyncio.create_task(self._watch_start())

    async def _watch_start(self) -> None:
        """Wait until the workers have started, because scaling does not wait."""
        try:
            await self.cluster
        except Exception as error:  # noqa: BLE001 - any error of a worker; shown later
            self._start_error = f"{type(error).__name__}: {error}"

    def stop(self, reason: str = "unknown") -> None:
        """Stop scaling, and end workers that are starting.

        `distributed` calls this when the cluster closes; without it the cluster would wait
        for all starts to end.
        """
        ends = self.state == "running" and self.cluster.status == Status.closing
        super().stop(reason)
        for task in self._retiring.values():
            task.cancel()
        if ends:
            self._ending = asyncio.ensure_future(self._end_starts())

    async def _end_starts(self) -> None:
        while any(keeper.status not in GONE for keeper in self.cluster._created):
            for keeper in self.cluster._created:
                keeper.given_up = True
            for pid in self._starting_processes():
                logger.info("The process %d of a worker starts too late.", pid)
                os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(END_PAUSE)

    def _starting_processes(self) -> set[int]:
        processes = [
            getattr(keeper, "process", None) for keeper in tuple(self.cluster._created)
        ]
        return {
            process.pid
            for process in processes
            if process is not None and process.status == Status.starting
        } - {None}

    def _end_stuck(self, now: float) -> None:
        """Kill worker processes whose start does not end.

        Their nannies, which would wait for ever, start others.
        """
        starting = self._starting_processes()
        self._seen = {pid: self._seen.get(pid, now) for pid in starting}
        for pid, since in self._seen.items():
            if now - since > START_SECONDS:
                logger.warning(
                    "The process %d of a worker has not started within %.0f s: killing "
                    "it.",
                    pid,
                    now - since,
                )
                os.kill(pid, signal.SIGKILL)

    async def _clear_away(self, now: float) -> None:
        """Forget workers that have ended, and count starts that failed."""
        cluster = self.cluster
        aliases = cluster.scheduler.aliases
        connected = {name for name in cluster.worker_spec if name in aliases}
        if connected - self._connected and self._starts.failures:
            self._starts.worked()
            self._tell(None)
        self._connected |= connected
        ended = [
            name
            for name, each in cluster.workers.items()
            if each.status in ENDED and name not in aliases
        ]
        # workers that did not come back in time, see LOST_WORKER in `dask_config`
        ended += [
            name
            for name in cluster.worker_spec
            if name in self._kept
            and name not in cluster.workers
            and name not in aliases
        ]
        self._kept = set(cluster.workers)
        if self._start_error:  # workers may have no nanny object at all
            ended += [
                name
                for name in cluster.worker_spec
                if name not in cluster.workers and name not in ended
            ]
        # those that finish their tasks are expected to end, see `_end_retired`
        ended = [name for name in ended if name not in self._retiring]
        if not ended:
            return
        failed = set(ended) - self._connected
        cause = f" ({self._start_error})" if self._start_error else ""
        why = f"workers {_names(ended)} ended before they connected{cause}"
        self._start_error = ""
        if failed and self._starts.failed(why, now):
            pause = self._starts.retry_at - now
            logger.warning(
                "Not started: %s, failure %d in a row; the next try is in %.0f s. More "
                "is in the lines above.",
                why,
                self._starts.failures,
                pause,
            )
            self._tell(
                {
                    "time": time.time(),
                    "message": why,
                    "retry_at": time.time() + pause,
                    "failures": self._starts.failures,
                }
            )
        elif not failed:
            logger.info("Workers %s have ended.", _names(ended))
        await self._forget(ended)

    async def _forget(self, names: list[Any]) -> None:
        """End workers for good; Dask may give their names to others.

        Dask also waits for all workers that start.
        """
        self._connected.difference_update(names)
        ending = asyncio.ensure_future(self.cluster.scale_down(names))
        while not (await asyncio.wait({ending}, timeout=CHECK_PAUSE))[0]:
            self._end_stuck(monotonic())
        await ending

    def _tell(self, error: dict[str, Any] | None) -> None:
        self._plugin.scaling.update(jobs={}, submission_error=error, excluded_nodes={})

    def _staying(self) -> dict[Any, str | None]:
        """The addresses of all workers, present or starting, that do not leave.

        A worker that is not connected has the address None.
        """
        scheduler = self.cluster.scheduler
        addresses = {name: scheduler.aliases.get(name) for name in self.plan}
        return {
            name: address
            for name, address in addresses.items()
            if name not in self._retiring
            and (address is None or not self._plugin.leaves(address))
        }

    async def _end(self, staying: Mapping[Any, str | None], surplus: int) -> None:
        """End workers: first those that are not connected, then those that are free.

        The latter have tasks of their own for that: what one of them has been given a
        moment ago may last for hours.
        """
        scheduler = self.cluster.scheduler
        connected = {name: [at] for name, at in staying.items() if at is not None}
        ending = [name for name in staying if name not in connected][:surplus]
        number = surplus - len(ending)
        for name in choose_now(scheduler, self._plugin, connected, number):
            retire = self._retire(name, connected[name])
            self._retiring[name] = asyncio.ensure_future(retire)
        if ending:
            logger.info("Ending workers %s.", _names(ending))
            await self._forget(ending)

    async def _retire(self, name: Any, addresses: list[str]) -> bool:
        """Let a worker finish its tasks and end; return whether it has ended."""
        try:
            return bool(await self._plugin.retire(addresses))
        except Exception as error:  # of Dask; the worker goes on
            logger.error("Scaling: a step failed; %s stays", name, exc_info=error)
            return False

    async def _end_retired(self) -> None:
        """Forget the workers that have finished their tasks and have ended."""
        done = [name for name, task in self._retiring.items() if task.done()]
        ended = [name for name in done if self._retiring.pop(name).result()]
        # a worker that was lost meanwhile may be back under its name
        aliases = self.cluster.scheduler.aliases
        ended = [name for name in ended if name not in aliases]
        if ended:
            logger.info("Ending workers %s.", _names(ended))
            await self._forget(ended)


def _names(names: Collection[Any]) -> str:
    return ", ".join(map(str, names))

"""Turns a Dask worker into one that runs Seamless transformations."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

from dask.system import CPU_COUNT
from distributed import Client, Worker
from distributed.diagnostics.plugin import WorkerPlugin

from scheduler_ext import messages, reports
from scheduler_ext.sent_messages import keep_few
from scheduler_ext.task_keys import NESTED_RESOURCE, NESTED_SUPPLY, TOP_LEVEL_RESOURCE

from ..child.cores import cores_of_job, threads_per_transformation
from ..cluster import private_directories
from ..cluster.environment import (
    REMOTE_CLIENTS_ENV,
    SCHEDULER_ENV,
    SELECTION_ENV,
    THREADS_ENV,
    WORKER_ENV,
    WORKERS_ENV,
)
from ..cluster.record_mode import set_in_this_process
from ..cluster.selection import select
from ..neighbours.check import check
from ..neighbours.names import Where
from ..submit.tasks import WORKER_PLUGIN

if TYPE_CHECKING:
    from ..submit.submitter import Submitter
    from .task_runner import TaskRunner

logger = logging.getLogger(__name__)

#: transformations that a worker lets begin, as a multiple of its slots: those that
#: execute, those whose results are being stored, and drivers
ROOM = 3
#: units with which a worker has one top-level transformation at a time
EXCLUSIVE = 1.0


class SeamlessWorkerPlugin(WorkerPlugin):
    """Runs a pool of Seamless processes in each Dask worker.

    On setup it configures the remote clients, starts the processes, gives the worker
    its units for top-level work and registers the worker with the permission manager
    in the scheduler. On teardown everything ends within two seconds.

    Parameters
    ----------
    processes
        Seamless processes per Dask worker.
    remote_clients
        Hashservers and databases, see
        ``seamless_config.extern_clients.collect_remote_clients``. None: this process
        has its own configuration already, or none.
    record
        Whether executions leave full records.
    selection
        Cluster and queue of the worker, see `seamless_dask.cluster.selection.current`.
    """

    name = WORKER_PLUGIN

    def __init__(
        self,
        processes: int,
        remote_clients: Mapping[str, Any] | None = None,
        *,
        record: bool = False,
        selection: Mapping[str, Any] | None = None,
    ) -> None:
        if processes < 1:
            raise ValueError(f"processes: got {processes!r}, allowed is 1 or more")
        self.processes = processes
        self.remote_clients = None if remote_clients is None else dict(remote_clients)
        self.record = record
        self.selection = None if selection is None else dict(selection)

    def __getstate__(self) -> dict[str, Any]:
        return {
            "processes": self.processes,
            "remote_clients": self.remote_clients,
            "record": self.record,
            "selection": self.selection,
        }

    async def setup(self, worker: Worker) -> None:
        """Make the worker ready; tasks that need it wait until it is."""
        loop = asyncio.get_running_loop()
        self._runner: asyncio.Future[TaskRunner] = loop.create_future()
        try:
            runner = await self._start(worker)
        except BaseException as error:
            # Tasks that reach this worker report the error. It is retrieved here, so
            # that asyncio does not log it as never retrieved.
            self._runner.set_exception(
                RuntimeError(f"Seamless did not start in {worker.address}: {error!r}")
            )
            self._runner.exception()
            raise
        self._runner.set_result(runner)
        logger.info(
            "Seamless worker %s: %d processes, throttle %d",
            worker.address,
            self.processes,
            self._throttle(runner),
        )

    async def _start(self, worker: Worker) -> TaskRunner:
        check(Where.WORKER | Where.CHILD)  # its Seamless processes use these packages
        private_directories.protect(worker.local_directory)
        # These start threads and raise resource limits, so not at import.
        from ..pool.pool import Pool
        from .dask_figures import forget_figures
        from .task_runner import TaskRunner
        from .usage import TreeUsage

        if self.remote_clients is not None:
            _configure_remote_clients(self.remote_clients)
        if self.selection is not None:
            select(self.selection)
        set_in_this_process(self.record)
        _stop_profiling(worker)
        keep_few(worker.batched_stream)
        submitter = await self._submitter(worker)
        # The Seamless processes are forked from a process that inherits the variable.
        os.environ[THREADS_ENV] = str(self._library_threads(worker))
        pool = Pool.of_this_process(
            self.processes, self._environment(worker), worker.local_directory
        )
        runner = TaskRunner(worker, submitter, pool)
        await asyncio.to_thread(pool.join, runner)
        usage = TreeUsage()

        def figures(worker: Worker) -> Any:
            forget_figures(worker)
            return usage.figures(pool.alive)

        worker.metrics[reports.METRICS] = figures
        if self.remote_clients is not None:
            from seamless.caching.buffer_cache import get_buffer_cache

            await get_buffer_cache().start_eviction_loop()
        await self._register(worker, runner)
        if worker.nanny is not None:  # without one, it may be in a user's process
            gc.collect()
            gc.freeze()  # garbage collections then skip all imported objects
        return runner

    def _library_threads(self, worker: Worker) -> int:
        """How many threads the libraries of one transformation may use."""
        from seamless_transformer.worker import TRANSFORMATION_THROTTLE

        slots = self.processes * TRANSFORMATION_THROTTLE
        exclusive = _configured(worker).units == EXCLUSIVE
        cores = cores_of_job(os.environ, CPU_COUNT)
        return threads_per_transformation(
            cores=cores if exclusive else min(cores, slots),
            slots=slots,
            threads=_configured(worker).threads,
            exclusive=exclusive,
        )

    def _throttle(self, runner: TaskRunner) -> int:
        return runner.pool.throttle

    async def _submitter(self, worker: Worker) -> Submitter:
        from ..neighbours import client_process
        from ..submit.submitter import Submitter
        from ..transformer_client import (
            get_seamless_dask_client,
            set_seamless_dask_client,
        )

        self._own_client: Client | None = None
        # A synchronous client, for other threads. It shares the worker's loop, so that
        # nested work changes threads less often, and is made in a thread because its
        # creation waits for that loop.
        self._own_client = await asyncio.to_thread(
            Client,
            worker.scheduler.address,
            loop=worker.loop,
            set_as_default=False,
            security=worker.security,
            name="seamless-worker",
        )
        client_process.prepare(worker=True)
        submitter = Submitter(
            self._own_client, role="worker", local_results=worker.data.get
        )
        # In a dummy scheduler's process the driver script's client is set, or will be.
        if get_seamless_dask_client() is None:
            set_seamless_dask_client(submitter)
        return submitter

    def _environment(self, worker: Worker) -> dict[str, str]:
        environment = {
            SCHEDULER_ENV: worker.scheduler.address,
            WORKER_ENV: worker.address,
            WORKERS_ENV: str(self.processes),
            THREADS_ENV: os.environ[THREADS_ENV],
        }
        if self.remote_clients is not None:
            environment[REMOTE_CLIENTS_ENV] = json.dumps(self.remote_clients)
        if self.selection is not None:
            environment[SELECTION_ENV] = json.dumps(self.selection)
        return environment

    async def _register(self, worker: Worker, runner: TaskRunner) -> None:
        throttle = self._throttle(runner)
        slots = self.processes * throttle
        state, configured = worker.state, _configured(worker)
        # The scheduler knows which transformation has a slot; the worker holds back none
        # of those that it gets, except in exclusive mode.
        state.nthreads = max(configured.threads, ROOM * slots)
        ours = {NESTED_RESOURCE: NESTED_SUPPLY}
        if configured.units != EXCLUSIVE:
            ours[TOP_LEVEL_RESOURCE] = NESTED_SUPPLY
        # Set them here first: the scheduler may send a task as soon as it knows them.
        for name, amount in ours.items():
            state.available_resources[name] = amount - (
                state.total_resources.get(name, 0.0)
                - state.available_resources.get(name, 0.0)
            )
            state.total_resources[name] = amount
        units = float(slots) if configured.units is None else configured.units
        arguments = messages.registration(
            cast(str, worker.contact_address),
            processes=self.processes,
            throttle=throttle,
            units=configured.units,
            resources={**state.total_resources, TOP_LEVEL_RESOURCE: units},
        )
        register = getattr(worker.scheduler, messages.OP_REGISTER_WORKER)
        answer = await register(**arguments)
        if answer is None or answer.get("status") != "ok":
            raise RuntimeError(
                f"The scheduler did not register worker {worker.address}: {answer}"
            )

    def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
        """Stop an executing task when Dask releases it; called for every state change.

        Dask releases an executing task when no client wants its result any more, but
        lets it run to its end.
        """
        if finish == "released" and start in ("executing", "long-running"):
            if self._runner.done() and self._runner.exception() is None:
                self._runner.result().cancel([key])

    async def runner(self) -> TaskRunner:
        """Return the `TaskRunner` of this worker, once it is ready.

        Raises
        ------
        RuntimeError
            If Seamless did not start here; the message says why.
        """
        return await asyncio.shield(self._runner)

    async def teardown(self, worker: Worker) -> None:
        """End the processes, and the client if it is ours."""
        from ..transformer_client import (
            get_seamless_dask_client,
            set_seamless_dask_client,
        )

        if self._runner.done() and self._runner.exception() is None:
            runner = self._runner.result()
            worker.metrics.pop(reports.METRICS, None)
            runner.close()
            await runner.pool.leave(runner)
            if get_seamless_dask_client() is runner.submitter:
                set_seamless_dask_client(None)
        client = self._own_client
        if client is not None:
            await _close(client)


@dataclass(frozen=True)
class _Configured:
    """What a Dask worker was started with: threads, and units of top-level work."""

    threads: int
    units: float | None


_configurations: WeakKeyDictionary[Worker, _Configured] = WeakKeyDictionary()


def _configured(worker: Worker) -> _Configured:
    """The configuration from before the first plugin of this worker."""
    state = worker.state
    return _configurations.setdefault(
        worker,
        _Configured(state.nthreads, state.total_resources.get(TOP_LEVEL_RESOURCE)),
    )


async def _close(client: Client) -> None:
    """Close a client that has another event loop, within about a second."""
    loop = asyncio.get_running_loop()
    closed = asyncio.Event()

    def close() -> None:
        try:
            client.close(timeout=1)
        except TimeoutError:
            # The scheduler also forgets a client whose connection ends.
            logger.info("The client %s did not close in time", client.id)
        loop.call_soon_threadsafe(closed.set)

    try:
        threading.Thread(target=close, name="seamless-client-close").start()
    except RuntimeError:
        # The interpreter exits and starts no more threads: the connection just ends.
        return
    await closed.wait()


def _stop_profiling(worker: Worker) -> None:
    """Stop Dask from profiling the threads of a worker.

    Dask samples them 100 times per second. That is useless here: transformations run in
    other processes.
    """
    for name in ("profile", "profile-cycle"):
        callback = worker.periodic_callbacks.pop(name, None)
        if callback is not None:
            callback.stop()


def _configure_remote_clients(remote_clients: dict[str, Any]) -> None:
    """Let this process use the hashservers and databases of the cluster."""
    import seamless_config
    from seamless_config.extern_clients import set_remote_clients

    os.environ[REMOTE_CLIENTS_ENV] = json.dumps(remote_clients)
    if not seamless_config._initialized:
        set_remote_clients(remote_clients, in_remote=True)

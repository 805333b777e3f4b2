"""Make the cluster object, and let it scale."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tornado.ioloop import IOLoop

from scheduler_ext.task_keys import TOP_LEVEL_RESOURCE

from ..cluster.record_mode import publish
from ..errors import NeighbourChanged
from ..neighbours.check import check as check_neighbours
from ..neighbours.names import Where
from .cluster_string import ClusterClass
from .events import Endpoint, Launched, News
from .exit_codes import StartFailed
from .jobs.arguments import job_arguments
from .jobs.names import new_tag
from .jobs.queues import QUEUES, Queue
from .jobs.signs_of_life import Signs
from .logs import configure_dask
from .scaling.policy import ScalingPolicy
from .settings.dask_config import (
    apply_config,
    dask_settings,
    local_tmpdir,
    merged_config,
    seamless_environment,
)
from .settings.durations import parse_duration, parse_memory
from .settings.parameters import Parameters
from .settings.ports import free_ports
from .settings.security import (
    directory_for_workers,
    keep_files_private,
    tls_arguments,
    warn_of_others,
)

if TYPE_CHECKING:
    from .scaling.batch import BatchAdaptive

logger = logging.getLogger(__name__)

#: Attempts, because another process may take a port between our check and our use.
ATTEMPTS = 5
SCALING_INTERVAL = 1.0
#: Share of the target duration that a worker stays idle before it is ended.
IDLE_SHARE = 0.1
#: Bounds of that time, in seconds. A user who thinks between two calls should not
#: find the worker gone; a large target duration should not keep idle jobs for hours.
IDLE_SECONDS = (30.0, 300.0)


def launch(
    parameters: Parameters,
    cluster_class: ClusterClass,
    endpoint: Endpoint,
    loop: IOLoop,
    on_news: Callable[[News], None],
    ends: Callable[[], bool],
    log_directory: Path | None = None,
    service: str = "",
) -> Launched:
    """Start the cluster and attach the scheduler plugin.

    Blocks; call it from a thread that has no event loop. The cluster runs on `loop`.
    `on_news` is called, in any thread, when the jobs of a batch system change; their
    output goes to `log_directory`, and they are named after the `service`. No worker is
    started if `ends` says that the wrapper is about to end.
    """
    batch = cluster_class.kind == "jobqueue"
    settings = dask_settings(parameters, walltime=batch)
    apply_config(merged_config(settings, parameters.extra_dask_config))
    configure_dask()
    _check_config(parameters)
    keep_files_private()
    if batch:
        system = cluster_class.batch_system
        arguments = job_arguments(parameters, system, log_directory, new_tag(), service)
        queue = queue_of(arguments, system)
    else:
        arguments = local_arguments(parameters)
        directory = directory_for_workers(local_tmpdir(parameters))
        arguments["local_directory"] = directory
    arguments |= tls_arguments(batch=batch)
    arguments["loop"] = loop
    cluster, port, dashboard_port = _start(cluster_class, endpoint, arguments)
    warn_of_others(cluster.scheduler, parameters, batch=batch)
    try:
        plugin = cluster.sync(_attach, cluster.scheduler, parameters)
        jobs = None
        if ends():
            raise StartFailed("The wrapper ends.")
        if batch:
            jobs = scale_jobs(
                cluster, plugin, parameters, queue, on_news, log_directory
            )
        else:
            scale(cluster, plugin, parameters)
    except BaseException:
        cluster.close()
        raise
    return Launched(cluster, plugin, port, dashboard_port, jobs)


def _check_config(parameters: Parameters) -> None:
    import dask.config

    if parameters.pure_dask:
        return
    try:
        check_neighbours(Where.WRAPPER)
    except NeighbourChanged as error:
        raise StartFailed(str(error)) from None
    if not dask.config.get("distributed.scheduler.pickle", True):
        raise StartFailed(
            "The Dask configuration turns distributed.scheduler.pickle off; Seamless "
            "needs it on."
        )
    if dask.config.get("distributed.worker.daemon"):
        raise StartFailed(
            "The Dask configuration turns distributed.worker.daemon on; Seamless "
            "needs it off, since its workers start processes."
        )


async def _attach(scheduler: Any, parameters: Parameters) -> Any:
    from scheduler_ext import attach

    from ..cluster.scheduler import PROCESSES

    if not parameters.pure_dask:
        publish(scheduler, parameters.record)
        scheduler.set_metadata(keys=[PROCESSES], value=parameters.cores)
    return attach(scheduler)


def _start(
    cluster_class: ClusterClass, endpoint: Endpoint, arguments: dict[str, Any]
) -> tuple[Any, int, int]:
    avoid: set[int] = set()
    for _ in range(ATTEMPTS):
        port, dashboard_port = free_ports(
            endpoint.host, endpoint.first_port, endpoint.last_port, 2, avoid
        )
        avoid |= {port, dashboard_port}
        try:
            cluster = _make(
                cluster_class, endpoint.host, port, dashboard_port, arguments
            )
        except RuntimeError as error:
            if not _address_in_use(error):
                raise
            logger.info("Port %d was taken by somebody else, trying others.", port)
            continue
        # Dask takes any port for the dashboard if the requested one is taken
        if cluster.scheduler.http_server.port == dashboard_port:
            return cluster, port, dashboard_port
        logger.info(
            "Port %d was taken by somebody else, trying others.", dashboard_port
        )
        cluster.close()
    raise StartFailed(
        f"Ports were taken by somebody else {ATTEMPTS} times between the look for a free"
        f" one in {endpoint.first_port}-{endpoint.last_port} and its use."
    )


def _address_in_use(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            return True
        error = error.__cause__ or error.__context__
    return False


def _make(
    cluster_class: ClusterClass,
    host: str,
    port: int,
    dashboard_port: int,
    arguments: dict[str, Any],
) -> Any:
    # not as a string, because Dask would split it at the colons of IPv6
    dashboard_address = [(host, dashboard_port)]
    if ":" in host:
        host = f"[{host}]"
    if cluster_class.kind == "local":
        return cluster_class.cls(
            host=host,
            scheduler_port=port,
            dashboard_address=dashboard_address,
            **arguments,
        )
    return cluster_class.cls(
        scheduler_options={
            "host": host,
            "port": port,
            "dashboard_address": dashboard_address,
        },
        silence_logs=False,
        **arguments,
    )


def local_arguments(parameters: Parameters) -> dict[str, Any]:
    """Keyword arguments of LocalCluster, without those for the scheduler.

    It starts without workers: scaling adds them, and clients can connect before.
    Without `memory` there is no memory limit: Dask measures its own worker process, not
    the Seamless processes below it, and on a small machine its default limit would kill
    workers because of the size of their caches.
    """
    arguments: dict[str, Any] = {
        "n_workers": 0,
        "threads_per_worker": parameters.threads,
        "processes": True,
        "memory_limit": parse_memory(parameters.memory) if parameters.memory else 0,
        "local_directory": local_tmpdir(parameters),
        "env": seamless_environment(parameters),
        "silence_logs": False,
    }
    if parameters.resources:
        arguments["resources"] = parameters.resources
    if parameters.internal_port_range is not None:
        arguments["port"] = parameters.internal_port_range
        arguments["worker_port"] = parameters.internal_port_range
    return arguments


def policy(parameters: Parameters, unit: str = "worker") -> ScalingPolicy:
    """The rules by which the number of workers follows the work.

    `unit` is the noun for a worker or job. The configuration key
    ``seamless-dask.idle-time`` is how long a worker stays idle.
    """
    import dask.config

    target_duration = parse_duration(parameters.target_duration)
    idle_time = dask.config.get("seamless-dask.idle-time", None)
    if idle_time is not None:
        idle_seconds = parse_duration(idle_time, zero=True)
    else:
        idle_seconds = min(
            max(target_duration * IDLE_SHARE, IDLE_SECONDS[0]), IDLE_SECONDS[1]
        )
    slots = parameters.threads
    if not parameters.pure_dask:
        transformations = (
            parameters.seamless_processes * parameters.transformation_throttle
        )
        slots = min(
            slots, int(parameters.resources.get(TOP_LEVEL_RESOURCE, transformations))
        )
    return ScalingPolicy(
        minimum=parameters.minimum_workers,
        maximum=parameters.maximum_workers,
        slots_per_worker=max(1, slots),
        target_duration=target_duration,
        idle_seconds=idle_seconds,
        exclusive=parameters.queue_exclusive,
        processes=parameters.processes,
        unit=unit,
    )


def queue_of(arguments: Mapping[str, Any], system: str) -> Queue:
    """The queue for the jobs that `job_arguments` describes."""
    queue = QUEUES[system]
    directives = arguments["job_extra_directives"]
    options = [] if isinstance(directives, dict) else queue.options_of(directives)
    return queue.of(arguments["job_name"], options)


def scale(cluster: Any, plugin: Any, parameters: Parameters) -> None:
    """Let the number of workers on this machine follow the work."""
    from .scaling.local import LocalAdaptive

    cluster.adapt(
        Adaptive=LocalAdaptive,
        plugin=plugin,
        policy=policy(parameters),
        minimum=parameters.minimum_workers,
        maximum=parameters.maximum_workers,
        interval=f"{SCALING_INTERVAL} s",
    )


def scale_jobs(
    cluster: Any,
    plugin: Any,
    parameters: Parameters,
    queue: Queue,
    on_news: Callable[[News], None],
    log_directory: Path | None,
) -> BatchAdaptive:
    """Let the number of jobs of a batch system follow the work."""
    from .scaling.batch import BatchAdaptive, rules

    async def start() -> BatchAdaptive:
        return BatchAdaptive(
            cluster,
            plugin=plugin,
            policy=policy(parameters, "job"),
            queue=queue,
            rules=rules(parameters, queue.system),
            signs=Signs(log_directory),
            processes=parameters.processes,
            on_news=on_news,
            interval=f"{SCALING_INTERVAL} s",
        )

    return cluster.sync(start)

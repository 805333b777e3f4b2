"""What ``clusters.yaml`` says about a cluster, and what seamless-config makes of it.

The parameters come from seamless-config's own functions, so they are those of a real
start. Its errors name one mistake, often without the queue; so the names of all fields
are compared beforehand with the fields that it knows.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..command.spelling import question
from .exit_codes import ClustersFileError

#: Stands for a project in names, where none is selected.
NO_PROJECT = "PROJECT"
SERVICES = ("hashserver", "database", "daskserver")
#: Where a service keeps its files, by its field.
_FOLDERS = ("bufferdir", "database_dir")


@dataclass(frozen=True)
class Service:
    """A service of the frontend, and where it is to listen."""

    name: str
    #: An address or a name; None: the service decides.
    interface: Any
    #: First and last port; None: any.
    ports: tuple[Any, Any] | None
    #: The field that names its folder, and the folder; empty without one.
    field: str = ""
    folder: str = ""


@dataclass(frozen=True)
class Described:
    """A queue of a cluster, as seamless-config would start it."""

    cluster: str
    queue: str
    cluster_string: str
    #: The parameters that go into the status file.
    parameters: dict[str, Any]
    #: The name of the status file without its ending.
    service: str
    #: The machine of the services.
    hostname: str
    #: Whether seamless-config starts them without ssh.
    local: bool
    #: The conda environment of the wrapper; "": that of the script.
    conda: str | None
    services: tuple[Service, ...]

    @property
    def daskserver(self) -> Service:
        """The service that is the wrapper."""
        return self.services[-1]


def read_cluster(cluster: str, queue: str | None, project: str | None) -> Described:
    """Read a queue of a cluster; the default queue if it is None.

    As in a driver script, ``seamless.yaml`` and ``seamless.profile.yaml`` of the current
    folder count too, if there are any: the project, record mode, a node, pure Dask.

    Raises `ClustersFileError`, with all problems that were found.
    """
    from seamless_config import config_files, select, tools

    clusters = _load(config_files)
    known = [name for name in clusters if name != "local_cluster"]
    problems = list(_problems(clusters))
    if cluster not in known:
        listed = ", ".join(map(str, known)) or "none, since no file describes one"
        problems.append(
            f"cluster = {cluster!r}: is not described{question(cluster, known)}; allowed "
            f"is one of {listed}"
        )
    if problems:
        raise ClustersFileError(problems)
    try:
        config_files.load_config_files()
    except Exception as error:  # of any type, for any mistake in these files
        raise ClustersFileError(
            [f"seamless-config refuses the files: {_said(error)}"]
        ) from error
    _select_queue(select, clusters[cluster], cluster, queue)
    selected = project or select.get_selected_project() or NO_PROJECT
    pure = not select.get_persistent(cluster)
    try:
        if pure:
            config = tools.configure_pure_daskserver(cluster=cluster)
        else:
            config = tools.configure_daskserver(cluster=cluster, project=selected)
    except Exception as error:  # an assertion, a missing key
        raise ClustersFileError([f"cluster {cluster!r}: {_said(error)}"]) from error
    return _described(config, cluster, selected, pure)


def _load(config_files: Any) -> dict[str, Any]:
    if os.environ.get("SEAMLESS_CACHE", "").strip():
        raise ClustersFileError(
            [
                "SEAMLESS_CACHE is set in the environment: seamless-config then reads no "
                "clusters.yaml; unset it"
            ]
        )
    try:
        clusters = config_files._load_clusters()
        if not isinstance(clusters, dict):
            raise TypeError("it holds no mapping with names of clusters")
    except Exception as error:  # of the YAML reader, or of what it has read
        raise ClustersFileError(
            [f"~/.seamless/clusters.yaml cannot be read: {_said(error)}"]
        ) from error
    return clusters


def _said(error: Exception) -> str:
    return f"{error}" if str(error) else repr(error)


def _select_queue(
    select: Any, definition: Mapping[str, Any], cluster: str, queue: str | None
) -> None:
    queues = list(definition.get("queues") or {})
    if queue is not None and queue not in queues:
        raise ClustersFileError(
            [
                f"queue = {queue!r}: cluster {cluster!r} has no such queue"
                f"{question(queue, queues)}; allowed is one of {', '.join(queues)}"
            ]
        )
    select.select_cluster(cluster)
    if queue is not None:
        select.select_queue(queue)


def _described(
    config: Mapping[str, Any], cluster: str, project: str, pure: bool
) -> Described:
    from seamless_config.cluster import get_cluster, get_local_cluster
    from seamless_config.select import get_current, get_queue

    definition = get_cluster(cluster)
    services = []
    frontend = None
    for name in SERVICES:
        for each in definition.frontends:
            found = getattr(each, name)
            if found is not None:
                services.append(_service(name, found))
                frontend = each
                break
    assert frontend is not None  # seamless-config has refused it otherwise
    queue = get_queue(cluster) or definition.default_queue
    return Described(
        cluster=cluster,
        queue=queue,
        cluster_string=config["cluster_string"],
        parameters=dict(config["file_parameters"]),
        service=_service_name(cluster, queue, get_current(cluster, project), pure),
        hostname=frontend.hostname,
        local=cluster == get_local_cluster(),
        conda=config["conda"],
        services=tuple(services),
    )


def _service_name(
    cluster: str, queue: str, current: tuple[str | None, ...], pure: bool
) -> str:
    """The name that ``tools.yaml`` of seamless-config gives to the service."""
    if pure:
        return f"pure-daskserver-{cluster}-{queue}"
    _, project, subproject, stage, substage = current
    parts = [project, subproject]
    if stage:
        parts.append(f"STAGE-{stage}" + (f"SUBSTAGE-{substage}" if substage else ""))
    return f"daskserver-{cluster}-rw-" + "--".join(filter(None, parts))


def _service(name: str, found: Any) -> Service:
    ports = None
    if found.port_start is not None:
        ports = (found.port_start, found.port_end)
    for field in _FOLDERS:
        if hasattr(found, field):
            folder = getattr(found, field)
            return Service(name, found.network_interface, ports, field, folder)
    return Service(name, found.network_interface, ports)


# --- names of fields


def _problems(clusters: Mapping[str, Any]) -> Iterator[str]:
    """Fields that are not known or missing, in all clusters: one stops seamless-config."""
    from seamless_config import cluster as types

    local = clusters.get("local_cluster")
    if local is not None and local not in clusters:
        yield f"local_cluster = {local!r}: no cluster has this name"
    for name, definition in clusters.items():
        if name == "local_cluster":
            continue
        where = f"cluster {name!r}"
        if not isinstance(definition, dict):
            yield f"{where} = {definition!r}: allowed is a mapping, with type, frontends"
            continue
        yield from _fields(types.Cluster, definition, where)
        if definition.get("type") not in ("local", "slurm", "oar"):
            yield (
                f"{where}, type = {definition.get('type')!r}: allowed is local, slurm or "
                "oar"
            )
        frontends = definition.get("frontends")
        for frontend in frontends if isinstance(frontends, list) else []:
            at = f"{where}, frontend {frontend.get('hostname', 'localhost')!r}"
            given = {"hostname": "localhost"} | frontend
            yield from _fields(types.ClusterFrontend, given, at)
            for service in (*SERVICES, "jobserver"):
                if isinstance(frontend.get(service), dict):
                    kind = getattr(types, f"ClusterFrontend{service.capitalize()}")
                    yield from _fields(kind, frontend[service], f"{at}, {service}")
        queues = definition.get("queues") or {}
        default = definition.get("default_queue")
        if queues and default is not None and default not in queues:
            yield (
                f"{where}, default_queue = {default!r}: is none of its queues, which are "
                f"{', '.join(map(str, queues))}"
            )
        for queue, fields in queues.items():
            at = f"{where}, queue {queue!r}"
            if not isinstance(fields, dict):
                yield f"{at} = {fields!r}: allowed is a mapping with its parameters"
                continue
            given = {str(key).replace("-", "_"): value for key, value in fields.items()}
            yield from _fields(types.ClusterQueueWithTemplate, given, at)
            template, above = (
                given.get("TEMPLATE"),
                list(queues)[: [*queues].index(queue)],
            )
            if template is not None and template not in above:
                listed = ", ".join(map(str, above)) or "no other"
                yield (
                    f"{at}, TEMPLATE = {template!r}: is no queue above it"
                    f"{question(str(template), above)}, where there is {listed}"
                )
            if given.get("conda") is None and "TEMPLATE" not in given:
                yield f'{at}: needs conda; "" is the environment of the driver script'


def _fields(kind: Any, given: Mapping[str, Any], where: str) -> Iterator[str]:
    fields = {item.name: item for item in dataclasses.fields(kind)}
    fields.pop("name", None)
    for name in given:
        if name == "job_script_prologue" and name not in fields:
            yield (
                f"{where}, {name}: this version of seamless-config does not read it; "
                "write it into extra_dask_config, as jobqueue.SYSTEM.job-script-prologue"
            )
        elif name not in fields:
            hint = question(str(name), fields)
            yield f"{where}, {name}: is not known{hint}; allowed is {', '.join(fields)}"
    for name, item in fields.items():
        needed = item.default is item.default_factory is dataclasses.MISSING
        if needed and name not in given:
            yield f"{where}: needs {name}"

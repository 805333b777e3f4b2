"""``--check``: what would go wrong if a cluster were started here, all at once.

Nothing is started, submitted or kept.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .cluster_string import ClusterClass, resolve
from .clusters_file import Described, Service
from .dry_run import Shown, show
from .exit_codes import ExitCode, ParametersError, WrapperError
from .preflight.batch import Job, ask, look_at_commands
from .preflight.findings import Findings
from .preflight.folders import look_at_log_folder, look_at_python, look_at_services
from .preflight.network import is_this_machine, look_at_network, look_at_proxy


@dataclass(frozen=True)
class Plan:
    """What is to be started."""

    #: The first line of the report.
    title: str
    cluster_string: str
    parameters: dict[str, Any]
    #: The name of the status file without its ending.
    service: str
    services: tuple[Service, ...]
    #: The address of the scheduler, as far as it is known.
    scheduler: str
    #: The machine of the services; empty: this one.
    hostname: str = ""
    #: Whether seamless-config starts them without ssh.
    local: bool = True
    conda: str | None = None


def plan_of(described: Described) -> Plan:
    """The plan for a queue in ``clusters.yaml``."""
    return Plan(
        title=f"Cluster {described.cluster}, queue {described.queue}",
        cluster_string=described.cluster_string,
        parameters=described.parameters,
        service=described.service,
        services=described.services,
        scheduler=scheduler_address(described.daskserver),
        hostname=described.hostname,
        local=described.local,
        conda=described.conda,
    )


def scheduler_address(service: Service) -> str:
    """Where the scheduler of a service would listen, with its first port."""
    host = str(service.interface)
    if ":" in host:
        host = f"[{host}]"
    return f"tcp://{host}:{service.ports[0] if service.ports else 'PORT'}"


def check_site(plan: Plan) -> tuple[str, ExitCode]:
    """Return the report and the exit code: 0, or the one that a start would end with.

    Changes Dask's configuration in this process.
    """
    findings = Findings()
    parts = [
        plan.title,
        "Parameters, as they are sent to the wrapper:\n"
        + json.dumps(plan.parameters, indent=2, default=str),
    ]
    cluster_class, shown = _show(plan, findings)
    batch = cluster_class is not None and cluster_class.kind == "jobqueue"
    if shown is not None:
        heading = "Job script" if batch else "Workers"
        parts.append(f"{heading}:\n{shown.text}")
    here = _is_here(plan, findings)
    asked = (
        [service.interface for service in plan.services] if here else [plan.hostname]
    )
    look_at_proxy(findings, list(dict.fromkeys(map(str, filter(None, asked)))))
    if here:
        look_at_network(findings, plan.services, batch=batch)
        look_at_services(findings, plan.services)
        if batch and cluster_class is not None:
            look_at_python(findings, plan.conda)
            if shown is not None:
                look_at_log_folder(findings, shown.log_directory, shown.chosen)
            _look_at_batch(plan, findings, cluster_class.batch_system, shown)
    return "\n\n".join([*parts, findings.report()]), findings.exit_code()


def _show(plan: Plan, findings: Findings) -> tuple[ClusterClass | None, Shown | None]:
    cluster_class = None
    with _warnings_in(findings):
        try:
            cluster_class = resolve(plan.cluster_string)
            shown = show(cluster_class, plan.parameters, plan.scheduler, plan.service)
            return cluster_class, shown
        except ParametersError as error:
            for problem in error.problems:
                findings.problem(problem, error.exit_code)
        except WrapperError as error:
            findings.problem(str(error), error.exit_code)
    return cluster_class, None


def _is_here(plan: Plan, findings: Findings) -> bool:
    """Whether the services would run on this machine."""
    if plan.local or not plan.hostname:
        return True
    if is_this_machine(plan.hostname):
        findings.warnings.append(
            f"hostname = {plan.hostname!r}: is this machine, but local_cluster does not "
            "name the cluster, so seamless-config would reach it by ssh; allowed is "
            "local_cluster: NAME at the top of clusters.yaml"
        )
        return True
    findings.warnings.append(
        f"hostname = {plan.hostname!r}: is not this machine, so its addresses, ports, "
        "programs and folders were not looked at; repeat the command there"
    )
    return False


def _look_at_batch(
    plan: Plan, findings: Findings, system: str, shown: Shown | None
) -> None:
    if not look_at_commands(findings, system):
        return
    partition = plan.parameters.get("partition")
    job = Job(
        system,
        script="" if shown is None else shown.text,
        partition=None if partition is None else str(partition),
        options=() if shown is None else shown.options,
    )
    ask(findings, job)


@contextlib.contextmanager
def _warnings_in(findings: Findings) -> Iterator[None]:
    """Put what is logged into the report, and not on the standard error as well."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING:
                findings.warnings.append(record.getMessage())

    logger = logging.getLogger(__package__)
    collector, propagate = Collector(), logger.propagate
    logger.addHandler(collector)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagate

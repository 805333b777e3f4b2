"""From parameters to a job of a batch system, in the words of dask_jobqueue."""

from __future__ import annotations

import logging
import math
import shlex
from typing import Any

from .dask_config import (
    dask_settings,
    exports,
    lifetime_seconds,
    merged_config,
    seamless_environment,
    stagger_seconds,
)
from .durations import (
    format_clock,
    parse_clock,
    parse_duration,
    parse_memory,
    slurm_memory,
)
from .parameters import DEFAULT_TMPDIR, GRACE_PERIOD, Parameters

logger = logging.getLogger(__name__)

#: Batch systems whose ``resource_spec`` parameter dask_jobqueue passes on.
_WITH_RESOURCE_SPEC = ("oar", "pbs", "moab", "sge")
#: Batch systems where dask_jobqueue calls the project an account.
_WITH_ACCOUNT = ("slurm", "pbs", "moab")


def batch_problems(parameters: Parameters, system: str) -> list[str]:
    """What is wrong with the parameters for this batch system, taken together."""
    problems = []
    for name in ("walltime", "memory"):
        if getattr(parameters, name) is None:
            problems.append(f"{name}: is required on a batch system")
    if parameters.cores is None and not parameters.exclusive:
        problems.append(
            "cores: is required on a batch system, unless exclusive is true"
        )
    if (
        parameters.exclusive
        and parameters.cores is None
        and parameters.job_cores is None
        and parameters.resource_spec is None
        and "--exclusive" not in parameters.job_extra_directives
    ):
        problems.append(
            "exclusive = True: needs cores or job_cores, or a request for a whole node "
            "(job_extra_directives --exclusive on SLURM, otherwise resource_spec)"
        )
    if system == "oar" and parameters.memory_per_core_property_name is None:
        problems.append(
            "memory_per_core_property_name: is required on OAR, for example memcore; "
            "write not_applicable if the cluster has no such property"
        )
    if parameters.processes > parameters.cores_per_job:
        problems.append(
            f"processes = {parameters.processes}: must not exceed the cores of a job "
            f"({parameters.cores_per_job})"
        )
    return problems + _lifetime_problems(parameters)


def _lifetime_problems(parameters: Parameters) -> list[str]:
    lifetime = lifetime_seconds(parameters, walltime=True)
    if lifetime is None or parameters.walltime is None:
        return []
    walltime = parse_duration(parameters.walltime)
    stagger = stagger_seconds(parameters)
    if lifetime <= 0:
        return [
            f"walltime = {parameters.walltime!r}: must be longer than lifetime-stagger "
            f"({stagger:g} s) plus {GRACE_PERIOD} s of grace, since workers are "
            "replaced when maximum_jobs is over 1"
        ]
    if lifetime + stagger >= walltime:
        return [
            f"lifetime = {parameters.lifetime!r}: with lifetime-stagger ({stagger:g} s)"
            f" it must stay below walltime ({walltime:g} s)"
        ]
    return []


def job_arguments(parameters: Parameters, system: str) -> dict[str, Any]:
    """Keyword arguments of the dask_jobqueue cluster class, but for the scheduler."""
    arguments: dict[str, Any] = {
        "cores": parameters.cores_per_job,
        "processes": parameters.processes,
        "memory": _memory(parameters),
        "job_extra_directives": list(parameters.job_extra_directives),
        "job_script_prologue": _prologue(parameters, system),
        "worker_extra_args": _worker_arguments(parameters, system),
    }
    if parameters.tmpdir is not None or not parameters.pure_dask:
        arguments["local_directory"] = parameters.tmpdir or DEFAULT_TMPDIR
    if system == "htcondor":
        arguments["job_extra_directives"] = _htcondor_directives(parameters)
        _ignored(parameters, system, "walltime", "partition", "project")
    else:
        arguments["walltime"] = _walltime(parameters, system)
        if parameters.partition is not None:
            arguments["queue"] = parameters.partition
        if parameters.project is not None:
            name = "account" if system in _WITH_ACCOUNT else "project"
            arguments[name] = parameters.project
    if system == "slurm":
        # what the user wrote, instead of dask_jobqueue's rounding to gibibytes
        arguments["job_mem"] = slurm_memory(parameters.memory or 0)
    if system == "oar":
        # all conditions go on one line, see there
        arguments["memory_per_core_property_name"] = "not_applicable"
        arguments["job_extra_directives"] = _oar_directives(parameters)
    else:
        _ignored(parameters, system, "memory_per_core_property_name")
    if system in _WITH_RESOURCE_SPEC:
        if parameters.resource_spec is not None:
            arguments["resource_spec"] = parameters.resource_spec
    else:
        _ignored(parameters, system, "resource_spec")
    return arguments


def _memory(parameters: Parameters) -> str:
    return f"{parse_memory(parameters.memory or 0)} B"


def _walltime(parameters: Parameters, system: str) -> str:
    walltime = parameters.walltime
    assert walltime is not None  # see batch_problems
    if system == "lsf":  # counts in minutes
        minutes = math.ceil(parse_duration(walltime) / 60)
        return f"{minutes // 60:02d}:{minutes % 60:02d}"
    if isinstance(walltime, str) and parse_clock(walltime) is not None:
        if system == "slurm" or "-" not in walltime:
            return walltime
    return format_clock(parse_duration(walltime))


def _prologue(parameters: Parameters, system: str) -> list[str]:
    """Shell lines before the worker; the user's come last and so may overrule ours."""
    settings = dask_settings(parameters, walltime=True)
    extra = parameters.extra_dask_config
    lines = [
        f"export {name}={value}"
        for name, value in seamless_environment(parameters).items()
    ]
    lines += exports(settings, extra, merged_config(settings, extra))
    if system == "slurm":
        lines.append("export PYTHON_CPU_COUNT=$SLURM_JOB_CPUS_PER_NODE")
    return lines + list(parameters.job_script_prologue)


def _worker_arguments(parameters: Parameters, system: str) -> list[str]:
    """Options behind those of dask_jobqueue; the last one of a name counts."""
    arguments = ["--nthreads", str(parameters.threads)]
    if system == "slurm":
        arguments += ["--name", "worker-$SLURM_JOB_ID"]
    if parameters.internal_port_range is not None:
        arguments += ["--worker-port", parameters.internal_port_range]
        arguments += ["--nanny-port", parameters.internal_port_range]
    return arguments


def _oar_directives(parameters: Parameters) -> list[str]:
    """Directives in which all ``-p`` conditions are one, the memory included.

    OAR heeds only the last ``-p``. Conditions are SQL with quotes of its own, which
    must survive the shell rules by which directives become arguments of ``oarsub``.
    A condition arrives as ``-p CONDITION`` or as two directives in a row.
    """
    directives: list[str] = []
    conditions: list[str] = []
    items = iter(parameters.job_extra_directives)
    for item in items:
        if item == "-p":
            condition = next(items, "")
            if condition:
                conditions.append(condition)
        elif item.startswith(("-p ", "-p'", '-p"')):
            conditions.append(_unquoted(item[2:].strip()))
        else:
            directives.append(item)
    name = parameters.memory_per_core_property_name
    if name not in (None, "not_applicable"):
        total = parse_memory(parameters.memory or 0)
        per_core = math.ceil(total / (parameters.cores_per_job * 2**20))
        conditions.append(f"{name}>={per_core}")
    if conditions:
        directives.append(f"-p {_quoted(' AND '.join(conditions))}")
    return directives


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        if text[0] not in text[1:-1]:
            return text[1:-1]
    return text


def _quoted(text: str) -> str:
    if "'" in text and not set(text) & set('"\\$`'):
        return f'"{text}"'
    return shlex.quote(text)


def _htcondor_directives(parameters: Parameters) -> dict[str, str]:
    pairs = (item.partition("=") for item in parameters.job_extra_directives)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _ignored(parameters: Parameters, system: str, *names: str) -> None:
    for name in names:
        if getattr(parameters, name) is not None:
            logger.warning("Parameter %s has no meaning on %s: ignored.", name, system)

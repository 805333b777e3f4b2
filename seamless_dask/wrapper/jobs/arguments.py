"""Turns parameters into the arguments of dask_jobqueue for a job."""

from __future__ import annotations

import logging
import math
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import dask.config

from ..settings.config_checks import effective
from ..settings.dask_config import (
    dask_settings,
    exports,
    merged_config,
    seamless_environment,
)
from ..settings.durations import (
    format_clock,
    parse_clock,
    parse_duration,
    parse_memory,
    slurm_memory,
)
from ..settings.parameters import DEFAULT_TMPDIR, Parameters
from .directive_checks import (
    directive_problems,
    option_problem,
    prologue_problems,
    unmarked,
)
from .directives import extra_directives, htcondor_directives, with_cluster
from .environment import cpu_count, inherited
from .logs import configured as log_directory_of
from .logs import is_left_to_dask
from .names import (
    DEFAULT_NAME,
    job_name,
    left_out_name,
    service_base,
    skip_problems,
    split_name,
)
from .options import named, options
from .prologue_checks import shell_problems
from .repeated_directives import repeated, repeated_in_request
from .signs_of_life import around
from .worker_options import worker_option_problems

logger = logging.getLogger(__name__)

#: Batch systems whose ``resource_spec`` parameter dask_jobqueue passes on.
_WITH_RESOURCE_SPEC = ("oar", "pbs", "moab", "sge")
#: Batch systems where dask_jobqueue calls the project an account.
_WITH_ACCOUNT = ("slurm", "pbs", "moab")
#: Keys with parts of lines that dask_jobqueue leaves out; it reads only the first that is set.
_SKIPS = ("job-directives-skip", "header-skip")
#: The default of dask_jobqueue, which may not be loaded yet.
DEFAULT_SHEBANG = "#!/usr/bin/env bash"


def batch_problems(parameters: Parameters, system: str) -> list[str]:
    """Problems with the combination of parameters for this batch system."""
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
        and not _asks_for_node(parameters, system)
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
    if system == "htcondor" and not _condor_disk(parameters):
        problems.append(
            "extra_dask_config: HTCondor needs jobqueue.htcondor.disk, the disk space of "
            'a job, for example {"jobqueue": {"htcondor": {"disk": "2GB"}}}'
        )
    if parameters.processes > parameters.cores_per_job:
        problems.append(
            f"processes = {parameters.processes}: must not exceed the cores of a job "
            f"({parameters.cores_per_job})"
        )
    return problems + _written_problems(parameters, system)


def _asks_for_node(parameters: Parameters, system: str) -> bool:
    """Whether a directive asks for a whole node of SLURM."""
    return any(
        option.names == ("--exclusive",) and not option.value
        for item in parameters.job_extra_directives
        for option in options(unmarked(item, system), system)
    )


def _condor_disk(parameters: Parameters) -> Any:
    return effective(parameters, "jobqueue.htcondor.disk")


def _written_problems(parameters: Parameters, system: str) -> list[str]:
    """Problems with texts that go into the job script unchanged."""
    section = f"jobqueue.{system}."
    problems = _directive_problems(
        parameters, system, parameters.job_extra_directives, "job_extra_directives"
    )
    problems += _prologue_problems(
        parameters, system, parameters.job_script_prologue, "job_script_prologue"
    )
    key, left_out = _left_out(parameters, system)
    problems += skip_problems(left_out, system, f"Dask's configuration {key}")
    for name in ("partition", "project", "resource_spec"):
        problems += option_problem(getattr(parameters, name), name, system)
    problems += repeated_in_request(parameters, system)
    key = section + "job-extra-directives"
    lines = _texts(effective(parameters, key))
    problems += _directive_problems(
        parameters, system, lines, f"Dask's configuration {key}"
    )
    key = section + "worker-extra-args"
    problems += worker_option_problems(
        _texts(effective(parameters, key)),
        system,
        f"Dask's configuration {key}",
        parameters,
    )
    key = section + "job-script-prologue"
    lines = _texts(effective(parameters, key))
    return problems + _prologue_problems(
        parameters, system, lines, f"Dask's configuration {key}"
    )


def _directive_problems(
    parameters: Parameters, system: str, directives: list[str], field: str
) -> list[str]:
    _, left_out = _left_out(parameters, system)
    return directive_problems(directives, system, field) + repeated(
        directives, parameters, system, field, left_out
    )


def _left_out(parameters: Parameters, system: str) -> tuple[str, list[str]]:
    """The key with parts of lines that dask_jobqueue leaves out, and its value."""
    for name in _SKIPS:
        key = f"jobqueue.{system}.{name}"
        value = effective(parameters, key)
        if value:
            # a text is refused by `config_problems`
            return key, [] if isinstance(value, str) else _texts(value)
    return "", []


def _prologue_problems(
    parameters: Parameters, system: str, lines: list[str], field: str
) -> list[str]:
    shebang = effective(parameters, f"jobqueue.{system}.shebang") or DEFAULT_SHEBANG
    return prologue_problems(lines, system, field) + shell_problems(
        lines, system, field, str(shebang)
    )


def _texts(value: Any) -> list[str]:
    """A text or a list as a list; `config_problems` checks other types."""
    if isinstance(value, (list, tuple)):
        return list(map(str, value))
    return [value] if isinstance(value, str) else []


def job_arguments(
    parameters: Parameters,
    system: str,
    log_directory: Path | None = None,
    tag: str = "",
    service: str = "",
) -> dict[str, Any]:
    """Keyword arguments of the dask_jobqueue cluster class, without those for the scheduler.

    Parameters
    ----------
    parameters
        Parameters that have passed `batch_problems`.
    system
        The batch system, by the name of its section in Dask's configuration.
    log_directory
        The directory for the output of jobs, see `logs`. None: the batch system decides.
    tag
        The end of the name of the jobs, so that no other cluster has jobs of this name.
        Without it the name is only displayed.
    service
        The name of the service that seamless-config started, see `names.service_base`.
    """
    configured = _configured(system, "job-extra-directives")
    directives = extra_directives(
        parameters,
        system,
        log_directory,
        configured,
    )
    base, directives = split_name(directives, system)
    name = job_name(base or _other_name(system, service), system, tag)
    directives = with_cluster(directives, system, os.environ)
    skipped = next(filter(None, (_configured(system, key) for key in _SKIPS)), [])
    # a part may happen to be in the name
    directives = left_out_name(name, skipped, system) + directives
    arguments: dict[str, Any] = {
        "job_name": name,
        "cores": parameters.cores_per_job,
        "processes": parameters.processes,
        "memory": _memory(parameters),
        "job_extra_directives": directives,
        "job_script_prologue": _prologue(parameters, system, log_directory),
        "worker_extra_args": _worker_arguments(parameters, system, directives),
    }
    if dask.config.get(f"jobqueue.{system}.python", None) is None:
        arguments["python"] = shlex.quote(sys.executable)
    if parameters.tmpdir is not None or not parameters.pure_dask:
        arguments["local_directory"] = _shell_path(parameters.tmpdir or DEFAULT_TMPDIR)
    chosen = log_directory_of(system)
    if chosen is not None:  # dask_jobqueue would not expand ~
        arguments["log_directory"] = chosen
        if not is_left_to_dask(system, chosen):
            arguments["job_directives_skip"] = [*skipped, f" {chosen}/"]
    if system == "htcondor":
        named = {"batch_name": name} if tag else {}
        arguments["job_extra_directives"] = htcondor_directives(directives) | named
        _ignored(parameters, system, "walltime", "partition", "project")
    else:
        arguments["walltime"] = _walltime(parameters, system)
        if parameters.partition is not None:
            arguments["queue"] = parameters.partition
        if parameters.project is not None:
            name = "account" if system in _WITH_ACCOUNT else "project"
            arguments[name] = parameters.project
    if system == "slurm":
        # the user's number, because dask_jobqueue would round it to gibibytes
        arguments["job_mem"] = slurm_memory(parameters.memory or 0)
    if system == "oar":
        # all conditions are in one directive, see `oar_directives`
        arguments["memory_per_core_property_name"] = "not_applicable"
    else:
        _ignored(parameters, system, "memory_per_core_property_name")
    if system in _WITH_RESOURCE_SPEC:
        if parameters.resource_spec is not None:
            arguments["resource_spec"] = parameters.resource_spec
    else:
        _ignored(parameters, system, "resource_spec")
    return arguments


def _shell_path(path: str) -> str:
    """A path as one word for a shell, in which variables and ``~`` keep their meaning."""
    if not re.search(r"[^\w%+,./:=@~-]", path, re.ASCII):
        return path
    home, slash, rest = path.partition("/") if path.startswith("~") else ("", "", path)
    return home + slash + '"' + re.sub(r'(["\\`])', r"\\\1", rest) + '"'


def _configured(system: str, name: str) -> list[str]:
    """A list in dask_jobqueue's own configuration, which our arguments would replace."""
    found = dask.config.get(f"jobqueue.{system}.{name}", None) or []
    if isinstance(found, dict):  # HTCondor
        return [f"{key} = {value}" for key, value in found.items()]
    return _texts(found)


def _memory(parameters: Parameters) -> str:
    return f"{parse_memory(parameters.memory or 0)} B"


def _walltime(parameters: Parameters, system: str) -> str:
    walltime = parameters.walltime
    assert walltime is not None  # see batch_problems
    if system == "lsf":  # counts in minutes
        minutes = math.ceil(parse_duration(walltime) / 60)
        return f"{minutes // 60:02d}:{minutes % 60:02d}"
    if parse_clock(walltime) is not None:
        if system == "slurm" or "-" not in walltime:
            return walltime
    return format_clock(parse_duration(walltime))


def _prologue(
    parameters: Parameters, system: str, log_directory: Path | None
) -> list[str]:
    """Shell lines before the worker; the user's lines come last and may overrule ours."""
    settings = dask_settings(parameters, walltime=True)
    extra = parameters.extra_dask_config
    lines = inherited(parameters, system, os.environ)
    lines += [
        f"export {name}={value}"
        for name, value in seamless_environment(parameters).items()
    ]
    lines += exports(settings, extra, merged_config(settings, extra))
    lines += cpu_count(system)
    users = _configured(system, "job-script-prologue")
    users += parameters.job_script_prologue
    return lines + around(users, system, log_directory)


def _other_name(system: str, service: str) -> str:
    """The name without a directive for it."""
    configured = dask.config.get(f"jobqueue.{system}.name", None)
    if configured and configured != DEFAULT_NAME:  # which is that of dask_jobqueue
        return str(configured)
    return service_base(service) or DEFAULT_NAME


def _worker_arguments(
    parameters: Parameters, system: str, directives: list[str]
) -> list[str]:
    """Options after those of dask_jobqueue; the last one of a name counts."""
    arguments = ["--nthreads", str(parameters.threads)]
    if system == "slurm":
        name = "worker-$SLURM_JOB_ID"
        if any("--array" == named(item, system)[0] for item in directives):
            # an array is identified by the id of its first job
            name = "worker-$SLURM_ARRAY_JOB_ID-$SLURM_ARRAY_TASK_ID"
        arguments += ["--name", name]
    if parameters.internal_port_range is not None:
        arguments += ["--worker-port", parameters.internal_port_range]
        arguments += ["--nanny-port", parameters.internal_port_range]
    return arguments + _configured(system, "worker-extra-args")


def _ignored(parameters: Parameters, system: str, *names: str) -> None:
    for name in names:
        if getattr(parameters, name) is not None:
            logger.warning("Parameter %s has no meaning on %s: ignored.", name, system)

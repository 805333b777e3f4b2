"""Shows the job script or the options of workers, without starting a cluster."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checks import check, warn_of_unknown, with_further_problems
from .cluster_string import ClusterClass, resolve
from .exit_codes import ParametersError, StatusFileUnusable
from .jobs import logs
from .jobs.arguments import job_arguments
from .launch import local_arguments, queue_of
from .settings import json_text
from .settings.dask_config import apply_config, dask_settings, merged_config
from .settings.parameters import Parameters, read_parameters
from .settings.security import tls_arguments

logger = logging.getLogger(__name__)


def dry_run(cluster_string: str, file: Path, scheduler: str) -> str:
    """Return the job script, or for a local cluster the options of its workers.

    Raises `WrapperError` if the real start would fail for the same reason. It only
    changes Dask's configuration in this process.

    Parameters
    ----------
    cluster_string
        The cluster class as ``MODULE::SYMBOL``.
    file
        A status file, or a JSON file with nothing but the parameters.
    scheduler
        Address of the scheduler, as it would be written in the script.
    """
    raw = read(file)
    return show(resolve(cluster_string), raw, scheduler, file.stem).text


@dataclass(frozen=True)
class Shown:
    """What a cluster would run."""

    parameters: Parameters
    #: The job script, or for a local cluster the options of its workers.
    text: str
    #: The directory for the output of jobs, of all runs.
    log_directory: str | None = None
    #: Whether Dask's configuration names it.
    chosen: bool = False
    #: Options for all commands of the batch system.
    options: tuple[str, ...] = ()


def show(
    cluster_class: ClusterClass, raw: dict[str, Any], scheduler: str, service: str
) -> Shown:
    """Check the parameters and make the job script, without starting anything.

    Raises `WrapperError` as `dry_run`, and like that changes Dask's configuration.

    Parameters
    ----------
    cluster_class
        From `resolve`.
    raw
        The parameters of a status file.
    scheduler
        Address of the scheduler, as it would be written in the script.
    service
        The name of the status file without its ending.
    """
    try:
        parameters, unknown = read_parameters(raw)
    except ParametersError as error:
        raise with_further_problems(error, cluster_class) from None
    warn_of_unknown(unknown)
    check(parameters, cluster_class, unknown, make=False)
    batch = cluster_class.kind == "jobqueue"
    settings = dask_settings(parameters, walltime=batch)
    merged = merged_config(settings, parameters.extra_dask_config)
    apply_config(merged)
    if batch:
        directory = logs.run_directory(service)
        system = cluster_class.batch_system
        arguments = job_arguments(parameters, system, directory, service=service)
        chosen = logs.configured(system)
        return Shown(
            parameters,
            _script(arguments, cluster_class, scheduler),
            chosen or (None if directory is None else str(directory.parents[1])),
            chosen is not None,
            queue_of(arguments, system).options,
        )
    text = json.dumps(
        {
            "workers": [parameters.minimum_workers, parameters.maximum_workers],
            "options": local_arguments(parameters) | tls_arguments(),
            "dask configuration": merged,
        },
        indent=2,
        default=str,
    )
    return Shown(parameters, text)


def read(file: Path) -> dict[str, Any]:
    """The parameters in a status file, or in a file with nothing else."""
    try:
        fields = json_text.parse(file.read_bytes())
    except (OSError, ValueError) as error:
        raise StatusFileUnusable(f"{file} cannot be read: {error}") from None
    if isinstance(fields, dict):
        # "status" is no parameter: a file that has it is a status file
        fields = fields.get("parameters", None if "status" in fields else fields)
    if not isinstance(fields, dict):
        raise StatusFileUnusable(
            f"{file} must hold a JSON object, with the parameters or with a field "
            '"parameters" that is an object.'
        )
    return fields


class _Unmade:
    """The name of a directory that dask_jobqueue takes for an existing one.

    It makes directories that do not exist.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __str__(self) -> str:
        return self._name

    def __fspath__(self) -> str:
        return os.sep


def _script(
    arguments: dict[str, Any], cluster_class: ClusterClass, scheduler: str
) -> str:
    arguments = dict(arguments)
    tls = tls_arguments(batch=True)
    if tls:
        arguments |= tls
        scheduler = scheduler.replace("tcp://", "tls://", 1)
    if "log_directory" in arguments:
        arguments["log_directory"] = _Unmade(arguments["log_directory"])
    job = cluster_class.cls.job_cls(scheduler, name="NAME", **arguments)
    script = job.job_script().rstrip("\n")
    command = f"{job.submit_command.strip()} SCRIPT"
    if cluster_class.batch_system == "oar":
        # the head becomes options, and the rest is an argument
        head = [
            line.removeprefix("#OAR ")
            for line in script.splitlines()
            if line.startswith("#OAR ")
        ]
        command = f"{job.submit_command} {' '.join(head)} \"$(grep -v '^#' SCRIPT)\""
    elif getattr(job, "use_stdin", False):
        command = f"{job.submit_command} < SCRIPT"
    return f"{script}\n# Submitted with: {command}"

"""What the wrapper makes of parameters that somebody has written."""

from __future__ import annotations

from typing import Any

from seamless_dask.wrapper.checks import check, with_further_problems
from seamless_dask.wrapper.cluster_string import ClusterClass, resolve
from seamless_dask.wrapper.exit_codes import ParametersError
from seamless_dask.wrapper.jobs.arguments import job_arguments
from seamless_dask.wrapper.settings.parameters import read_parameters

BATCH: dict[str, Any] = {"cores": 1, "memory": "4GB", "walltime": "01:00:00"}


SYSTEMS = {
    "slurm": "SLURMCluster",
    "sge": "SGECluster",
    "oar": "OARCluster",
    "pbs": "PBSCluster",
    "lsf": "LSFCluster",
    "moab": "MoabCluster",
}


def problems(system: str, raw: dict[str, Any]) -> list[str]:
    """What is wrong with parameters; [] if they are taken."""
    cluster_class = ClusterClass(object, "jobqueue" if system else "local", system)
    try:
        parameters, _ = read_parameters(raw)
    except ParametersError as error:
        return with_further_problems(error, cluster_class).problems
    try:
        check(parameters, cluster_class, make=False)
    except ParametersError as error:
        return error.problems
    return []


def script(system: str, raw: dict[str, Any]) -> list[str]:
    """The lines of the job script."""
    cluster_class = resolve(f"dask_jobqueue::{SYSTEMS[system]}")
    raw = {**BATCH, "memory_per_core_property_name": "memcore", **raw}
    parameters, _ = read_parameters(raw)
    check(parameters, cluster_class)
    arguments = job_arguments(parameters, system)
    job = cluster_class.cls.job_cls("tcp://1.2.3.4:5", name="name", **arguments)
    return job.job_script().splitlines()

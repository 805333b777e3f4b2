"""Checks the parameters for a kind of cluster and reports all problems at once."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from ..command.spelling import misspelt, question
from .cluster_string import ClusterClass
from .exit_codes import ParametersError
from .jobs.arguments import batch_problems
from .settings.config_checks import config_problems, misspelt_keys
from .settings.dask_config import lifetime_seconds, stagger_seconds
from .settings.directory_checks import directory_problems
from .settings.durations import parse_duration, parse_memory
from .settings.parameters import GRACE_PERIOD, Parameters
from .settings.security import tls_problems

logger = logging.getLogger(__name__)

#: The memory that an idle Dask worker needs, in bytes.
LEAST_MEMORY = 100 * 10**6
#: A lifetime below this is a mistake, in seconds, unless it is a test.
SHORT_LIFETIME = 60
_ROTATION = "since workers are replaced when maximum_jobs is over 1"


def check(
    parameters: Parameters,
    cluster_class: ClusterClass,
    unknown: Sequence[str] = (),
    *,
    make: bool = True,
) -> None:
    """Check the parameters for this kind of cluster. Raises `ParametersError`.

    `unknown` are the names of other parameters, which are ignored: an error says for which
    known ones they may stand.

    A local cluster needs a directory for temporary files, jobs need one for their
    output: `make` says whether to create it, or only to check whether that would work.
    """
    problems = _problems(parameters, cluster_class, make)
    if problems:
        raise ParametersError(problems + misspelt(unknown, Parameters.model_fields))
    for sentence in misspelt_keys(parameters, cluster_class.batch_system):
        logger.warning(sentence)
    batch = cluster_class.kind == "jobqueue"
    lifetime = lifetime_seconds(parameters, walltime=batch)
    if parameters.lifetime and lifetime is not None and lifetime < SHORT_LIFETIME:
        logger.warning(
            "Parameter lifetime = %r is short: a worker takes some seconds to start.",
            parameters.lifetime,
        )
    for name in _without_effect(parameters, batch=batch):
        logger.warning("Parameter %s has no effect here: ignored.", name)


def warn_of_unknown(names: Sequence[str]) -> None:
    """Say which parameters are ignored, and for which known ones they may stand."""
    for name in names:
        hint = question(name, Parameters.model_fields)
        logger.warning("Parameter %s is not known: ignored%s.", name, hint)


def with_further_problems(
    error: ParametersError, cluster_class: ClusterClass
) -> ParametersError:
    """The same error with the problems that `check` finds in the other parameters."""
    if error.rest is None:
        return error
    further = [
        problem
        for problem in _problems(error.rest, cluster_class, make=False)
        if re.split(r"[ :]", problem)[0].replace("-", "_") not in error.wrong
    ]
    return ParametersError(error.problems + further)


def _problems(
    parameters: Parameters, cluster_class: ClusterClass, make: bool
) -> list[str]:
    batch = cluster_class.kind == "jobqueue"
    problems = _port_problems(parameters, batch=batch) + tls_problems(parameters)
    problems += _memory_problems(parameters)
    problems += _lifetime_problems(parameters, batch=batch)
    problems += config_problems(parameters, cluster_class.batch_system)
    problems += directory_problems(parameters, cluster_class.batch_system, make=make)
    if batch:
        problems += batch_problems(parameters, cluster_class.batch_system)
    return problems


def _port_problems(parameters: Parameters, *, batch: bool) -> list[str]:
    """A worker and its nanny take a port each, on the machine that they share."""
    if parameters.internal_port_range is None:
        return []
    start, end = map(int, parameters.internal_port_range.split(":"))
    workers = parameters.processes if batch else parameters.maximum_workers
    if end - start + 1 >= 2 * workers:
        return []
    return [
        f"internal-port-range = {parameters.internal_port_range!r}: has "
        f"{end - start + 1} ports, but {workers} workers and their nannies need "
        f"{2 * workers}"
    ]


def _memory_problems(parameters: Parameters) -> list[str]:
    """A Dask worker with less memory is killed as soon as it has started."""
    if parameters.memory is None:
        return []
    available = parse_memory(parameters.memory) // parameters.processes
    if available >= LEAST_MEMORY:
        return []
    among = (
        f" among {parameters.processes} processes" if parameters.processes > 1 else ""
    )
    return [
        f"memory = {parameters.memory!r}: is {available} bytes per Dask worker{among}, "
        f"which needs {LEAST_MEMORY // 10**6} MB to start; is the unit right?"
    ]


def _lifetime_problems(parameters: Parameters, *, batch: bool) -> list[str]:
    """The shortest life must be a life, the longest must end before the walltime."""
    lifetime = lifetime_seconds(parameters, walltime=batch)
    if lifetime is None:
        return []
    stagger = stagger_seconds(parameters)
    walltime = None
    if batch and parameters.walltime is not None:
        walltime = parse_duration(parameters.walltime)
    if parameters.lifetime is None:
        shortest = 2 * stagger + GRACE_PERIOD
        if walltime is None or walltime > shortest:
            return []
        return [
            f"walltime = {parameters.walltime!r}: must be longer than {shortest:g} s, "
            f"twice lifetime-stagger ({stagger:g} s) plus {GRACE_PERIOD} s of grace, "
            + _ROTATION
        ]
    field = f"lifetime = {parameters.lifetime!r}"
    problems = []
    if lifetime < stagger + 1:
        problems.append(
            f"{field}: must be at least {stagger + 1:g} s, one more than lifetime-stagger "
            f"({stagger:g} s), {_ROTATION}"
        )
    if walltime is not None and lifetime + stagger + GRACE_PERIOD > walltime:
        most = walltime - stagger - GRACE_PERIOD
        problems.append(
            f"{field}: must be at most {most:g} s, walltime = {parameters.walltime!r} minus "
            f"lifetime-stagger ({stagger:g} s) and {GRACE_PERIOD} s of grace, {_ROTATION}"
        )
    return problems


def _without_effect(parameters: Parameters, *, batch: bool) -> list[str]:
    names = []
    if parameters.pure_dask and parameters.exclusive:
        names.append("exclusive")
    if (
        parameters.pure_dask
        and "transformation_throttle" in parameters.model_fields_set
    ):
        names.append("transformation_throttle")
    if parameters.lifetime and lifetime_seconds(parameters, walltime=batch) is None:
        names.append("lifetime")
    return names

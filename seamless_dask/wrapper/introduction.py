"""Tells the scheduler what people want to see of the cluster as a whole."""

from __future__ import annotations

import re

from scheduler_ext.about import About

from .settings.durations import parse_duration
from .settings.parameters import Parameters

#: The names that seamless-config gives to the status files of its services
_NAMES = re.compile(r"(?:pure-)?daskserver-(?P<cluster>.+?)(?:-r[ow]-(?P<project>.*))?")


def about(
    name: str,
    kind: str,
    batch_system: str,
    parameters: Parameters,
    timeout: float | None,
) -> About:
    """Return the facts about a cluster.

    Parameters
    ----------
    name
        Of its status file, without ".json".
    kind
        The cluster string.
    batch_system
        Section of Dask's configuration, such as "slurm"; empty on one machine.
    parameters
        Of the cluster.
    timeout
        Seconds without work until its end; None: never.
    """
    found = _NAMES.fullmatch(name)
    walltime = parameters.walltime if batch_system else None
    return About(
        cluster=name if found is None else found["cluster"],
        project="" if found is None else (found["project"] or "").replace("--", "/"),
        kind=kind,
        batch_system=batch_system,
        timeout=timeout,
        walltime=None if walltime is None else parse_duration(walltime),
    )

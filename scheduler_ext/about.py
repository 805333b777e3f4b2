"""The cluster as a whole, as the wrapper describes it. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """Facts that the scheduler cannot know by itself; empty or None: not known.

    ``cluster`` and ``project`` are the names in Seamless' configuration, ``kind`` is the
    cluster string, such as ``dask_jobqueue::SLURMCluster``, and ``batch_system`` the name
    of its batch system. ``timeout`` is the time without work after which the cluster ends,
    ``walltime`` the longest run time of each job, both in seconds.
    """

    cluster: str = ""
    project: str = ""
    kind: str = ""
    batch_system: str = ""
    timeout: float | None = None
    walltime: float | None = None

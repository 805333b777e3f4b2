"""What the wrapper tells the scheduler about the cluster as a whole."""

from __future__ import annotations

import pytest

from scheduler_ext.about import About
from seamless_dask.wrapper.introduction import about
from seamless_dask.wrapper.settings.parameters import read_parameters


@pytest.mark.parametrize(
    ("name", "cluster", "project"),
    [
        ("daskserver-local-rw-demo", "local", "demo"),
        ("daskserver-big-one-ro-fit--stage-2", "big-one", "fit/stage-2"),
        ("pure-daskserver-big-default", "big-default", ""),
        ("anything", "anything", ""),
    ],
)
def test_the_name_of_the_status_file_says_the_project(
    name: str, cluster: str, project: str
) -> None:
    """As seamless-config composes it; other names are shown as they are."""
    parameters, _ = read_parameters({"walltime": "4h"})
    facts = about(name, "dask_jobqueue::SLURMCluster", "slurm", parameters, 600.0)
    assert facts == About(
        cluster, project, "dask_jobqueue::SLURMCluster", "slurm", 600.0, 14400.0
    )


def test_a_local_cluster_has_no_walltime() -> None:
    """The parameter has no effect there."""
    parameters, _ = read_parameters({"walltime": "4h"})
    facts = about("x", "distributed::LocalCluster", "", parameters, None)
    assert (facts.walltime, facts.timeout) == (None, None)

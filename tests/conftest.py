"""Fixtures for all tests; see ``helpers/stack.py`` for the real stack."""

from __future__ import annotations

import copy
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import dask
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
# Commands of this environment are found without activating it: the neighbours start
# each other by name.
_COMMANDS = str(Path(sys.executable).parent)
os.environ["PATH"] = os.pathsep.join([_COMMANDS, os.environ.get("PATH", os.defpath)])

# A shell starts what runs in the background with signals ignored, and the processes that
# tests send them to would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

from helpers.certificates import certificates  # noqa: E402

if TYPE_CHECKING:
    from helpers.batch_systems import BatchSystem
    from helpers.stack import RealStack

    from seamless_dask import SeamlessDaskClient


__all__ = ["certificates"]  # a fixture


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several processes, tests that share something expensive stay in one.

    That is a file with its fixtures. A batch system is on a machine only once.
    """
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        group = item.path.relative_to(item.config.rootpath).as_posix()
        if fixtures & {"slurm", "grid_engine", "oar"}:
            group = "batch systems"
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(autouse=True)
def dask_configuration() -> Iterator[None]:
    """What a test sets in Dask's configuration, by a dry run say, ends with it."""
    before = copy.deepcopy(dask.config.config)
    yield
    dask.config.config.clear()
    dask.config.config.update(before)
    for defaults in dask.config.defaults:  # of packages that were imported meanwhile
        dask.config.update(dask.config.config, defaults, priority="old")


@pytest.fixture(scope="module")
def real_stack(request: pytest.FixtureRequest) -> Iterator[RealStack]:
    """A real stack for one module; its end fails if a process is left.

    Parametrize indirectly to choose: ``{"remote": "jobserver", "workers": 4}``.
    """
    from helpers.stack import RealStack

    with RealStack(**getattr(request, "param", {})) as stack:
        yield stack


@pytest.fixture(scope="module")
def dummy() -> Iterator[SeamlessDaskClient]:
    """A dummy scheduler: two Seamless processes, three transformations in each."""
    import seamless.config

    from seamless_dask import create_dummy_client, set_seamless_dask_client

    seamless.config.set_nparallel(50)
    client = create_dummy_client(worker_threads=6, spawn_workers=2)
    yield client
    set_seamless_dask_client(None)


@pytest.fixture(scope="session")
def slurm() -> Iterator[BatchSystem]:
    """A SLURM cluster of four nodes, n1 to n4, with 72 processors each."""
    from helpers.batch_systems import started

    with started("slurm") as system:
        yield system


@pytest.fixture(scope="session")
def grid_engine() -> Iterator[BatchSystem]:
    """A Grid Engine with one node and 64 slots; its parallel environment is smp."""
    from helpers.batch_systems import started

    with started("sge") as system:
        yield system


@pytest.fixture(scope="session")
def oar() -> Iterator[BatchSystem]:
    """An OAR with the nodes oarnode1 and oarnode2, with 24 cores each."""
    from helpers.batch_systems import started

    with started("oar") as system:
        yield system

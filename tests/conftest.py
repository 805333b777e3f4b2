"""Fixtures for all tests; see ``helpers/stack.py`` for the real stack."""

from __future__ import annotations

import copy
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
# Commands of this environment are found without activating it: the neighbours start
# each other by name.
_COMMANDS = str(Path(sys.executable).parent)
os.environ["PATH"] = os.pathsep.join([_COMMANDS, os.environ.get("PATH", os.defpath)])

# Nor does it matter how wide a terminal is: pytest-xdist says so where there is none.
for _name in ("COLUMNS", "LINES"):
    os.environ.pop(_name, None)

from helpers.examples import examples  # noqa: E402

# How long an example takes says something about the machine, and nothing about the code.
hypothesis.settings.register_profile(
    "without a clock", deadline=None, max_examples=examples(100)
)
hypothesis.settings.load_profile("without a clock")

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


#: files whose tests use a real batch system: two of them would disturb each other
ON_BATCH_SYSTEMS = (
    "tests/wrapper/jobs/test_slurm.py",
    "tests/wrapper/jobs/test_batch_systems.py",
    "tests/wrapper/jobs/test_check_on_batch_systems.py",
    "tests/real_stack/test_machines.py",
)

#: files that take long, whose tests share nothing: each may run in any process
SHARING_NOTHING = (
    "tests/child/state/test_process_packages.py",
    "tests/child/state/test_process_state.py",
    "tests/child/test_compiling.py",
    "tests/project/test_docs.py",
    "tests/real_stack/test_queues.py",
    "tests/wrapper/jobs/test_wrapper_lying_programs.py",
    "tests/wrapper/test_wrapper_bad_input.py",
    "tests/wrapper/test_wrapper_life.py",
    "tests/wrapper/test_wrapper_site_check.py",
)


def _group(nodeid: str) -> str:
    """What one process runs from beginning to end, if several processes run the tests.

    Mostly a file, since its tests share what is expensive to start.
    """
    file = nodeid.partition("::")[0]
    if file in SHARING_NOTHING:
        return nodeid
    return "batch systems" if file in ON_BATCH_SYSTEMS else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Distribute the groups of tests."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    # as ordered below
    config.option.loadscopereorder = False
    return Groups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several processes, what takes long comes first: they end at about one time."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return

    def rank(item: pytest.Item) -> int:
        if _group(item.nodeid) == "batch systems":
            return 0
        return 1 if item.get_closest_marker("cluster") else 2

    first = {_group(item.nodeid): 2 for item in items}
    for item in items:
        first[_group(item.nodeid)] = min(first[_group(item.nodeid)], rank(item))
    items.sort(key=lambda item: first[_group(item.nodeid)])


@pytest.fixture(autouse=True)
def dask_configuration() -> Iterator[None]:
    """What a test sets in Dask's configuration, by a dry run say, ends with it."""
    before = copy.deepcopy(dask.config.config)
    yield
    dask.config.config.clear()
    dask.config.config.update(before)
    for defaults in dask.config.defaults:  # of packages that were imported meanwhile
        dask.config.update(dask.config.config, defaults, priority="old")


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """As usual, but not of 64 characters: Seamless would take that for a checksum."""
    if len(str(tmp_path)) == 64:
        tmp_path = tmp_path / "below"
        tmp_path.mkdir()
    return tmp_path


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
    from helpers.pools import until_started

    from seamless_dask import create_dummy_client, set_seamless_dask_client

    seamless.config.set_nparallel(50)
    client = create_dummy_client(worker_threads=6, spawn_workers=2)
    until_started(client)
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

"""How many cores the libraries of a transformation may use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seamless_dask.child.cores import (
    VARIABLES,
    allow,
    cores_of_job,
    threads_per_transformation,
)
from seamless_dask.cluster.environment import THREADS_ENV

number = st.integers(1, 500)


@given(cores=number, slots=number, threads=number)
def test_no_core_is_given_twice(cores: int, slots: int, threads: int) -> None:
    """As many threads as cores at most, unless there are fewer cores than slots."""
    each = threads_per_transformation(
        cores=cores, slots=slots, threads=threads, exclusive=False
    )
    at_a_time = min(slots, threads)
    assert each == 1 or each * at_a_time <= cores
    assert (each + 1) * at_a_time > cores


@given(cores=number, slots=number, threads=number)
def test_an_exclusive_one_has_all(cores: int, slots: int, threads: int) -> None:
    """It is alone on its node."""
    assert cores == threads_per_transformation(
        cores=cores, slots=slots, threads=threads, exclusive=True
    )


@pytest.mark.parametrize(
    ("said", "cores"),
    [("72", 72), ("72(x2)", 72), ("200", 100), ("", 100), ("0", 100), ("many", 100)],
)
def test_cores_of_a_job(said: str, cores: int) -> None:
    """The batch system says, where the whole machine is visible."""
    assert cores_of_job({"PYTHON_CPU_COUNT": said}, 100) == cores
    assert cores_of_job({}, 100) == 100


def test_what_a_user_has_set_stays() -> None:
    """Dask's default of one does not."""
    environment = {THREADS_ENV: "8", VARIABLES[0]: "1", VARIABLES[1]: "3"}
    allow(environment)
    assert [environment[name] for name in VARIABLES] == ["8", "3", "8"]
    untouched = {VARIABLES[0]: "1"}
    allow(untouched)
    assert untouched == {VARIABLES[0]: "1"}


def library_threads(salt: str) -> list[str | None]:
    """What a transformation finds, and a program that it calls."""
    import os
    import subprocess
    import sys

    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    code = f"import os; print([os.environ.get(n) for n in {names!r}])"
    called = subprocess.run([sys.executable, "-c", code], capture_output=True)
    return [os.environ.get(name) for name in names] + [called.stdout.decode().strip()]


@pytest.fixture(params=[True, False], ids=["exclusive", "shared"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[bool]:
    """A local cluster under a nanny, which sets the variables to one."""
    import dask
    from distributed import Client, LocalCluster

    from seamless_dask import SeamlessDaskClient, set_seamless_dask_client

    resources = {"S": 1} if request.param else {}
    with dask.config.set(
        {
            "distributed.worker.daemon": False,
            "distributed.worker.resources": resources,
        }
    ):
        with (
            LocalCluster(
                n_workers=1,
                threads_per_worker=3,
                dashboard_address=None,
                silence_logs=40,
                host="127.0.0.1",
            ) as cluster,
            Client(cluster, set_as_default=False) as dask_client,
        ):
            client = SeamlessDaskClient(dask_client, worker_plugin_workers=1)
            set_seamless_dask_client(client)
            yield request.param
            set_seamless_dask_client(None)


@pytest.mark.cluster
def test_transformations_find_it(cluster: bool) -> None:
    """All cores of the node in exclusive mode, otherwise one for each."""
    from dask.system import CPU_COUNT
    from seamless.transformer import direct

    expected = str(CPU_COUNT) if cluster else "1"
    found = direct(library_threads)(f"{cluster}")
    assert found == [expected] * 3 + [repr([expected] * 3)]

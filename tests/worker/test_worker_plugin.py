"""The worker plugin in real Dask worker processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import dask
import psutil
import pytest
from distributed import Client, LocalCluster
from helpers.polling import wait_until

import scheduler_ext
from seamless_dask.client import SeamlessDaskClient
from seamless_dask.worker.plugin import SeamlessWorkerPlugin

pytestmark = pytest.mark.cluster


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """A cluster without workers; they are started with `scale`."""
    # daemonic processes must not have children
    with dask.config.set({"distributed.worker.daemon": False}):
        with LocalCluster(
            n_workers=0,
            threads_per_worker=6,
            dashboard_address=None,
            silence_logs=False,
            host="127.0.0.1",
        ) as cluster:
            yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as client:
        yield client


def square(x: int) -> int:
    return x * x


def tree_of(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def resources(client: Client) -> list[dict[str, float]]:
    info = client.scheduler_info(n_workers=-1)["workers"]
    return [worker["resources"] for worker in info.values()]


def wait_for_units(client: Client, workers: int) -> None:
    def ready() -> bool:
        found = resources(client)
        return len(found) == workers and all("S" in worker for worker in found)

    wait_until(ready, "workers with units")


def test_a_later_client_asks_once(cluster: LocalCluster, client: Client) -> None:
    """It may be far away: the cluster's settings come with the version."""
    SeamlessDaskClient(client, worker_plugin_workers=2)
    handlers = cluster.scheduler.handlers
    with (
        Client(cluster, set_as_default=False) as later,
        pytest.MonkeyPatch.context() as patch,
    ):
        calls: list[str] = []

        def counted(op: str) -> Any:
            def handler(*arguments: Any, **options: Any) -> Any:
                calls.append(op)
                return original(*arguments, **options)

            original = handlers[op]
            return handler

        for op in list(handlers):
            patch.setitem(handlers, op, counted(op))
        SeamlessDaskClient(later, worker_plugin_workers=2)
        assert [op for op in calls if op != "identity"] == ["seamless_version"]


@pytest.mark.parametrize("order", ["worker first", "client first"])
def test_workers_are_ready_whoever_comes_first(
    cluster: LocalCluster, client: Client, order: str
) -> None:
    """On a batch system the plugin is registered long before the first worker."""
    if order == "worker first":
        cluster.scale(1)
        client.wait_for_workers(1, timeout=60)
    SeamlessDaskClient(client, worker_plugin_workers=2)
    waiting = client.submit(square, 3, resources={"S": 1})
    if order == "client first":
        cluster.scale(1)
    assert waiting.result(timeout=60) == 9
    (found,) = resources(client)
    assert found["S"] == 6


def test_units_that_the_operator_chose_stay(
    cluster: LocalCluster, client: Client
) -> None:
    """In exclusive mode a worker offers one unit, whatever its processes."""
    SeamlessDaskClient(client, worker_plugin_workers=1)
    with dask.config.set({"distributed.worker.resources": {"S": 1.0}}):
        cluster.scale(1)
        wait_for_units(client, 1)
    assert client.submit(square, 3, resources={"S": 1}).result(timeout=60) == 9
    assert [found["S"] for found in resources(client)] == [1.0]


def test_no_process_outlives_a_killed_worker(
    cluster: LocalCluster, client: Client
) -> None:
    """SIGKILL gives a Dask worker no chance to end its Seamless processes."""
    SeamlessDaskClient(client, worker_plugin_workers=2)
    cluster.scale(1)
    wait_for_units(client, 1)
    # a nanny whose worker dies while it starts gives up; that is not our subject
    wait_until(lambda: cluster.workers, "the nanny has its worker")
    (pid,) = client.run(os.getpid).values()
    seamless_processes = tree_of(pid)
    assert len(seamless_processes) >= 2
    os.kill(pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(seamless_processes, timeout=20)
    assert not alive
    # the nanny has started another worker, which becomes one of ours as well
    assert client.submit(square, 4, resources={"S": 1}).result(timeout=60) == 16


def test_teardown_ends_the_processes(cluster: LocalCluster, client: Client) -> None:
    """A retired worker leaves nothing; the permission manager forgets it."""
    SeamlessDaskClient(client, worker_plugin_workers=2)
    cluster.scale(1)
    wait_for_units(client, 1)
    (pid,) = client.run(os.getpid).values()
    everything = tree_of(pid)
    begin = time.monotonic()
    cluster.scale(0)
    _, alive = psutil.wait_procs(everything, timeout=20)
    assert not alive
    assert time.monotonic() - begin < 20  # a guard; about a second is usual

    def capacity() -> int:
        async def ask() -> Any:
            scheduler: Any = client.scheduler
            return await scheduler.seamless_status()

        return client.sync(ask)["permissions"]["capacity"]

    wait_until(lambda: capacity() == 0, "the capacity goes")


def test_changed_services_reconfigure_the_workers(
    cluster: LocalCluster, client: Client
) -> None:
    """A hashserver that was started again has another port."""

    def environment() -> str | None:
        return os.environ.get("SEAMLESS_REMOTE_CLIENTS")

    def services(port: int) -> dict[str, Any]:
        entry = {"readonly": False, "remote_url": f"http://127.0.0.1:{port}"}
        return {"database": [entry], "buffer": []}

    cluster.scale(1)
    client.wait_for_workers(1, timeout=60)
    SeamlessDaskClient(client, worker_plugin_workers=1, remote_clients=services(1))
    (before,) = client.run(environment).values()
    # one that has no services to offer changes nothing
    SeamlessDaskClient(client, worker_plugin_workers=5)
    SeamlessDaskClient(client, worker_plugin_workers=1, remote_clients=services(2))
    (after,) = client.run(environment).values()
    assert "127.0.0.1:1" in before
    assert "127.0.0.1:2" in after
    assert client.submit(square, 5, resources={"S": 1}).result(timeout=60) == 25


def test_scheduler_plugin_of_another_version(client: Client) -> None:
    """Two versions never talk past each other."""

    def other_version(dask_scheduler: Any = None) -> None:
        async def version(**_: Any) -> dict[str, Any]:
            return {"status": "ok", "protocol": 99, "version": "9.9"}

        dask_scheduler.handlers["seamless_version"] = version

    client.run_on_scheduler(other_version)
    with pytest.raises(RuntimeError) as caught:
        SeamlessDaskClient(client)
    assert "9.9" in str(caught.value)
    assert scheduler_ext.__version__ in str(caught.value)


def test_number_of_processes_is_checked() -> None:
    """Before anything is sent to a cluster."""
    with pytest.raises(ValueError, match="processes: got 0, allowed is 1 or more"):
        SeamlessWorkerPlugin(0)

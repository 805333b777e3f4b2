"""Workers on one machine come and go with the work."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager

import dask.config
import pytest
from distributed import Client, LocalCluster
from helpers.schedulers import PATIENCE, asynchronous, gate, pass_gate, until
from hypothesis import given
from hypothesis import strategies as st

import scheduler_ext
from seamless_dask.wrapper.scaling import local
from seamless_dask.wrapper.scaling.local import LocalAdaptive, choose
from seamless_dask.wrapper.scaling.policy import ScalingPolicy

WORKERS = st.sampled_from("abcdefgh")


@pytest.mark.parametrize(
    ("free", "number", "results", "chosen"),
    [
        ("abcd", 1, "", [1]),
        ("acd", 1, "", [2]),  # "b" of the first job is busy
        ("a", 2, "", []),
        ("abcd", 2, "", [1, 2]),
        ("abcd", 2, "c", [1]),  # the last one keeps the results
        ("abcd", 2, "a", [2]),
        ("abcd", 1, "abcd", [1]),
        ("abcd", 0, "", []),
        ("abcd", -1, "", []),
    ],
)
def test_choosing_jobs(free, number, results, chosen) -> None:
    """Only whole jobs, and not the last one that has results."""
    assert choose({1: ["a", "b"], 2: ["c", "d"]}, free, number, results) == chosen


@given(
    jobs=st.dictionaries(st.integers(0, 9), st.lists(WORKERS, min_size=1, max_size=3)),
    free=st.sets(WORKERS),
    number=st.integers(-1, 10),
    results=st.sets(WORKERS),
)
def test_choosing_never_ends_what_is_needed(jobs, free, number, results) -> None:
    """Busy workers stay, and so does somebody who can take the results."""
    chosen = choose(jobs, free, number, results)
    assert len(chosen) <= max(0, number)
    assert all(set(jobs[job]) <= free for job in chosen)
    if any(set(workers) & results for workers in jobs.values()):
        assert len(chosen) < len(jobs)


@asynccontextmanager
async def local_cluster(maximum, **options):
    """(cluster, its plugin, a client); workers in this process, with one thread."""
    async with LocalCluster(
        n_workers=0,
        threads_per_worker=1,
        asynchronous=True,
        dashboard_address="127.0.0.1:0",
        silence_logs=False,
        **{"processes": False, **options},
    ) as cluster:
        plugin = scheduler_ext.attach(cluster.scheduler)
        policy = ScalingPolicy(
            minimum=0,
            maximum=maximum,
            slots_per_worker=1,
            target_duration=0.001,
            idle_seconds=0.3,
        )
        cluster.adapt(
            Adaptive=LocalAdaptive, plugin=plugin, policy=policy, interval="50 ms"
        )
        async with Client(cluster, asynchronous=True, set_as_default=False) as client:
            yield cluster, plugin, client


@pytest.mark.cluster
@asynchronous
async def test_workers_follow_the_work(caplog):
    """Up with the tasks, down without; each decision is logged and shown once."""
    caplog.set_level("INFO", "seamless_dask.wrapper.scaling.local")
    async with local_cluster(maximum=3) as (cluster, plugin, client):
        workers = cluster.scheduler.workers
        # as one graph, so that one decision is about all of them
        keys = [*(f"s-{n}" for n in range(4)), "l"]
        *short, long = client.map(pass_gate, [*"ssss", "l"], key=keys)
        await until(lambda: len(workers) == 3)
        gate("s").set()
        await client.gather(short)
        # the one that runs stays, although it has no results
        await until(lambda: len(workers) == 1)
        assert [ts.key for ws in workers.values() for ts in ws.processing] == ["l"]
        gate("l").set()
        await long
        # the last one stays while it has results
        await until(lambda: plugin.scaling.snapshot()["wanted"] == 0)
        await asyncio.wait({asyncio.ensure_future(cluster._adaptive.adapt())})
        assert len(workers) == 1
        long.release()
        for future in short:
            future.release()
        await until(lambda: not workers)
        record = plugin.scaling.snapshot()
        logged = [r.message for r in caplog.records if "->" in r.message]
    steps = [(each["from"], each["to"]) for each in record["decisions"]]
    assert steps == [(0, 3), (3, 1), (1, 0)]
    assert record["decisions_total"] == {"up": 1, "down": 2}
    assert len(logged) == 3
    assert all(
        each["reason"] in line
        for each, line in zip(record["decisions"], logged, strict=True)
    )


@pytest.mark.cluster
@asynchronous
async def test_a_worker_that_leaves_is_replaced():
    """It finishes what it runs, and does not count."""
    async with local_cluster(maximum=1) as (cluster, plugin, client):
        workers = cluster.scheduler.workers
        first = client.submit(pass_gate, "x", key="first")
        second = client.submit(pass_gate, "x", key="second")
        await until(lambda: workers)
        [leaving] = workers
        await until(lambda: cluster.scheduler.tasks["first"].processing_on is not None)
        retired = asyncio.create_task(plugin.retire([leaving]))
        await until(lambda: len(workers) == 2)
        gate("x").set()
        assert await client.gather([first, second]) == ["x", "x"]
        assert await retired
        await until(lambda: list(cluster.worker_spec) == [1])
        assert leaving not in workers


@pytest.mark.cluster
@asynchronous
async def test_workers_that_cannot_start_are_tried_less_and_less_often(monkeypatch):
    """The record says so, until one connects."""
    monkeypatch.setattr(local, "PAUSE", (0.05, 0.2))
    preload = {"preload": ["no_such_module_at_all"]}
    async with local_cluster(1, **preload) as (cluster, plugin, client):

        def error():
            return plugin.scaling.snapshot()["submission_error"]

        future = client.submit(int, 1)
        await until(lambda: error() and error()["failures"] >= 2)
        assert "ended before they connected" in error()["message"]
        assert error()["retry_at"] > error()["time"]
        del cluster.new_spec["options"]["preload"]
        assert await future == 1
        await until(lambda: error() is None)


@pytest.mark.cluster
@asynchronous
async def test_a_failed_start_under_the_name_of_an_earlier_worker_counts(caplog):
    """Dask gives names again, and the earlier worker had connected."""
    caplog.set_level("INFO", "seamless_dask.wrapper.scaling.local")
    async with local_cluster(1) as (cluster, plugin, client):
        assert await client.submit(int, 1) == 1
        await until(lambda: not cluster.worker_spec)
        cluster.new_spec["options"]["preload"] = ["no_such_module_at_all"]
        future = client.submit(int, 2)
        await until(lambda: plugin.scaling.snapshot()["submission_error"])
        future.release()
    assert "Ending workers 0." in caplog.messages
    assert "Workers 0 have ended." not in caplog.messages


STUCK = """
import asyncio, os

async def dask_setup(worker):
    if os.path.exists({marker!r}):
        os.unlink({marker!r})
        await asyncio.Event().wait()  # its file system does not answer
"""


@asynccontextmanager
async def sluggish(tmp_path):
    """(cluster, its plugin, a client, the path of a file that lets one start hang)."""
    marker = tmp_path / "marker"
    preload = tmp_path / "stuck.py"
    preload.write_text(STUCK.format(marker=str(marker)))
    options = {"processes": True, "preload": [str(preload)]}
    async with local_cluster(1, **options) as (cluster, plugin, client):
        yield cluster, plugin, client, marker


@pytest.mark.cluster
@asynchronous
async def test_a_worker_that_does_not_start_is_started_again(tmp_path, monkeypatch):
    """Dask would wait for it, and start no other, for ever."""
    monkeypatch.setattr(local, "START_SECONDS", 8.0)
    monkeypatch.setattr(local, "PAUSE", (0.05, 0.2))
    async with sluggish(tmp_path) as (cluster, plugin, client, marker):
        marker.touch()
        assert await client.submit(int, 1) == 1
        assert not marker.exists()


@pytest.mark.cluster
@asynchronous
async def test_a_lost_worker_that_does_not_come_back_is_started_again(
    tmp_path, monkeypatch
):
    """By its keeper, under its name."""
    monkeypatch.setattr(local, "START_SECONDS", 8.0)
    async with sluggish(tmp_path) as (cluster, plugin, client, marker):
        pid = await client.submit(os.getpid, pure=False)
        await until(lambda: 0 in cluster.workers)
        marker.touch()
        os.kill(pid, signal.SIGKILL)
        assert await client.submit(os.getpid, pure=False) != pid
        assert not marker.exists()
        assert list(cluster.workers) == [0]


@pytest.mark.cluster
@asynchronous
async def test_a_lost_worker_that_dask_forgets_is_replaced(tmp_path, monkeypatch):
    """It is no worker that will be there some time."""
    monkeypatch.setattr(local, "START_SECONDS", 8.0)
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "100ms"}):
        async with sluggish(tmp_path) as (cluster, plugin, client, marker):
            pid = await client.submit(os.getpid, pure=False)
            await until(lambda: 0 in cluster.workers)
            marker.touch()
            os.kill(pid, signal.SIGKILL)
            assert await client.submit(os.getpid, pure=False) != pid
            needed = client.submit(time.sleep, 600)  # or it would be closed soon

            def agree() -> bool:
                there = len(cluster.scheduler.workers)
                specified = list(cluster.worker_spec)
                return specified == list(cluster.workers) and len(specified) == there

            await until(lambda: agree() and len(cluster.workers) == 1)
            needed.release()
            # on a busy machine the next one may start too late as well
            await until(lambda: plugin.scaling.snapshot()["submission_error"] is None)


@pytest.mark.cluster
@asynchronous
async def test_a_worker_that_is_not_needed_while_it_starts_stops_no_other(
    tmp_path, monkeypatch
):
    """The step that ends it waits until Dask has started it."""
    monkeypatch.setattr(local, "START_SECONDS", 8.0)
    async with sluggish(tmp_path) as (cluster, _plugin, client, marker):
        marker.touch()
        future = client.submit(int, 1)
        await until(lambda: not marker.exists())
        future.release()
        await until(lambda: not cluster.worker_spec)
        assert await client.submit(int, 2) == 2


@pytest.mark.cluster
@asynchronous
async def test_others_start_while_a_worker_retires(monkeypatch):
    """Its last task may take hours; the end does not wait for it either."""
    retiring, ended = asyncio.Event(), asyncio.Event()
    async with local_cluster(maximum=2) as (cluster, plugin, client):
        scheduler = cluster.scheduler

        async def retire_workers(*args, **options):
            retiring.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        assert await client.submit(int, 1, key="first") == 1
        [leaving] = scheduler.workers
        with monkeypatch.context() as patch:
            patch.setattr(scheduler, "retire_workers", retire_workers)
            await until(retiring.is_set)
            second = client.submit(int, 2, key="second")
            assert await asyncio.wait_for(second, PATIENCE) == 2
            assert plugin.leaves(leaving)
            assert list(cluster.worker_spec) == [0, 1] and not ended.is_set()
    assert ended.is_set()


@pytest.mark.cluster
@asynchronous
async def test_a_worker_that_could_not_retire_stays_and_retires_later(monkeypatch):
    """It counts as one that stays meanwhile."""
    async with local_cluster(maximum=1) as (cluster, _plugin, client):
        scheduler = cluster.scheduler
        real, failures = scheduler.retire_workers, []

        async def retire_workers(*args, **options):
            if not failures:
                failures.append(args)
                raise OSError("the connection is lost")
            return await real(*args, **options)

        monkeypatch.setattr(scheduler, "retire_workers", retire_workers)
        assert await client.submit(int, 1) == 1
        await until(lambda: failures and not cluster.worker_spec)
        assert await client.submit(int, 2) == 2


@pytest.mark.cluster
@asynchronous
async def test_the_end_does_not_wait_for_a_worker_that_does_not_start(tmp_path):
    """Dask would, for ever."""
    async with sluggish(tmp_path) as (_cluster, _plugin, client, marker):
        marker.touch()
        future = client.submit(int, 1)
        await until(lambda: not marker.exists())
        future.release()

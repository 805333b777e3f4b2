"""The clock of the machine is set while a cluster runs."""

from __future__ import annotations

import pytest
from distributed import LocalCluster, metrics
from distributed import scheduler as dask_scheduler
from helpers.schedulers import asynchronous, until
from hypothesis import given
from hypothesis import strategies as st

import scheduler_ext
from scheduler_ext.clock import TOLERANCE, Jumps

SECONDS = st.floats(0, 1e5)


@given(SECONDS, SECONDS, st.lists(st.floats(-1e6, 1e6)))
def test_jumps_are_told_once(clock: float, steady: float, jumps: list[float]) -> None:
    """Forward and back; that time goes on is none."""
    watch = Jumps(clock, steady)
    for jump in jumps:
        steady += 0.5
        clock += 0.5 + jump
        expected = jump if abs(jump) > TOLERANCE else 0.0
        assert watch.seen(clock, steady) == pytest.approx(expected, abs=1e-6)
        steady += 100.0
        clock += 100.0
        assert watch.seen(clock, steady) == 0.0


@pytest.mark.cluster
@pytest.mark.parametrize("jump", [3600.0, -3600.0])
@asynchronous
async def test_workers_stay(monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    """Dask would take them for lost, or not notice for an hour that they are."""
    async with LocalCluster(
        n_workers=1, processes=False, asynchronous=True, dashboard_address=None
    ) as cluster:
        scheduler = cluster.scheduler
        scheduler_ext.attach(scheduler)
        await until(lambda: scheduler.workers)
        (worker,) = scheduler.workers.values()
        cluster.workers[0].periodic_callbacks["heartbeat"].stop()
        before = worker.last_seen
        time = metrics.time
        for module in (metrics, dask_scheduler):
            monkeypatch.setattr(module, "time", lambda: time() + jump)
        await until(lambda: worker.last_seen != before)
        assert worker.last_seen == pytest.approx(before + jump, abs=1)
        await scheduler.check_worker_ttl()
        assert list(scheduler.workers.values()) == [worker]

"""A loss that was nobody's fault is not charged to tasks, on a real scheduler."""

from __future__ import annotations

import pytest
from distributed.scheduler import KilledWorker
from helpers.schedulers import (
    asynchronous,
    cluster,
    gate,
    pass_gate,
    until,
)

from scheduler_ext import losses

pytestmark = pytest.mark.cluster


async def lose(c, **options):
    """A worker with the task "a" dies; return its address."""
    worker = await c.worker(nthreads=1, **options)
    await until(lambda: c.state("a") == "processing")
    await worker.close(executor_wait=False)
    await until(lambda: worker.address not in c.scheduler.workers)
    return worker.address


@asynchronous
async def test_more_losses_than_allowed_when_each_is_forgiven():
    """The task survives them all, and is charged for others."""
    async with cluster() as c:
        client = await c.client()
        future = client.submit(pass_gate, "x", key="a")
        for _ in range(c.scheduler.allowed_failures + 2):
            address = await lose(c)
            assert c.scheduler.tasks["a"].suspicious == 1
            assert c.plugin.forgive(address) == 1
            assert c.plugin.forgive(address) == 0
            assert c.scheduler.tasks["a"].suspicious == 0
            assert c.scheduler.task_prefixes["a"].suspicious == 0
        for _ in range(c.scheduler.allowed_failures + 1):
            address = await lose(c)
        assert c.plugin.forgive(address) == 0
        with pytest.raises(KilledWorker):
            await future
        gate("x").set()


@asynchronous
async def test_a_later_task_of_the_same_name_owes_nothing(monkeypatch):
    """Nor is more remembered than allowed, or what ended as expected."""
    monkeypatch.setattr(losses, "MAX_LOSSES", 2)
    async with cluster() as c:
        client = await c.client()
        future = client.submit(pass_gate, "x", key="a")
        # Otherwise the system may give one port twice.
        hosts = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
        first, second, third = [await lose(c, host=host) for host in hosts]
        assert c.plugin.forgive(first) == 0
        await client.cancel(future)
        await until(lambda: c.state("a") is None)
        future = client.submit(pass_gate, "x", key="a")
        await lose(c)
        assert c.plugin.forgive(second) == c.plugin.forgive(third) == 0
        assert c.scheduler.tasks["a"].suspicious == 1
        worker = await c.worker(nthreads=1)
        await until(lambda: c.state("a") == "processing")
        await c.scheduler.remove_worker(
            worker.address, expected=True, stimulus_id="test"
        )
        assert c.plugin.forgive(worker.address) == 0
        assert c.scheduler.tasks["a"].suspicious == 1
        gate("x").set()

"""Workers that leave finish what they run, on a real scheduler with real workers."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from distributed.core import Status
from helpers.schedulers import (
    A,
    B,
    C,
    D,
    asynchronous,
    cluster,
    gate,
    pass_gate,
    until,
)

import scheduler_ext
from scheduler_ext import retiring
from scheduler_ext.retiring import RETIRE, STEAL_RESPONSE
from scheduler_ext.task_keys import NESTED_RESOURCE, TOP_LEVEL_RESOURCE

pytestmark = pytest.mark.cluster

#: {what: how often it was executed}; the workers live in this process
EXECUTED: Counter[str] = Counter()


def run(name, wait_for):
    """A task that is counted when it starts."""
    EXECUTED[name] += 1
    pass_gate(wait_for)
    return name


@pytest.fixture(autouse=True)
def nothing_executed():
    EXECUTED.clear()


def submit(client, names, wait_for, **kwargs):
    return [client.submit(run, name, wait_for, key=name, **kwargs) for name in names]


@asynchronous
async def test_what_runs_is_waited_for_and_the_rest_goes_elsewhere():
    """Nothing is lost, nothing runs twice, and results are moved."""
    async with cluster() as c:
        client = await c.client()
        leaving = await c.worker(nthreads=2)
        names = [f"task-{n}" for n in range(10)]
        futures = submit(
            client, names, "x", workers=[leaving.address], allow_other_workers=True
        )
        await until(lambda: sum(EXECUTED.values()) == 2)
        staying = await c.worker(nthreads=8)
        call = asyncio.create_task(c.call.retire_workers(workers=[leaving.address]))
        # all but the two that run are with the other worker soon
        await until(lambda: sum(EXECUTED.values()) == 10)
        assert c.plugin.leaves(leaving.address)
        assert leaving.status == Status.closing_gracefully
        assert len(leaving.state.executing) == 2
        assert not call.done()
        gate("x").set()
        assert list(await call) == [leaving.address]
        assert leaving.address not in c.scheduler.workers
        assert not c.plugin.leaves(leaving.address)
        assert await client.gather(futures) == names
        assert set(EXECUTED.values()) == {1}
        assert len(staying.data) == 10


@asynchronous
async def test_the_only_worker_goes_on_when_nobody_can_take_its_results():
    """It finishes what runs, then takes the tasks again that it had given back."""
    async with cluster() as c:
        client = await c.client()
        worker = await c.worker(nthreads=1)
        futures = submit(client, ["a", "b"], "x")
        await until(lambda: EXECUTED["a"])
        call = asyncio.create_task(c.plugin.retire([worker.address]))
        await until(lambda: c.state("b") in ("no-worker", "queued"))
        gate("x").set()
        assert not await call
        assert await client.gather(futures) == ["a", "b"]
        assert set(EXECUTED.values()) == {1}
        assert worker.status == Status.running
        assert not c.plugin.leaves(worker.address)


@asynchronous
async def test_a_worker_at_the_end_of_its_lifetime_waits_for_an_heir():
    """It will end in any case; the next worker takes its results."""
    async with cluster() as c:
        client = await c.client()
        worker = await c.worker(nthreads=1)
        [future] = submit(client, ["a"], "x")
        gate("x").set()
        assert await future == "a"
        ending = asyncio.create_task(worker.close_gracefully())
        await until(lambda: worker.status == Status.closing_gracefully)
        heir = await c.worker()
        await ending
        assert list(heir.data) == ["a"]
        assert EXECUTED["a"] == 1


@asynchronous
async def test_a_worker_without_an_heir_ends_all_the_same(monkeypatch):
    """It is given no more tasks that would be lost with it; its result is computed
    again."""
    monkeypatch.setattr(retiring, "PATIENCE", 0.3)
    async with cluster() as c:
        client = await c.client()
        worker = await c.worker(nthreads=1)
        [first] = submit(client, ["a"], "x")
        gate("x").set()
        assert await first == "a"
        ending = asyncio.create_task(worker.close_gracefully())
        await until(lambda: worker.status == Status.closing_gracefully)
        [second] = submit(client, ["b"], "x")
        await ending
        await until(lambda: worker.address not in c.scheduler.workers)
        assert EXECUTED["b"] == 0
        assert not c.plugin._retiring._leaving
        await c.worker()
        assert await client.gather([first, second]) == ["a", "b"]
        assert EXECUTED == {"a": 2, "b": 1}
        assert c.scheduler.tasks["a"].suspicious == 0


@asynchronous
async def test_several_calls_for_one_worker():
    """By names and by address at a time; both return, one with the worker."""
    async with cluster() as c:
        client = await c.client()
        worker = await c.worker(name="leaving")
        await c.worker()
        [future] = submit(client, ["a"], "x", workers=["leaving"])
        await until(lambda: EXECUTED["a"])
        calls = [
            asyncio.create_task(c.call.retire_workers(names=["leaving"])),
            asyncio.create_task(c.call.retire_workers(workers=[worker.address])),
        ]
        await until(lambda: c.plugin.leaves(worker.address))
        gate("x").set()
        answers = await asyncio.gather(*calls)
        assert [worker.address] in [list(answer) for answer in answers]
        assert await future == "a"


@asynchronous
async def test_a_worker_that_dies_while_it_leaves():
    """Nobody waits for it any more, and its task runs again."""
    async with cluster() as c:
        client = await c.client()
        worker = await c.worker(nthreads=1)
        [future] = submit(client, ["a"], "x")
        await until(lambda: EXECUTED["a"])
        await c.worker()
        call = asyncio.create_task(c.plugin.drain([worker.address]))
        await until(lambda: c.plugin.leaves(worker.address))
        await worker.close(executor_wait=False)
        await call
        assert not c.plugin._retiring._leaving
        gate("x").set()
        assert await future == "a"


@asynchronous
async def test_the_last_worker_runs_nested_work_while_it_leaves():
    """Otherwise its tasks would wait for ever; another worker takes that over."""
    units = {TOP_LEVEL_RESOURCE: 1.0, NESTED_RESOURCE: 100.0}
    outer, child, later, grandchild = (f"base-{each}" for each in (A, B, C, D))
    async with cluster() as c:
        client = await c.client()
        worker = await c.worker(units=units, nthreads=4)
        await c.register(worker, throttle=4, units=1.0, resources=units)
        top = {"resources": {TOP_LEVEL_RESOURCE: 1}}
        futures = submit(client, [outer, later], "x", **top)
        await until(lambda: EXECUTED[outer])
        call = asyncio.create_task(c.plugin.retire([worker.address]))
        await until(lambda: c.state(later) == "no-worker")
        futures += submit(client, [child], "y", resources={NESTED_RESOURCE: 1})
        await until(lambda: EXECUTED[child])
        assert worker.status == Status.running
        # a second one takes the top-level task, and nested work from now on
        second = await c.worker(units=units, nthreads=4)
        await c.register(second, throttle=4, units=1.0, resources=units)
        await until(lambda: EXECUTED[later])
        await until(lambda: worker.status == Status.closing_gracefully)
        futures += submit(client, [grandchild], "y", resources={NESTED_RESOURCE: 1})
        await until(lambda: EXECUTED[grandchild])
        assert grandchild in second.state.tasks
        gate("y").set()
        gate("x").set()
        assert await call
        assert len(await client.gather(futures)) == 4
        assert set(EXECUTED.values()) == {1}


@asynchronous
async def test_wrong_arguments_are_answered_as_dask_does():
    """Nothing drains then."""
    async with cluster() as c:
        worker = await c.worker()
        with pytest.raises(TypeError, match="mutually exclusive"):
            await c.call.retire_workers(workers=[worker.address], names=["a"])
        assert await c.call.retire_workers(workers=["tcp://127.0.0.1:1"]) == {}
        assert worker.status == Status.running


@asynchronous
async def test_dask_chooses_idle_workers():
    """Without names and addresses, the scheduler chooses."""
    async with cluster() as c:
        client = await c.client()
        workers = [await c.worker(), await c.worker()]
        [future] = submit(client, ["a"], "x", workers=[workers[0].address])
        await until(lambda: EXECUTED["a"])
        retired = await c.call.retire_workers(n=1)
        assert list(retired) == [workers[1].address]
        gate("x").set()
        assert await future == "a"


@asynchronous
async def test_detaching_restores_the_handlers():
    """And who waits goes on."""
    async with cluster() as c:
        client = await c.client()
        ours = c.scheduler.handlers[RETIRE], c.scheduler.stream_handlers[STEAL_RESPONSE]
        worker = await c.worker()
        [future] = submit(client, ["a"], "x")
        await until(lambda: EXECUTED["a"])
        call = asyncio.create_task(c.plugin.drain([worker.address]))
        await until(lambda: c.plugin.leaves(worker.address))
        scheduler_ext.detach(c.scheduler)
        await call
        stock = (
            c.scheduler.handlers[RETIRE],
            c.scheduler.stream_handlers[STEAL_RESPONSE],
        )
        assert stock == (
            c.scheduler.retire_workers,
            c.scheduler.extensions["stealing"].move_task_confirm,
        )
        assert ours != stock
        gate("x").set()
        assert await future == "a"

"""How much work there is, compared with a look at every task of a real scheduler."""

from __future__ import annotations

import asyncio
import io
import random

import pytest
from distributed import secede
from helpers.metrics import metrics_of
from helpers.schedulers import (
    A,
    Cluster,
    asynchronous,
    cluster,
    fail,
    gate,
    pass_gate,
    until,
)
from rich.console import Console

from scheduler_ext.messages import OP_FALLBACK, mark
from scheduler_ext.view import figures
from seamless_dask.status import view

pytestmark = pytest.mark.cluster

READY = {"queued", "no-worker", "processing"}


def leave_thread(name):
    """A task that lets others have its thread, and waits."""
    secede()
    pass_gate(name)


def seconds(scheduler, task):
    """What a task is expected to take."""
    prefix = task.prefix
    if prefix.duration_average >= 0:
        return prefix.duration_average
    if prefix.max_exec_time > 0:
        return 2 * prefix.max_exec_time
    return scheduler.UNKNOWN_TASK_DURATION


def scanned(scheduler, plugin):
    """(ready, running, held, expected seconds), from all tasks."""
    long_running = {t for ws in scheduler.workers.values() for t in ws.long_running}
    ready = [t for t in scheduler.tasks.values() if t.state in READY]
    held = [
        t
        for t in ready
        if t in long_running
        or (t.state == "processing" and plugin._machine.waits(t.key))
    ]
    active = [t for t in ready if t not in held]
    return (
        len(active),
        sum(t.state == "processing" for t in active),
        len(held),
        pytest.approx(sum(seconds(scheduler, t) for t in active), abs=1e-6),
    )


def check(c):
    """The counters agree with the scan, and remember no prefix that is finished."""
    demand = c.plugin.demand()
    got = (demand.ready, demand.running, demand.held, demand.expected_seconds)
    assert got == scanned(c.scheduler, c.plugin)
    assert c.plugin._meter._prefixes == {
        t.prefix.name
        for t in c.scheduler.tasks.values()
        if t.state in READY | {"waiting"}
    }


@asynchronous
async def test_the_counters_agree_with_a_scan_whatever_happens():
    """Errors, retries, cancellation, workers that come and go, a restart."""
    rng = random.Random(7)
    async with cluster() as c:
        client = await c.client()
        workers = [await c.worker(), await c.worker()]
        futures = []
        for step in range(150):
            prefix = f"{rng.choice('pqrs')}{rng.choice('tuvw')}"
            what = rng.randrange(12)
            if what < 3:
                gates = [f"g{rng.randrange(20)}" for _ in range(rng.randrange(1, 12))]
                futures += [
                    client.submit(pass_gate, name, key=f"{prefix}-{step}-{n}")
                    for n, name in enumerate(gates)
                ]
            elif what == 3 and futures:
                after = rng.sample(futures, min(3, len(futures)))
                key = f"after-{step}"
                futures.append(client.submit(pass_gate, "g1", *after, key=key))
            elif what == 4:
                futures.append(
                    client.submit(fail, "g2", key=f"{prefix}-{step}", retries=1)
                )
            elif what == 5:
                key = f"{prefix}-{step}"
                futures.append(client.submit(leave_thread, "g3", key=key))
            elif what == 6:
                key = f"nowhere-{step}"
                resources = {"missing": 1}
                futures.append(
                    client.submit(pass_gate, "g4", key=key, resources=resources)
                )
            elif what == 7 and futures:
                gone = rng.sample(futures, min(5, len(futures)))
                futures = [f for f in futures if f not in gone]
                await client.cancel(gone)
            elif what == 8:
                await client.scatter({f"data-{step}": step})
            elif what == 9 and len(workers) > 1:
                lost = workers.pop(rng.randrange(len(workers)))
                await lost.close(executor_wait=False)
            elif what == 10 and len(workers) < 4:
                workers.append(await c.worker())
            else:
                gate(f"g{rng.randrange(20)}").set()
            await asyncio.sleep(0)
            check(c)
        last = client.submit(int, key="last", resources={"missing": 1})
        await until(lambda: c.state(last.key) == "no-worker")  # all else has arrived
        check(c)
        await client.restart(wait_for_workers=False, timeout=5)
        check(c)
        assert c.plugin.demand().ready == 0


@asynchronous
async def test_who_goes_on_after_nested_work_is_counted_again():
    """Dask calls it long-running until its end, but it needs its slot."""
    async with cluster() as c:
        worker = await c.worker()
        client = await c.client()
        await c.register(worker, processes=1, throttle=1)
        parent = f"base-{A}"
        future = client.submit(leave_thread, "x", key=parent)
        (ws,) = c.scheduler.workers.values()
        await until(lambda: any(t.key == parent for t in ws.long_running))
        assert c.plugin.demand().held == 0
        await c.request(worker, "child", owner=parent)
        assert (c.plugin.demand().held, c.plugin.demand().running) == (1, 0)
        await c.call.seamless_release(holder=worker.address, ids=["child"])
        assert (c.plugin.demand().held, c.plugin.demand().running) == (0, 1)
        gate("x").set()
        await future


@asynchronous
async def test_who_waits_for_nested_work_needs_no_worker_and_requests_do():
    """The parent is held, what it asked for and did not get yet is needed."""
    async with cluster() as c:
        worker = await c.worker()
        client = await c.client()
        await c.register(worker, processes=1, throttle=1)
        parent, child = f"base-{A}", f"base-{A[::-1]}b"
        future = client.submit(pass_gate, "x", key=parent)
        await until(lambda: c.state(parent) == "processing")
        before = c.plugin.demand()
        assert (before.ready, before.held, before.permissions) == (1, 0, 0)
        await c.request(worker, child, "other", "third", owner=parent)
        after = c.plugin.demand()
        assert (after.ready, after.held, after.top_level) == (0, 1, 0)
        unknown = c.scheduler.UNKNOWN_TASK_DURATION
        assert after.expected_seconds == after.permissions * unknown > 0
        gate("x").set()
        await future


@asynchronous
async def test_what_was_refused_lately_is_demand():
    """Otherwise a cluster without workers would never start one for optional work."""
    async with cluster() as c:
        client = await c.client()
        assert (await c.request(client, "a", wait=False))["refused"]
        assert (await c.request(client, "a", wait=False))["refused"]
        demand = c.plugin.demand()
        assert (demand.permissions, demand.unknown) == (1, 1)
        assert demand.expected_seconds == c.scheduler.UNKNOWN_TASK_DURATION
        client._send_to_scheduler({"op": OP_FALLBACK, "key": "a"})
        await until(lambda: not c.plugin.demand().permissions)
        assert (await c.statistics())["fallbacks_total"] == 1
        for nonsense in ({}, {"key": 1}, {"key": "a", "more": 2}):
            client._send_to_scheduler({"op": OP_FALLBACK, **nonsense})
        worker = await c.worker()
        await c.register(worker)
        assert (await c.request(client, "a", wait=False))["granted"] == ["a"]
        assert (await c.statistics())["fallbacks_total"] == 1


async def is_shown(c: Cluster, announced: int) -> None:
    """Where those that wait are counted: as numbers, on the page, in the terminal."""
    assert (await c.call.seamless_progress())["announced"] == announced
    found = await metrics_of(c.scheduler)
    assert found["seamless_transformations_announced"] == announced
    told = c.plugin.status()
    assert told["announced"] == announced
    console = Console(file=io.StringIO(), width=160)
    console.print(view.status("tcp://127.0.0.1:1", told))
    seen = figures.figures(c.plugin.operations)
    card = next(card for card in seen.cards if card.title == "Transformations")
    text = f"{announced} more announced by driver scripts"
    for shown in (console.file.getvalue(), seen.waiting_title, card.note):
        assert (text in shown) == bool(announced), shown
        assert ("announced" in shown) == bool(announced), shown


@asynchronous
async def test_what_clients_keep_back_is_demand_like_the_tasks_that_are_there():
    """Until they submit it, or are gone."""
    async with cluster() as c:
        client = await c.client()
        futures = [client.submit(pass_gate, f"base-{i}", key=f"base-{i}") for i in "ab"]
        await until(lambda: c.plugin.demand().ready == 2)
        alone = c.plugin.demand()
        client._send_to_scheduler(mark(2, 10))
        await until(lambda: c.plugin.status()["announced"] == 10)
        both = c.plugin.demand()
        assert (both.ready, both.top_level) == (12, alone.top_level + 10)
        assert both.expected_seconds == pytest.approx(6 * alone.expected_seconds)
        await is_shown(c, 10)
        client._send_to_scheduler(mark(2, 0))
        await until(lambda: c.plugin.demand() == alone)
        await is_shown(c, 0)
        client._send_to_scheduler(mark(2, 3))
        await until(lambda: c.plugin.status()["announced"] == 3)
        del futures
        await client.close()
        await until(lambda: c.plugin.status()["announced"] == 0)

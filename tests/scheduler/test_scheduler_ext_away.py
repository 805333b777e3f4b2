"""A connection that times out costs a client no work, on a real scheduler."""

from __future__ import annotations

import errno

import pytest
from distributed.comm import connect
from distributed.metrics import monotonic
from helpers.schedulers import (
    A,
    B,
    asynchronous,
    cluster,
    gate,
    pass_gate,
    until,
)

from scheduler_ext import away
from scheduler_ext.task_keys import TOP_LEVEL_RESOURCE

pytestmark = pytest.mark.cluster

KEYS = f"base-{A}", f"base-{B}"


async def submitted(c):
    """A client with a task that executes and one that waits for a slot."""
    worker = await c.worker(units={TOP_LEVEL_RESOURCE: 1.0})
    await c.register(worker, resources={TOP_LEVEL_RESOURCE: 1.0})
    client = await c.client()
    await submit(c, client)
    c.plugin.step(monotonic())  # learns of the connection
    return client


async def submit(c, client):
    futures = [
        client.submit(pass_gate, key, key=key, resources={TOP_LEVEL_RESOURCE: 1})
        for key in KEYS
    ]
    await until(lambda: [c.state(key) for key in KEYS] == ["processing", "no-worker"])
    await until(lambda: len(c.scheduler.clients[client.id].wants_what) == len(KEYS))
    return futures


def end_connection(c, client, error=None):
    """The operating system ends the connection of a client, for a reason."""
    stream = c.scheduler.client_comms[client.id].comm.stream
    stream.close((type(error), error, None) if error else False)


TIMEOUT = OSError(errno.ETIMEDOUT, "Connection timed out")


@asynchronous
async def test_tasks_wait_for_their_client():
    """It comes back and submits them again: each is executed once, and then forgotten."""
    async with cluster() as c:
        client = await submitted(c)
        begun = c.scheduler.tasks[KEYS[0]]
        added = c.scheduler._client_connections_added_total
        end_connection(c, client, TIMEOUT)
        await until(lambda: c.scheduler._client_connections_added_total > added)
        await until(lambda: client.status == "running")
        c.plugin.step(monotonic())
        assert c.scheduler.tasks[KEYS[0]] is begun
        assert [c.state(key) for key in KEYS] == ["processing", "no-worker"]
        futures = await submit(c, client)
        c.plugin.step(monotonic())
        assert not [k for k in c.scheduler.clients if k.startswith(away.PREFIX)]
        for key in KEYS:
            gate(key).set()
        assert await client.gather(futures) == list(KEYS)
        assert c.scheduler.tasks[KEYS[0]] is begun
        for future in futures:
            future.release()
        await until(lambda: not c.scheduler.tasks)


@asynchronous
async def test_a_client_that_ends_leaves_nothing():
    """Its connection was closed, not lost."""
    async with cluster() as c:
        client = await submitted(c)
        client.status = "closing"  # so that it does not connect again
        end_connection(c, client)
        await until(lambda: c.state(KEYS[1]) is None)
        gate(KEYS[0]).set()
        await until(lambda: not c.scheduler.tasks)


@asynchronous
async def test_a_client_that_does_not_come_back():
    """Its tasks end after a while."""
    async with cluster() as c:
        client = await submitted(c)
        client.status = "closing"
        end_connection(c, client, TIMEOUT)
        await until(lambda: client.id not in c.scheduler.clients)
        now = monotonic()
        c.plugin.step(now + away.PATIENCE - 1.0)
        assert [c.state(key) for key in KEYS] == ["processing", "no-worker"]
        c.plugin.step(now + away.PATIENCE + 1.0)
        await until(lambda: c.state(KEYS[1]) is None)
        assert not [k for k in c.scheduler.clients if k.startswith(away.PREFIX)]
        gate(KEYS[0]).set()
        await until(lambda: not c.scheduler.tasks)


@asynchronous
async def test_a_client_that_is_back_before_its_connection_has_ended():
    """The end of the old connection takes nothing from the new one."""
    async with cluster() as c:
        client = await submitted(c)
        comm = await connect(c.scheduler.address)
        await comm.write(
            {
                "op": "register-client",
                "client": client.id,
                "reply": False,
                "versions": {},
            }
        )
        await comm.read()
        client.status = "closing"
        await client.scheduler_comm.comm.close()
        await until(lambda: client.id not in c.scheduler.clients)
        assert [c.state(key) for key in KEYS] == ["processing", "no-worker"]
        await comm.close()
        c.plugin.step(monotonic() + away.PATIENCE + 1.0)
        gate(KEYS[0]).set()
        await until(lambda: not c.scheduler.tasks)

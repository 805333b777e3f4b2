"""A client submits no faster than the scheduler takes submissions in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from distributed import Client, LocalCluster
from helpers.schedulers import asynchronous, until

import scheduler_ext
from scheduler_ext.messages import OP_MARK, PUSH_SEEN
from seamless_dask.submit import pace
from seamless_dask.submit.pace import AHEAD, Pace

pytestmark = pytest.mark.cluster


@asynccontextmanager
async def cluster() -> AsyncIterator[tuple[Any, Client, Pace]]:
    """(scheduler, client, pace of the client)."""
    async with LocalCluster(
        n_workers=1, processes=False, asynchronous=True, dashboard_address=None
    ) as cluster:
        scheduler_ext.attach(cluster.scheduler)
        async with Client(cluster, asynchronous=True, set_as_default=False) as client:
            yield cluster.scheduler, client, Pace(client)


@asynchronous
async def test_submissions_do_not_pile_up() -> None:
    """They wait while the scheduler is busy, and go on with it."""
    async with cluster() as (scheduler, client, own):
        gate = asyncio.Event()
        take_in = scheduler.stream_handlers["update-graph"]

        async def when_open(**message: Any) -> None:
            await gate.wait()
            await take_in(**message)

        scheduler.stream_handlers["update-graph"] = when_open
        futures = []

        async def submit() -> None:
            for number in range(2 * AHEAD):
                await own.keep()
                futures.append(client.submit(int, number, pure=False))
                own.sent()

        submitting = asyncio.create_task(submit())
        await until(lambda: len(futures) == AHEAD)
        await asyncio.wait({submitting}, timeout=0.3)
        assert len(futures) == own.ahead == AHEAD
        gate.set()
        await submitting
        assert await client.gather(futures) == list(range(2 * AHEAD))
        await until(lambda: own.ahead == 0)


@asynchronous
async def test_an_answer_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the connection, for instance: it is asked for again."""
    monkeypatch.setattr(pace, "AGAIN", 0.1)
    async with cluster() as (_, client, own):
        on_seen = client._stream_handlers.pop(PUSH_SEEN)
        lost = []
        client._stream_handlers[PUSH_SEEN] = lambda number, **_: lost.append(number)
        for _ in range(AHEAD):
            own.sent()
        await until(lambda: lost)
        waiting = asyncio.create_task(own.keep())
        client._stream_handlers[PUSH_SEEN] = on_seen
        await waiting
        assert own.ahead == 0


@asynchronous
async def test_nobody_waits_for_a_client_that_is_closed() -> None:
    """What follows says so itself."""
    async with cluster() as (_, client, own):
        client._stream_handlers[PUSH_SEEN] = lambda **_: None
        for _ in range(AHEAD):
            own.sent()
        await client.close()
        await own.keep()


@asynchronous
async def test_a_question_that_makes_no_sense() -> None:
    """It has no answer, and the connection stays."""
    async with cluster() as (_, client, own):
        for number in (None, "x", [1]):
            client._send_to_scheduler({"op": OP_MARK, "number": number})
        assert await client.submit(int, 1) == 1

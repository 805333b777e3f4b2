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
from scheduler_ext.sent_messages import KEPT
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


@asynchronous
async def test_those_that_wait_go_on_in_order() -> None:
    """A chain that must be submitted again begins with its first member."""
    async with cluster() as (_, client, own):
        client._stream_handlers[PUSH_SEEN] = lambda **_: None
        for _ in range(AHEAD):
            own.sent()
        went_on: list[int] = []

        async def wait(number: int) -> None:
            await own.keep()
            went_on.append(number)
            own.sent()

        waiting = [asyncio.create_task(wait(number)) for number in range(AHEAD)]
        await until(lambda: len(own._waiters) == AHEAD)
        for seen in range(AHEAD // 5, AHEAD + 1, AHEAD // 5):
            own._on_seen(seen, 0, 1)
            await until(lambda seen=seen: len(went_on) == seen)
        await asyncio.gather(*waiting)
        assert went_on == list(range(AHEAD))


@asynchronous
async def test_another_connection_keeps_few_of_its_messages_as_well() -> None:
    async with cluster() as (scheduler, client, own):
        for _ in range(2):
            future = client.submit(int, 1, pure=False)
            own.sent()
            assert await future == 1
            assert client.scheduler_comm.recent_message_log.maxlen == KEPT
            before = client.scheduler_comm
            scheduler.client_comms[client.id].comm.abort()
            await until(lambda: client.scheduler_comm not in (None, before))  # noqa: B023


@asynchronous
async def test_what_is_kept_back_and_cancelled_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wherever it was in the line."""
    monkeypatch.setattr(pace, "UNENDED", 0)
    monkeypatch.setattr(pace, "PER_SLOT", 0)
    async with cluster() as (_, _, own):
        kept = asyncio.create_task(own.admit())
        await until(lambda: own.kept_back == 1)
        others = [asyncio.create_task(own.admit()) for _ in range(100)]
        await until(lambda: own.kept_back == 101)
        for each in others:
            each.cancel()
        await asyncio.wait(others)
        assert own.kept_back == len(own._line) == 1
        monkeypatch.setattr(pace, "UNENDED", 1)
        own._let_in()
        assert await kept
        own.submitted()

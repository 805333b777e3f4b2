"""Thousands who wait for evaluations on the event loop of a client."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import weakref
from typing import Any

import pytest
from helpers.loops import running_loop

from seamless_dask.submit import ongoing
from seamless_dask.submit.ongoing import ClientClosed, Ongoing

SOON = 60
Future = concurrent.futures.Future


async def outcome(waiting: Ongoing) -> str:
    try:
        await waiting.wait()
    except ClientClosed:
        return "closed"
    return "ended"


def test_all_learn_that_a_client_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of other clients go on waiting, and those that have ended have ended."""
    monkeypatch.setattr(ongoing, "LOOK_INTERVAL", 0.01)
    futures: list[Future[None]] = [Future() for _ in range(100)]
    other: Future[None] = Future()

    async def main(
        closing: asyncio.AbstractEventLoop, loop: asyncio.AbstractEventLoop
    ) -> list[str]:
        waiting = [
            asyncio.create_task(outcome(Ongoing(each, closing))) for each in futures
        ]
        alive = asyncio.create_task(outcome(Ongoing(other, loop)))
        await asyncio.sleep(0.05)
        futures[0].set_result(None)
        await waiting[0]
        closing.call_soon_threadsafe(closing.stop)
        ended = await asyncio.wait_for(asyncio.gather(*waiting), SOON)
        assert not alive.done()
        other.set_result(None)
        return [*ended, await asyncio.wait_for(alive, SOON)]

    with running_loop() as closing, running_loop() as loop:
        found = asyncio.run(main(closing, loop))
    assert found == ["ended", *["closed"] * 99, "ended"]


def test_who_waits_no_more_leaves_nothing() -> None:
    async def main(loop: asyncio.AbstractEventLoop) -> None:
        futures: list[Future[None]] = [Future() for _ in range(10)]
        tasks = [asyncio.create_task(outcome(Ongoing(f, loop))) for f in futures]
        await asyncio.sleep(0)
        here = ongoing._waiters.of(asyncio.get_running_loop())
        assert here._timer is not None
        for task in tasks[:5]:
            task.cancel()
        for future in futures[5:]:
            future.set_result(None)
        await asyncio.wait(tasks, timeout=SOON)
        assert all(task.done() for task in tasks)
        assert not here._places
        assert here._timer is None

    with running_loop() as loop:
        asyncio.run(main(loop))


def test_an_event_loop_that_ends_while_somebody_waits_is_forgotten() -> None:
    """It is closed without the end of its tasks, as some programs do."""

    async def main(waiting: Ongoing) -> None:
        task = asyncio.create_task(waiting.wait())
        await asyncio.sleep(0)
        task._log_destroy_pending = False  # type: ignore[attr-defined]

    def ended(client: asyncio.AbstractEventLoop) -> weakref.ref[Any]:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main(Ongoing(Future(), client)))
        loop.close()
        return weakref.ref(loop)

    with running_loop() as client:
        reference = ended(client)
        gc.collect()
        assert reference() is None

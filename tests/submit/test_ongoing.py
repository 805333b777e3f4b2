"""Thousands who wait for evaluations on the event loop of a client."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.polling import wait_until

from seamless_dask.submit import garbage, intake, mailbox, ongoing
from seamless_dask.submit.client_loop import ClientLoop
from seamless_dask.submit.intake import Intake
from seamless_dask.submit.ongoing import ClientClosed, Ongoing

SOON = 60
Future = concurrent.futures.Future


@contextmanager
def running_loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(SOON)
        loop.close()


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
        here = ongoing._waiters_of(asyncio.get_running_loop())
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


def waits_in_fork(lock: Any) -> int:
    """The exit code of a process that is forked while a thread holds a lock."""
    loop = asyncio.new_event_loop()
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            free.wait(SOON)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(SOON)
    child = os.fork()
    if not child:
        signal.alarm(20)  # it would wait for ever
        ongoing._waiters_of(loop)
        mailbox.mailbox_of(loop)
        os._exit(0)
    free.set()
    thread.join(SOON)
    loop.close()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("module", [ongoing, mailbox])
def test_a_fork_waits_for_no_thread_of_its_parent(module: Any) -> None:
    assert waits_in_fork(module._creation) == 0


def test_interrupting_thousands_does_not_wait_for_the_search_for_garbage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It leaves out what is there; later it includes everything again."""
    monkeypatch.setattr(intake, "MANY", 50)
    monkeypatch.setattr(garbage, "CALM", 0.05)

    before = gc.get_freeze_count()
    with running_loop() as loop:
        full = True
        taken = intake_on(loop, lambda: full)
        futures = [taken.put(never()) for _ in range(120)]
        wait_until(lambda: len(taken) == 120, "all have arrived")
        for each in futures[:49]:
            each.cancel()
        assert gc.get_freeze_count() == before
        for each in futures[49:]:
            each.cancel()
        assert gc.get_freeze_count() > before
        wait_until(lambda: gc.get_freeze_count() == 0, "everything is included again")
        assert all(each.cancelled() for each in futures)
        full = False
        loop.call_soon_threadsafe(taken.wake)
        wait_until(lambda: not len(taken), "none is left")


class Garbage:
    """Is deleted only by the search for garbage."""

    def __init__(self) -> None:
        self.itself = self


async def never() -> None:
    await asyncio.get_running_loop().create_future()


def intake_on(
    loop: asyncio.AbstractEventLoop, is_full: Callable[[], bool] = lambda: False
) -> Intake:
    dask_client: Any = SimpleNamespace(loop=SimpleNamespace(asyncio_loop=loop))
    return Intake(ClientLoop(dask_client), is_full)


def cancel(taken: Intake, number: int) -> None:
    before = taken._taken
    futures = [taken.put(never()) for _ in range(number)]
    wait_until(lambda: taken._taken == before + number, "all have arrived")
    for each in futures:
        each.cancel()


def test_a_program_that_cancels_all_the_time_does_not_grow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python searches its objects from time to time, however many it cancels."""
    monkeypatch.setattr(intake, "MANY", 50)
    monkeypatch.setattr(garbage, "CALM", 0.5)
    found: list[weakref.ref[Garbage]] = []

    def goes_on() -> bool:
        garbage = Garbage()
        found.append(weakref.ref(garbage))
        cancel(taken, 60)
        del garbage
        gc.collect()
        return found[0]() is None

    with running_loop() as loop:
        taken = intake_on(loop)
        wait_until(goes_on, "the first garbage is deleted")
        wait_until(lambda: not asyncio.all_tasks(loop), "all have ended")
    wait_until(lambda: gc.get_freeze_count() == 0, "everything is included again")


@pytest.mark.parametrize("first", ["close", "cancel"])
def test_cancelling_with_a_closed_client_leaves_nothing_out_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, first: str
) -> None:
    monkeypatch.setattr(intake, "MANY", 50)
    monkeypatch.setattr(garbage, "CALM", 0.5)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    taken = intake_on(loop)
    futures = [taken.put(never()) for _ in range(50)]
    wait_until(lambda: taken._taken == 50, "all have arrived")

    def cancel_all() -> None:
        for each in futures:
            each.cancel()

    if first == "cancel":
        cancel_all()
    loop.call_soon_threadsafe(loop.stop)
    thread.join(SOON)
    cancel_all()
    assert gc.get_freeze_count() > 0
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    wait_until(lambda: gc.get_freeze_count() == 0, "everything is included again")
    # what tests before have left may be deleted meanwhile, and say so
    said = [record.getMessage() for record in caplog.records]
    assert not [each for each in said if not each.startswith("Unclosed")]

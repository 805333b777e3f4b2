"""Evaluations that have not begun, on a real event loop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.loops import running_loop
from helpers.polling import wait_until

from seamless_dask.garbage import GarbageSearch
from seamless_dask.submit import intake
from seamless_dask.submit.client_loop import ClientLoop
from seamless_dask.submit.intake import Intake

MANY = 100_000


class Subject:
    """An intake that lets nothing begin until `full` is False."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.full = True
        self.told: list[int] = []
        self.begun: list[int] = []
        dask_client: Any = SimpleNamespace(loop=SimpleNamespace(asyncio_loop=loop))
        self.intake = Intake(ClientLoop(dask_client), lambda: self.full)
        self.intake.on_fewer = lambda: self.told.append(len(self.intake))
        self.coroutines: list[Any] = []

    async def work(self, number: int) -> None:
        self.begun.append(number)

    def put(self, number: int = 0) -> Any:
        coroutine = self.work(number)
        self.coroutines.append(coroutine)
        return self.intake.put(coroutine)

    def closed(self) -> int:
        states = [inspect.getcoroutinestate(each) for each in self.coroutines]
        return states.count(inspect.CORO_CLOSED)

    def let_in(self) -> None:
        def wake() -> None:
            self.full = False
            self.intake.wake()

        self.loop.call_soon_threadsafe(wake)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[Subject]:
    """It does not change the search for garbage of the process of the tests."""
    monkeypatch.setattr(intake, "search", GarbageSearch(1_000_000_000))
    with running_loop() as loop:
        yield Subject(loop)


def test_cancelled_ones_leave_at_once(own: Subject) -> None:
    """Also those in the middle; what they hold is free, and the others go on."""
    futures = [own.put(number) for number in range(100)]
    wait_until(lambda: len(own.intake) == 100, "all have arrived")
    for each in futures[1:-1]:
        each.cancel()
    wait_until(lambda: len(own.intake) == 2, "the first and the last are left")
    assert own.closed() == 98
    assert own.told == list(range(99, 1, -1))
    own.let_in()
    futures[0].result(60)
    futures[-1].result(60)
    assert own.begun == [0, 99]


def test_cancelled_ones_never_arrive(own: Subject) -> None:
    """The loop may be busy when they are put in and cancelled."""
    first = own.put()
    for _ in range(3000):
        own.put().cancel()
    wait_until(lambda: own.closed() == 3000, "they are closed")
    assert len(own.intake) == 1
    own.let_in()
    first.result(60)


def on_the_loop(own: Subject, do: Callable[[], None]) -> None:
    async def call() -> None:
        do()

    asyncio.run_coroutine_threadsafe(call(), own.loop).result(60)


def test_one_that_is_cancelled_on_the_loop_before_it_arrives(own: Subject) -> None:
    def do() -> None:
        own.put().cancel()

    on_the_loop(own, do)
    wait_until(lambda: own.closed() == 1, "it is closed")
    assert not len(own.intake)


@pytest.mark.parametrize("last_first", [False, True])
def test_cancelling_very_many_takes_no_longer_for_each(
    own: Subject, last_first: bool
) -> None:
    futures = [own.put() for _ in range(MANY)]
    wait_until(lambda: len(own.intake) == MANY, "all have arrived")
    del futures[MANY // 2]
    for each in reversed(futures) if last_first else futures:
        each.cancel()
    wait_until(lambda: len(own.intake) == 1, "one is left", 20)
    assert own.closed() == MANY - 1
    own.let_in()
    wait_until(lambda: own.begun, "it begins")

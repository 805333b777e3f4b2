"""Ctrl-C at every place: nothing goes on that was interrupted, nobody waits for ever."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import seamless_config
from helpers.interrupting import interrupted
from helpers.loops import running_loop
from helpers.polling import wait_until
from seamless.transformer import Transformation, delayed, parallel
from seamless_transformer.multi import _ParallelIterator

from seamless_dask import (
    set_seamless_dask_client,
)
from seamless_dask.submit import ongoing
from seamless_dask.submit.mailbox import Mailbox
from seamless_dask.submit.ongoing import Ongoing
from seamless_dask.submit.other_clients import adapt

SOON = 20.0
RESULT = "3" * 64
Future = concurrent.futures.Future


class Patient:
    """A client whose transformations run until `finish`, or are cancelled."""

    def __init__(self) -> None:
        self.running: dict[Future[Any], str] = {}
        self.finished = False

    def submit_transformation(self, submission: Any) -> Any:
        future: Future[Any] = Future()
        self.running[future] = submission.tf_checksum
        if self.finished:
            self.finish()
        return types.SimpleNamespace(base=future, thin=future, fat=None)

    def release_transformation_futures(
        self, futures: Any, cancel: bool = False
    ) -> None:
        if cancel and self.running.pop(futures.base, None):
            futures.base.cancel()

    def finish(self) -> None:
        """Let all end that run, and later ones at once."""
        self.finished = True
        while self.running:
            future, checksum = self.running.popitem()
            future.set_result((checksum, RESULT, None))


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Patient]:
    monkeypatch.setattr(ongoing, "LOOK_INTERVAL", 2 * SOON)  # while it waits, it waits
    client = Patient()
    set_seamless_dask_client(client)
    client.finished = True
    made("first").compute()  # imports what all need
    client.finished = False
    yield client
    set_seamless_dask_client(None)
    _kept.clear()


#: an interrupt while one is deleted would be lost
_kept: list[Transformation] = []


def made(salt: Any) -> Transformation:
    def code(salt):
        return salt

    _kept.append(delayed(code)(str(salt)))
    return _kept[-1]


def evaluations(loop: asyncio.AbstractEventLoop) -> list[Any]:
    """The evaluations that go on."""
    tasks = asyncio.all_tasks(loop)
    return [each for each in tasks if each.get_coro().__name__ == "evaluate"]


# -- the interrupted call ----------------------------------------------------------


def on_loop(coroutine: Any) -> None:
    """Run a coroutine; at an interrupt do what ``asyncio.run`` does then."""
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(coroutine)
    finally:
        left = asyncio.all_tasks(loop)
        for each in left:
            each.cancel()
        loop.run_until_complete(asyncio.wait(left)) if left else None
        loop.close()


async def task(tf: Transformation) -> Any:
    return await tf.task()


def several(tf: Transformation) -> None:
    seamless_config.set_nparallel(3)
    for _ in parallel([tf, *(made((tf.celltype, id(tf), i)) for i in range(2))]):
        raise AssertionError("none of them ends")


WAYS: dict[str, Callable[[Transformation], object]] = {
    "compute": lambda tf: tf.compute(),
    "run": lambda tf: tf.run(),
    "computation": lambda tf: on_loop(tf.computation()),
    "task": lambda tf: on_loop(task(tf)),
    "parallel": several,
}


def until_it_waits(do: Callable[[int], object]) -> Iterator[int]:
    """Interrupt something at each place in turn, and at last while it waits."""
    for n in itertools.count(1):
        there = interrupted(n, lambda n=n: do(n), patience=1)
        yield n
        if not there:
            return


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_what_was_interrupted_does_not_go_on(
    client: Patient, way: Callable[[Transformation], object]
) -> None:
    loop = adapt(client).loop
    for n in until_it_waits(lambda n: way(made(n))):
        wait_until(lambda: not evaluations(loop), f"at {n}: none goes on", SOON)
        assert not client.running, n
    assert n > 20


def test_an_interrupted_start_has_started_nothing(client: Patient) -> None:
    """Unless the transformation shows it."""
    loop = adapt(client).loop
    tf = made("first")

    def start(n: int) -> None:
        nonlocal tf
        tf = made(n)
        tf.start()

    for n in itertools.count(1):
        there = interrupted(n, lambda n=n: start(n))
        if tf.status == "Status: pending":
            tf.cancel()
        else:
            assert tf.status == "Status: ready"
        wait_until(lambda: not evaluations(loop), f"at {n}: none goes on", SOON)
        if not there:
            break
    assert n > 20


def test_what_was_started_goes_on(client: Patient) -> None:
    """An interrupt in a step of the asyncio task that awaits it ends only that task."""
    for n in itertools.count(1):
        tf = made(n)
        loop = asyncio.new_event_loop()

        async def wait(tf: Transformation = tf) -> None:
            await tf.computation()

        async def begin(tf: Transformation = tf) -> None:
            tf.start()
            await asyncio.sleep(0)

        loop.run_until_complete(begin())
        client.finish()
        there = interrupted(
            n, lambda loop=loop, wait=wait: loop.run_until_complete(wait())
        )
        assert tf.compute() is not None, n
        assert asyncio.run(computation(tf)) is not None, n
        loop.close()
        client.finished = False
        if not there:
            break
    assert n > 10


# -- parallel ----------------------------------------------------------------------


class Step:
    """In place of a transformation."""

    def __init__(self, n: int, at: int | None) -> None:
        self.n = n
        self.at = at

    def task(self) -> asyncio.Task[None]:
        if self.n == self.at:
            raise KeyboardInterrupt
        return asyncio.get_running_loop().create_task(asyncio.sleep(0.01 * self.n))


@pytest.mark.parametrize("at", ["start", "end"])
def test_an_interrupted_parallel_is_closed(at: str) -> None:
    """Also if none of its tasks is left to be cancelled."""
    closed: list[bool] = []

    def finish(index: int) -> None:
        if at == "end" and index == 2:
            raise KeyboardInterrupt

    steps = [Step(i, 3 if at == "start" else None) for i in range(6)]
    running: Any = _ParallelIterator(
        list(enumerate(steps)), 6, finish, lambda: closed.append(True)
    )
    with pytest.raises(KeyboardInterrupt):
        list(running)
    assert closed == [True]
    assert running._loop.is_closed()
    assert list(running) == []


# -- given up once -----------------------------------------------------------------

AGAIN: dict[str, Callable[[Transformation], object]] = {
    "compute": lambda tf: tf.compute(),
    "start, compute": lambda tf: tf.start().compute(),
    "computation": lambda tf: asyncio.run(computation(tf)),
    "start, computation": lambda tf: asyncio.run(computation(tf, start=True)),
}


async def computation(tf: Transformation, *, start: bool = False) -> Any:
    if start:
        tf.start()
    return await asyncio.wait_for(tf.computation(), SOON)


async def give_up(tf: Transformation) -> None:
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(tf.computation(), 0.05)


async def start_and_give_up(tf: Transformation) -> None:
    tf.start()
    await give_up(tf)


async def start_and_end(tf: Transformation) -> None:
    tf.start()
    await asyncio.sleep(0.05)


@pytest.mark.parametrize("again", AGAIN.values(), ids=AGAIN)
@pytest.mark.parametrize("started", ["before", "in", "left", "not"])
def test_who_asks_after_a_time_limit_gets_the_result(
    client: Patient, started: str, again: Callable[[Transformation], object]
) -> None:
    """As if it had not been started."""
    tf = made((started, id(again)))
    if started == "before":
        tf.start()
    first = {"in": start_and_give_up, "left": start_and_end}.get(started, give_up)
    asyncio.run(first(tf))
    assert tf.status == "Status: ready"
    wait_until(lambda: not client.running, "it does not go on", SOON)
    client.finish()
    result: Any = again(tf)
    assert result.hex() == RESULT
    assert tf.status == "Status: OK"


def test_who_gives_up_stops_no_other_caller(client: Patient) -> None:
    tf = made("two callers")

    async def main() -> Any:
        tf.start()
        other = asyncio.create_task(tf.computation())
        await give_up(tf)
        client.finish()
        return await asyncio.wait_for(other, SOON)

    assert asyncio.run(main()).hex() == RESULT


def test_what_the_user_has_cancelled_stays_cancelled(client: Patient) -> None:
    tf = made("cancelled")

    async def main() -> Any:
        tf.start()
        other = asyncio.create_task(tf.computation())
        await give_up(tf)
        await asyncio.sleep(0.05)
        tf.cancel()
        client.finish()
        return await asyncio.wait_for(other, SOON), await tf.computation()

    assert asyncio.run(main()) == (None, None)
    assert tf.status == "Status: canceled"


# -- later calls -------------------------------------------------------------------


def test_a_mailbox_delivers_after_an_interrupt() -> None:
    """Also what other threads put in meanwhile."""
    with running_loop() as loop:
        for n in itertools.count(1):
            box = Mailbox(loop)
            there = interrupted(n, lambda box=box: box.put(threading.Event().set))
            arrived = threading.Event()
            box.put(arrived.set)
            assert arrived.wait(SOON), n
            if not there:
                break
    assert n > 3


def test_who_waits_is_woken_after_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first steps, when evaluations end, and when it is looked for lost ones."""
    monkeypatch.setattr(ongoing, "LOOK_INTERVAL", 0.01)

    def end(futures: list[Future[None]], begun: list[int]) -> None:
        deadline = time.monotonic() + 0.03  # an interrupt may have come before
        while len(begun) < len(futures) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02)
        for each in futures:
            each.set_result(None)

    with running_loop() as running:
        for n in itertools.count(1):
            loop = asyncio.new_event_loop()
            futures: list[Future[None]] = [Future() for _ in range(4)]
            begun: list[int] = []

            async def wait(each: Future[None], begun: list[int] = begun) -> None:
                begun.append(1)
                await Ongoing(each, running).wait()

            tasks = [loop.create_task(wait(each)) for each in futures]
            ending = threading.Thread(target=end, args=(futures, begun))
            ending.start()
            there = interrupted(
                n,
                lambda loop=loop, tasks=tasks: loop.run_until_complete(
                    asyncio.wait(tasks)
                ),
            )
            ending.join()
            _, waiting = loop.run_until_complete(asyncio.wait(tasks, timeout=SOON))
            assert not waiting, n
            for task in tasks:
                task.exception()
            last = loop.create_task(wait(Future()))
            loop.run_until_complete(asyncio.wait([last], timeout=0.001))
            here = ongoing._waiters.of(loop)
            loop.run_until_complete(asyncio.sleep(0.03))
            assert [len(each) for each in here._places.values()] == [1], n
            assert here._timer is not None
            assert here._timer.when() > loop.time() - 0.02, n
            last.cancel()
            loop.run_until_complete(asyncio.wait([last]))
            loop.close()
            if not there:
                break
    assert n > 50

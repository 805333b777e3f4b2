"""What Python's search for garbage leaves out while thousands are under way."""

from __future__ import annotations

import asyncio
import gc
import os
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.interrupting import at_every_line
from helpers.loops import running_loop
from helpers.polling import wait_until
from hypothesis import given
from hypothesis import strategies as st

from seamless_dask import garbage
from seamless_dask.garbage import GarbageSearch
from seamless_dask.submit import intake
from seamless_dask.submit.client_loop import ClientLoop
from seamless_dask.submit.intake import Intake

SOON = 60


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> Iterator[GarbageSearch]:
    """One for which 50 are many; what is left out is included again after 0.5 s."""
    monkeypatch.setattr(garbage, "CALM", 0.5)
    search = GarbageSearch(50)
    monkeypatch.setattr(intake, "search", search)
    gc.unfreeze()
    yield search
    wait_until(lambda: not search.leaves_out, "everything is included again")
    assert gc.get_freeze_count() == 0


async def never() -> None:
    await asyncio.get_running_loop().create_future()


def intake_on(
    loop: asyncio.AbstractEventLoop, is_full: Callable[[], bool] = lambda: False
) -> Intake:
    dask_client: Any = SimpleNamespace(loop=SimpleNamespace(asyncio_loop=loop))
    return Intake(ClientLoop(dask_client), is_full)


class Garbage:
    """Is deleted only by the search for garbage."""

    def __init__(self) -> None:
        self.itself = self


def new_garbage() -> weakref.ref[Garbage]:
    gc.collect(0)  # it is not searched for yet
    return weakref.ref(Garbage())


def test_what_thousands_hold_is_not_searched(search: GarbageSearch) -> None:
    """When they have ended it is."""
    with running_loop() as loop:
        taken = intake_on(loop)
        futures = [taken.put(never()) for _ in range(49)]
        assert gc.get_freeze_count() == 0
        left_out = new_garbage()
        futures += [taken.put(never()) for _ in range(71)]
        searched = new_garbage()
        gc.collect()
        assert left_out() is not None and searched() is None
        for each in futures:
            each.cancel()
        wait_until(lambda: not search.leaves_out, "all have ended")
    gc.collect()
    assert left_out() is None


def test_interrupting_thousands_does_not_wait_for_the_search(
    search: GarbageSearch,
) -> None:
    """It leaves out what is there; later it includes everything again."""
    with running_loop() as loop:
        full = True
        taken = intake_on(loop, lambda: full)
        futures = [taken.put(never()) for _ in range(45)]
        wait_until(lambda: len(taken) == 45, "all have arrived")
        for each in futures:
            each.cancel()
        assert gc.get_freeze_count() == 0
        more = [taken.put(never()) for _ in range(45)]
        for each in more:
            each.cancel()
        assert gc.get_freeze_count() > 0
        wait_until(lambda: not search.leaves_out, "everything is included again")
        assert all(each.cancelled() for each in futures + more)
        full = False
        loop.call_soon_threadsafe(taken.wake)
        wait_until(lambda: not len(taken), "none is left")


def test_a_program_that_cancels_all_the_time_does_not_grow(
    search: GarbageSearch,
) -> None:
    """Python searches its objects from time to time, however many it cancels."""
    found: list[weakref.ref[Garbage]] = []

    def goes_on() -> bool:
        found.append(new_garbage())
        for each in [taken.put(never()) for _ in range(60)]:
            each.cancel()
        gc.collect()
        return found[0]() is None

    with running_loop() as loop:
        taken = intake_on(loop)
        wait_until(goes_on, "the first garbage is deleted")
        wait_until(lambda: not asyncio.all_tasks(loop), "all have ended")


def test_a_program_that_always_has_thousands_does_not_grow(
    search: GarbageSearch,
) -> None:
    with running_loop() as loop:
        for _ in range(100):
            search.add(loop)
        for _ in range(200):
            each = new_garbage()
            for _ in range(40):
                search.remove(loop)
            for _ in range(40):
                search.add(loop)
            gc.collect()
            assert each() is None
        for _ in range(100):
            search.remove(loop)


@pytest.mark.parametrize("first", ["close", "cancel"])
def test_cancelling_with_a_closed_client_leaves_nothing_out_for_ever(
    search: GarbageSearch, caplog: pytest.LogCaptureFixture, first: str
) -> None:
    with running_loop() as loop:
        taken = intake_on(loop)
        futures = [taken.put(never()) for _ in range(50)]
        wait_until(lambda: len(asyncio.all_tasks(loop)) == 50, "they have begun")
        if first == "cancel":
            [each.cancel() for each in futures]
    [each.cancel() for each in futures]
    assert gc.get_freeze_count() > 0
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    wait_until(lambda: not search.leaves_out, "everything is included again")
    # what tests before have left may be deleted meanwhile, and say so
    said = [record.getMessage() for record in caplog.records]
    assert not [each for each in said if not each.startswith("Unclosed")]


def test_what_a_closed_client_had_does_not_add_up(search: GarbageSearch) -> None:
    """A program may close one client after the other with work under way."""
    for _ in range(5):
        with running_loop() as loop:
            left_out = new_garbage()
            for _ in range(60):
                search.add(loop)
            assert search.leaves_out
    with running_loop() as loop:
        for _ in range(70):
            search.add(loop)
        for _ in range(60):
            search.remove(loop)
        assert not search.leaves_out
        gc.collect()
        assert left_out() is None
        for _ in range(10):
            search.remove(loop)


def test_what_a_closed_client_had_is_forgotten(search: GarbageSearch) -> None:
    """Also if nothing is ever under way again."""
    with running_loop() as loop:
        for _ in range(60):
            search.add(loop)
        assert search.leaves_out
    wait_until(lambda: not search.leaves_out, "everything is included again")


def test_the_search_may_delete_what_is_under_way_at_any_moment(
    search: GarbageSearch,
) -> None:
    """Also while something else is counted; and finalisers may begin something."""
    loop = asyncio.new_event_loop()
    kept, times = [False], iter(range(600))

    def finaliser() -> None:
        if next(times, None) is None:
            return  # each may be followed by another one
        (search.remove if kept[0] else search.add)(loop)
        kept[0] = not kept[0]

    def count() -> None:
        for number in (search._many, search._many - 1):
            for _ in range(number):
                search.add(loop)
            for _ in range(number):
                search.remove(loop)

    assert at_every_line(garbage, finaliser, count)
    times = iter(range(600))
    assert at_every_line(weakref, finaliser, count)  # which it calls
    assert search._under_way == search._on[loop] == kept[0]
    if kept[0]:
        search.remove(loop)
    loop.close()


def test_a_forked_process_leaves_nothing_out(search: GarbageSearch) -> None:
    with running_loop() as loop:
        for _ in range(60):
            search.add(loop)
        child = os.fork()
        if not child:
            os._exit(search.leaves_out or gc.get_freeze_count() > 0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        for _ in range(60):
            search.remove(loop)


@given(st.lists(st.sampled_from(["add", "remove", "close"]), max_size=200))
def test_it_leaves_out_only_while_many_are_under_way(steps: list[str]) -> None:
    """Whatever comes and goes on whichever event loop."""
    search = GarbageSearch(4)
    loops = [asyncio.new_event_loop()]
    under_way = 0
    try:
        for step in steps:
            if step == "add":
                search.add(loops[-1])
                under_way += 1
            elif step == "remove" and under_way:
                search.remove(loops[-1])
                under_way -= 1
            elif step == "close":
                loops[-1].close()
                loops.append(asyncio.new_event_loop())
                under_way = 0
            if under_way >= 4:
                assert search.leaves_out
            if len(loops) == 1 and under_way <= 2:
                assert not search.leaves_out
        for _ in steps:  # as many as what closed loops had are found at the latest
            search.add(loops[-1])
        for _ in range(len(steps) + under_way):
            search.remove(loops[-1])
        assert not search.leaves_out
    finally:
        loops[-1].close()
        gc.unfreeze()

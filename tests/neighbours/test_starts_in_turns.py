"""Those who begin on one event loop begin some at a time."""

from __future__ import annotations

import asyncio
import gc
import itertools
import weakref
from collections import Counter
from typing import Any

from helpers.interrupting import interrupted
from hypothesis import given
from hypothesis import strategies as st

from seamless_dask.neighbours import starts
from seamless_dask.neighbours.starts import Starts


@given(
    number=st.integers(1, 60),
    at_a_time=st.integers(1, 7),
    given_up=st.sets(st.integers(0, 59)),
)
def test_some_begin_in_each_turn_of_the_loop_in_order(
    number: int, at_a_time: int, given_up: set[int]
) -> None:
    """Also if some of those that wait are given up; all others begin."""
    given_up &= set(range(at_a_time, number))
    turn = 0
    begun: list[int] = []
    begun_in: Counter[int] = Counter()

    async def begin(starts: Starts, name: int) -> None:
        await starts.turn()
        begun.append(name)
        begun_in[turn] += 1

    async def main() -> None:
        nonlocal turn
        starts = Starts(at_a_time)
        tasks = [asyncio.ensure_future(begin(starts, i)) for i in range(number)]
        await asyncio.sleep(0)
        for i in given_up:
            tasks[i].cancel()
        while not all(task.done() for task in tasks):
            turn += 1
            await asyncio.sleep(0)
        assert begun == [i for i in range(number) if i not in given_up]
        await asyncio.sleep(0)
        # nothing is left that would let later ones wait
        later = [asyncio.ensure_future(begin(starts, i)) for i in range(at_a_time)]
        await asyncio.sleep(0)
        assert all(task.done() for task in later)

    asyncio.run(main())
    assert max(begun_in.values()) <= 2 * at_a_time  # two turns may share a look


def test_an_event_loop_that_is_closed_while_some_wait_is_forgotten() -> None:
    """With all that waited on it; a script may do so after Ctrl-C."""

    def closed() -> list[weakref.ref[Any]]:
        loop = asyncio.new_event_loop()
        tasks = [loop.create_task(starts.turn()) for _ in range(200)]
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        last = tasks[-1]
        assert not last.done()
        for each in tasks:
            each._log_destroy_pending = False  # type: ignore[attr-defined]
        return [weakref.ref(loop), weakref.ref(last)]

    references = closed()
    gc.collect()
    assert [each() for each in references] == [None, None]


def test_an_interrupt_lets_nobody_wait_for_ever() -> None:
    """Whoever catches it may let the loop go on."""
    for n in itertools.count(1):
        loop, begin = asyncio.new_event_loop(), Starts(2)
        tasks = [loop.create_task(begin.turn()) for _ in range(7)]
        interrupting = interrupted(
            n,
            lambda loop=loop, tasks=tasks: loop.run_until_complete(asyncio.wait(tasks)),
        )
        _, waiting = loop.run_until_complete(asyncio.wait(tasks, timeout=5))
        assert not waiting, n
        later = [loop.create_task(begin.turn()) for _ in range(3)]
        _, waiting = loop.run_until_complete(asyncio.wait(later, timeout=5))
        assert not waiting, n
        for each in tasks:
            each.exception()
        loop.close()
        if not interrupting:
            break
    assert n > 40

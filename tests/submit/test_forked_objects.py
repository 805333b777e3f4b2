"""What a forked process has of its parent, and does without."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from helpers.loops import running_loop

from seamless_dask.neighbours import event_loops
from seamless_dask.output import terminal
from seamless_dask.submit import forked_drivers, other_clients
from seamless_dask.submit.other_clients import Guest

SOON = 60


def in_a_fork(check: Callable[[], bool]) -> bool:
    """What a function returns in a forked process; False if that does not end."""
    child = os.fork()
    if not child:
        signal.alarm(20)
        code = 1
        try:
            code = 0 if check() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("frozen", [False, True])
def test_loops_are_separate(frozen: bool) -> None:
    """Also if the program has frozen them; what it has frozen stays so."""

    def check() -> bool:
        before = loop._selector  # type: ignore[attr-defined]
        forked_drivers._let_go_of_loops()
        return (
            not loop.is_running()
            and loop._selector is not before  # type: ignore[attr-defined]
            and (gc.get_freeze_count() > 0) == frozen
        )

    with running_loop() as loop:
        gc.unfreeze()
        if frozen:
            gc.freeze()
        try:
            assert in_a_fork(check)
        finally:
            gc.unfreeze()


async def answer() -> int:
    return 42


@pytest.mark.parametrize("held", [False, True])
def test_clients_of_others(held: bool) -> None:
    """A forked process may have one, whatever its parent did with one of its own."""

    def check() -> bool:
        return Guest(object()).start(answer()).result(10) == 42

    assert Guest(object()).start(answer()).result(SOON) == 42
    if held:
        with other_clients._lock:
            assert in_a_fork(check)
    else:
        assert in_a_fork(check)
    assert asyncio.run_coroutine_threadsafe(answer(), other_clients._loop()).result(
        SOON
    )


@pytest.mark.parametrize("lock", [event_loops.starting, terminal.creation])
def test_locks_are_free(lock: Any) -> None:
    """Even if a thread that exists only in the parent holds them."""
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            free.wait(SOON)

    def check() -> bool:
        forked_drivers._free_locks()
        taken: bool = lock.acquire(timeout=0.1)
        return taken

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(SOON)
    assert in_a_fork(check)
    free.set()
    thread.join(SOON)

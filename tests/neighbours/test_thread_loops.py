"""Event loops of threads that compute transformations."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest
from helpers.polling import wait_until
from seamless.transformer import delayed
from seamless_transformer import transformation_class

from seamless_dask import SeamlessDaskClient
from seamless_dask.neighbours import event_loops


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    event_loops.install()


def in_a_thread(function):
    """What a function returns in a new thread."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def loop_as_seamless_takes_it() -> asyncio.AbstractEventLoop:
    loop = transformation_class.get_event_loop()
    transformation_class._ensure_loop_running(loop)
    return loop


def test_a_loop_runs_when_it_is_handed_out() -> None:
    """Otherwise the caller runs it as well, and both lose wake-ups."""

    def take():
        loop = loop_as_seamless_takes_it()
        own = asyncio.new_event_loop()
        asyncio.set_event_loop(own)
        transformation_class._ensure_loop_running(own)
        ran = loop.is_running(), own.is_running()
        own.call_soon_threadsafe(own.stop)
        return ran

    assert {in_a_thread(take) for _ in range(200)} == {(True, True)}


def test_a_thread_keeps_its_loop_and_hands_it_on() -> None:
    """Also if seamless-core has cleared the event loop of the thread."""

    def twice():
        first = loop_as_seamless_takes_it()
        asyncio.set_event_loop(None)
        return first, loop_as_seamless_takes_it()

    seen = set()
    for _ in range(20):
        first, second = in_a_thread(twice)
        assert first is second
        seen.add(first)
        wait_until(lambda f=first: f in event_loops._free, "the loop is free again")
    assert len(seen) == 1


def test_a_loop_with_tasks_serves_nobody_else() -> None:
    """What was started goes on when the thread that started it has ended."""
    gate = threading.Event()

    async def unfinished():
        await asyncio.to_thread(gate.wait, 30)
        return threading.current_thread().name

    task = in_a_thread(lambda: loop_as_seamless_takes_it().create_task(unfinished()))
    assert in_a_thread(loop_as_seamless_takes_it) is not task.get_loop()
    gate.set()
    wait_until(task.done, "the task ends")
    assert task.result() == "seamless-loop"
    wait_until(lambda: task.get_loop() in event_loops._free, "its loop is free")


def test_loops_that_run_or_were_set_are_respected() -> None:
    """Code of users may have its own."""

    async def inside():
        return transformation_class.get_event_loop() is asyncio.get_running_loop()

    def own():
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        same = transformation_class.get_event_loop() is loop
        loop.close()
        return same, transformation_class.get_event_loop() is loop

    assert asyncio.run(inside())
    assert in_a_thread(own) == (True, False)


def runs(n):
    """Threads and open files of the process after some nested runs."""
    import os
    import threading

    from seamless.transformer import delayed

    def increment(i):
        return i + 1

    assert sum(delayed(increment)(i).run() for i in range(n)) == n * (n + 1) // 2
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


def starts(path):
    """Whether a nested transformation begins before anybody waits for it."""
    import time
    from pathlib import Path

    from seamless.transformer import delayed

    def touch(path):
        from pathlib import Path

        Path(path).touch()
        return path

    # The loop has been used and waits for something to do.
    delayed(touch)(f"{path}-first").run()
    started = delayed(touch)(path)
    started.start()
    deadline = time.monotonic() + 20
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return Path(path).exists()


@pytest.mark.cluster
def test_nested_runs_leave_no_threads_behind(dummy: SeamlessDaskClient) -> None:
    """However many, in however many jobs: one loop for each job that runs at a time."""
    few = delayed(runs)(3).run()
    many = [delayed(runs)(n).run() for n in range(20, 30)]
    assert max(threads for threads, _ in many) < few[0] + 20
    assert max(files for _, files in many) < few[1] + 60


@pytest.mark.cluster
def test_what_a_job_starts_begins(dummy: SeamlessDaskClient, tmp_path: Path) -> None:
    assert delayed(starts)(os.fspath(tmp_path / "begun")).run() is True

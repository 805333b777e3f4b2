"""What runs in a Seamless process, tested in this one."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from seamless_dask.child.code_end import CodeEnd
from seamless_dask.child.initializer import Initializer
from seamless_dask.child.job_identity import JobLocal, belong_to, inherit_in_threads
from seamless_dask.child.job_runner import JobRunner
from seamless_dask.child.turn_keeper import TurnKeeper
from seamless_dask.child.turns import JobTurn
from seamless_dask.neighbours.event_loops import JobExecutor


def test_job_local_is_inherited_by_tasks_on_another_loop() -> None:
    """A synchronous nested call makes its task on a loop in another thread."""
    local = JobLocal()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def read() -> str | None:
        return getattr(local, "dask_key", None)

    def job(name: str, found: dict[str, str | None]) -> None:
        local.dask_key = name
        created: list[asyncio.Task] = []
        done = threading.Event()

        # create_task from a foreign thread, as seamless-transformer does
        task = loop.create_task(read())
        created.append(task)
        task.add_done_callback(lambda _: done.set())
        loop.call_soon_threadsafe(lambda: None)
        assert done.wait(10)
        found[name] = created[0].result()

    found: dict[str, str | None] = {}
    jobs = [threading.Thread(target=job, args=(f"job-{i}", found)) for i in range(5)]
    for started in jobs:
        started.start()
    for started in jobs:
        started.join()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    assert found == {f"job-{i}": f"job-{i}" for i in range(5)}


def test_job_local_looks_like_a_thread_local() -> None:
    """The functions of seamless-transformer use hasattr, setattr and delattr."""
    local = JobLocal()
    assert not hasattr(local, "dask_key")
    local.dask_key = "base-1"
    assert local.dask_key == "base-1"
    del local.dask_key
    assert not hasattr(local, "dask_key")


def test_initializer_travels_by_pickle() -> None:
    """It is sent to each process, also to those that replace another."""
    copy = pickle.loads(pickle.dumps(Initializer({"A": "1"}, Path("shared"))))
    assert (copy.environment, copy.shared) == ({"A": "1"}, Path("shared"))


class NoState:
    """Nothing is global in these tests."""

    def save(self) -> None:
        """Return nothing."""

    def restore(self, saved: None) -> None:
        """Put nothing back."""

    def reset(self) -> list[str]:
        return []

    def is_held(self) -> bool:
        return False


@pytest.fixture
def inherited(monkeypatch: pytest.MonkeyPatch) -> JobLocal:
    """A variable that threads started by a job inherit."""
    monkeypatch.setattr(threading.Thread, "start", threading.Thread.start)
    local = JobLocal()
    inherit_in_threads(
        [local], TurnKeeper(NoState(), lambda job, waited: None, lambda job: None)
    )
    return local


def test_threads_of_a_job_act_for_it(inherited: JobLocal) -> None:
    """Also those of the thread pools that it makes, and threads of its threads."""
    found: list[str | None] = []

    def read() -> None:
        found.append(getattr(inherited, "dask_key", None))

    def job() -> None:
        inherited.dask_key = "base-1"
        with ThreadPoolExecutor(1) as pool:
            pool.submit(read).result()
        nested = threading.Thread(target=start_and_join, args=(read,))
        start_and_join(nested.run)

    def start_and_join(target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()

    start_and_join(job)
    start_and_join(read)
    assert found == ["base-1", "base-1", None]


def test_a_shared_pool_acts_for_whoever_submits(inherited: JobLocal) -> None:
    """Its threads outlive the job that happened to start them."""

    def job(pool: JobExecutor, name: str | None) -> str | None:
        inherited.dask_key = name
        return pool.submit(getattr, inherited, "dask_key", None).result()

    with JobExecutor(1) as pool:
        assert [job(pool, name) for name in ("a", "b", None)] == ["a", "b", None]


def test_threads_of_a_job_execute_like_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one of them does not wait, no other job begins in the process."""
    monkeypatch.setattr(threading.Thread, "start", threading.Thread.start)
    keeper = TurnKeeper(NoState(), lambda job, waited: None, lambda job: None)
    inherit_in_threads([], keeper)
    waits, goes_on, ended = threading.Event(), threading.Event(), threading.Event()
    left_of: list[set[threading.Thread]] = []

    def job() -> None:
        turn = JobTurn("job")
        belong_to(turn)
        assert keeper.begin(turn)
        thread = threading.Thread(target=goes_on.wait)
        thread.start()
        with keeper.waiting(turn):
            waits.set()
            thread.join()
            ended.wait(30)
        left_of.append(turn.threads - {threading.current_thread()})
        keeper.end(turn, [])

    job_thread = threading.Thread(target=job)
    job_thread.start()
    assert waits.wait(30)
    other = JobTurn("other")
    assert not keeper.begin(other)
    goes_on.set()
    while not keeper.begin(other):
        """The thread has not ended yet."""
    ended.set()
    keeper.end(other, [])
    job_thread.join(30)
    assert not job_thread.is_alive()
    assert left_of == [set()]


@pytest.mark.parametrize("closed", [True, False])
def test_a_job_may_end_after_its_worker(
    monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    """Nobody is there to be told, which is no error of the thread or of the loop."""
    complaints: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", complaints.append)
    begun, go = threading.Event(), threading.Event()

    def execute(*_: Any) -> None:
        begun.set()
        assert go.wait(30)

    # What it does before and after would end the processes of other tests.
    monkeypatch.setattr(JobRunner, "_run", execute)

    def threads() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t.name == "seamless-job"]

    async def lose() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        keeper = TurnKeeper(None, lambda job, waited: None, lambda job: None)
        runner = JobRunner(
            lambda _: None,
            keeper,
            lambda seconds: None,
            CodeEnd(lambda: None),
            lambda op, content: asyncio.sleep(0, 1.0),
        )
        running = asyncio.create_task(runner.run({"job": "a"}))
        await asyncio.to_thread(begun.wait, 30)
        running.cancel()
        if not closed:
            go.set()
            for thread in threads():
                await asyncio.to_thread(thread.join, 30)

    asyncio.run(lose())
    go.set()
    for thread in threads():
        thread.join(30)
    assert complaints == []

"""What runs in a Seamless process, tested in this one."""

from __future__ import annotations

import asyncio
import pickle
import threading

from seamless_dask.child import Initializer, JobLocal


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
    copy = pickle.loads(pickle.dumps(Initializer({"A": "1"})))
    assert copy.environment == {"A": "1"}

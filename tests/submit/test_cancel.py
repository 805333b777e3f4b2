"""Cancellation: what runs is stopped, what waits never starts, the rest goes on."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.cancelling import SOON, by_another_client, checksum_of, unfinished
from helpers.patient_jobs import patient, running, starts
from helpers.polling import wait_until
from seamless.transformer import Transformation, delayed
from seamless.util.get_event_loop import get_event_loop

from scheduler_ext import task_keys
from seamless_dask import SeamlessDaskClient
from seamless_dask.pool.pool import Pool
from seamless_dask.submit.tasks import WORKER_PLUGIN

pytestmark = pytest.mark.cluster


def endless(path: str, name: str) -> None:
    """Say in which process this runs, then run for ever."""
    import os
    import time

    with open(f"{path}/{name}", "a") as file:
        file.write(f"{os.getpid()}\n")
    while True:
        time.sleep(0.05)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def by_checksum(client: SeamlessDaskClient, tf: Transformation) -> None:
    assert client.cancel_by_checksum(checksum_of(tf))


def by_method(_client: SeamlessDaskClient, tf: Transformation) -> None:
    assert tf.cancel()


@pytest.mark.parametrize("cancel", [by_checksum, by_method, by_another_client])
def test_what_runs_is_stopped(
    dummy: SeamlessDaskClient,
    tmp_path: Path,
    cancel: Callable[[SeamlessDaskClient, Transformation], None],
) -> None:
    """Its process ends, whoever waits is told, and nothing is left of it."""
    tf = delayed(endless)(str(tmp_path), "victim")
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(tf.compute)
        pid = running(tmp_path, "victim")
        cancel(dummy, tf)
        assert waiting.result(timeout=SOON) is None
    wait_until(lambda: gone(pid), "its process ends", SOON)
    wait_until(lambda: not unfinished(dummy), "the scheduler forgets it", SOON)
    with pytest.raises(RuntimeError, match="cancel"):
        assert tf.result_checksum


def test_cancelled_asyncio_task(dummy: SeamlessDaskClient, tmp_path: Path) -> None:
    """The same as cancelling the transformation."""

    async def run() -> int:
        task = delayed(endless)(str(tmp_path), "victim").task()
        pid = await asyncio.to_thread(running, tmp_path, "victim")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return pid

    loop = get_event_loop()
    pid = loop.run_until_complete(run())
    wait_until(lambda: gone(pid), "its process ends", SOON)


def test_slots_are_free_at_once(dummy: SeamlessDaskClient, tmp_path: Path) -> None:
    """All slots are taken by what is cancelled; then all are taken anew."""
    first = [delayed(endless)(str(tmp_path), f"a{i}") for i in range(6)]
    for tf in first:
        tf.start()
    for i in range(6):
        running(tmp_path, f"a{i}")
    second = [delayed(patient)(str(tmp_path), f"b{i}") for i in range(6)]
    for tf in second:
        tf.start()
    begin = time.monotonic()
    for tf in first:
        tf.cancel()
    for i in range(6):
        running(tmp_path, f"b{i}")
    assert time.monotonic() - begin < SOON  # a guard; half a second is usual
    (tmp_path / "go").touch()
    assert [tf.run() for tf in second] == [f"b{i}" for i in range(6)]


def test_jobs_of_one_process_that_are_cancelled_together(
    dummy: SeamlessDaskClient, tmp_path: Path
) -> None:
    """Each ends its process; none runs again because of another."""
    group = Pool.of_this_process(2, {}, "")._processes
    for attempt in range(5):
        names = [f"together-{attempt}-{i}" for i in range(6)]
        started = [delayed(endless)(str(tmp_path), name) for name in names]
        for tf in started:
            tf.start()
        for name in names:
            running(tmp_path, name)
        for tf in started:
            tf.cancel()
        wait_until(
            lambda: not any(process.jobs for process in group.all()),
            "no process has a job",
            SOON,
        )


def test_cancelled_before_the_worker_is_ready(
    dummy: SeamlessDaskClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dask has begun the task, no process has: it does not run later either."""
    pool = Pool.of_this_process(2, {}, "")
    worker = pool.user_of(None)._worker
    plugin: Any = worker.plugins[WORKER_PLUGIN]
    ready, runner = threading.Event(), plugin.runner

    async def runner_when_ready() -> Any:
        await asyncio.to_thread(ready.wait, SOON)
        return await runner()

    monkeypatch.setattr(plugin, "runner", runner_when_ready)
    tf = delayed(endless)(str(tmp_path), "late")
    checksum = checksum_of(tf)

    def state() -> str | None:
        tasks = list(worker.state.tasks.values())
        found = (t.state for t in tasks if task_keys.checksum_of(t.key) == checksum)
        return next(found, None)

    tf.start()
    wait_until(lambda: state() == "executing", "Dask begins it", SOON)
    tf.cancel()
    wait_until(lambda: state() != "executing", "Dask knows", SOON)
    ready.set()
    monkeypatch.undo()
    wait_until(lambda: state() is None, "it is forgotten", SOON)
    assert not (tmp_path / "late").exists()
    assert not any(process.jobs for process in pool._processes.all())


def test_what_waits_never_starts(dummy: SeamlessDaskClient, tmp_path: Path) -> None:
    """Neither for want of a slot, nor of an input."""
    holders = [delayed(patient)(str(tmp_path), f"holder{i}") for i in range(6)]
    for tf in holders:
        tf.start()
    for i in range(6):
        running(tmp_path, f"holder{i}")
    queued = delayed(patient)(str(tmp_path), "queued")

    def dependent_code(path, held):
        open(f"{path}/dependent", "w").close()

    dependent = delayed(dependent_code)(str(tmp_path), holders[0])
    with ThreadPoolExecutor(2) as executor:
        waiting = [executor.submit(tf.compute) for tf in (queued, dependent)]
        wait_until(lambda: len(unfinished(dummy)) == 8, "they are submitted")
        queued.cancel()
        dependent.cancel()
        for future in waiting:
            assert future.result(timeout=SOON) is None
    # the driver knows before the scheduler does
    wait_until(lambda: len(unfinished(dummy)) == 6, "only the holders are left", SOON)
    (tmp_path / "go").touch()
    assert [tf.run() for tf in holders] == [f"holder{i}" for i in range(6)]
    wait_until(lambda: not unfinished(dummy), "all is over", SOON)
    assert not starts(tmp_path, "queued")
    assert not (tmp_path / "dependent").exists()


def caller(path: str, name: str, nested: str) -> str:
    """Call a transformation that waits for a file."""
    import os

    from seamless.transformer import direct

    with open(f"{path}/{name}", "a") as file:
        file.write(f"{os.getpid()}\n")

    def waits(path, name):
        import os
        import time

        with open(f"{path}/{name}", "a") as file:
            file.write(f"{os.getpid()}\n")
        while not os.path.exists(f"{path}/go"):
            time.sleep(0.02)
        return name

    return name + direct(waits)(path, nested)


def test_descendants_end_unless_wanted(
    dummy: SeamlessDaskClient, tmp_path: Path
) -> None:
    """Two callers share a nested transformation, one has its own; one is cancelled."""
    path = str(tmp_path)
    kept = delayed(caller)(path, "kept", "shared")
    kept.start()
    running(tmp_path, "shared")
    victims = [
        delayed(caller)(path, "victim1", "shared"),
        delayed(caller)(path, "victim2", "own"),
    ]
    for tf in victims:
        tf.start()
    running(tmp_path, "victim1")
    own = running(tmp_path, "own")
    for tf in victims:
        tf.cancel()
    wait_until(lambda: gone(own), "the nested one is stopped", SOON)
    wait_until(lambda: len(unfinished(dummy)) == 2, "two are left", SOON)
    (tmp_path / "go").touch()
    assert kept.run() == "keptshared"
    assert len(starts(tmp_path, "own")) == 1


def calls(path: str, way: str) -> list[str]:
    """Call a transformation that waits for a file; return what came of it."""
    from seamless.transformer import delayed, direct

    def waits(path, name):
        import os
        import time

        with open(f"{path}/{name}", "a") as file:
            file.write(f"{os.getpid()}\n")
        while not os.path.exists(f"{path}/go"):
            time.sleep(0.02)
        return name

    def twice(text):
        return 2 * text

    async def awaited():
        return await delayed(waits)(path, way).task()

    if way == "direct":
        return [direct(waits)(path, way)]
    if way == "caught":
        try:
            return [direct(waits)(path, way)]
        except RuntimeError as error:
            return [str(error)]
    if way == "task":
        import asyncio

        return [asyncio.run(awaited())]
    if way == "dependency":
        return [delayed(twice)(delayed(waits)(path, way)).run()]
    tf = delayed(waits)(path, way)
    if way == "start":
        return [tf.start().run()]
    tf.compute()
    return [str(tf.exception)]


@pytest.mark.parametrize(
    "way", ["direct", "caught", "task", "dependency", "start", "compute"]
)
def test_a_call_that_is_cancelled_from_elsewhere(
    dummy: SeamlessDaskClient, tmp_path: Path, way: str
) -> None:
    """Its caller is told in the words that a driver is told in."""
    tf = delayed(calls)(str(tmp_path), way)
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(tf.compute)
        running(tmp_path, way)
        tasks = {key.split("-")[1] for key in unfinished(dummy)}
        (nested,) = tasks - {checksum_of(tf)}
        assert dummy.cancel_by_checksum(nested)
        result = waiting.result(timeout=SOON)
    if way in ("caught", "compute"):
        assert result is not None, tf.exception
        (text,) = tf.run()
    else:
        assert result is None
        assert tf.status == "Status: exception"  # it was not cancelled itself
        text = tf.exception
    assert "Transformation was canceled" in text
    assert "Delegated" not in text
    wait_until(lambda: not unfinished(dummy), "nothing is left of it", SOON)


def test_co_tenants_complete(dummy: SeamlessDaskClient, tmp_path: Path) -> None:
    """Also those that wait for nested work, which is not stopped with the process."""
    path = str(tmp_path)
    callers = [delayed(caller)(path, f"caller{i}", f"nested{i}") for i in range(4)]
    for tf in callers:
        tf.start()
    for i in range(4):
        running(tmp_path, f"nested{i}")
    victims = [delayed(endless)(path, f"victim{i}") for i in range(3)]
    for i, victim in enumerate(victims):
        victim.start()
        pid = running(tmp_path, f"victim{i}")
        victim.cancel()
        wait_until(lambda pid=pid: gone(pid), "its process ends", SOON)
    (tmp_path / "go").touch()
    assert [tf.run() for tf in callers] == [f"caller{i}nested{i}" for i in range(4)]


def test_submitted_again(dummy: SeamlessDaskClient, tmp_path: Path) -> None:
    """At once, while the first is being stopped: it runs anew, to its end."""
    for i in range(5):
        name = f"again{i}"
        tf = delayed(patient)(str(tmp_path), name)
        tf.start()
        running(tmp_path, name)
        tf.cancel()
        again = delayed(patient)(str(tmp_path), name)
        again.start()
        running(tmp_path, name, times=2)
        (tmp_path / "go").touch()
        assert again.run() == name
        (tmp_path / "go").unlink()


def test_cancelled_in_the_moment_of_its_result(
    dummy: SeamlessDaskClient, tmp_path: Path
) -> None:
    """One or the other: a result, or a cancellation; and never a wrong state."""
    outcomes = set()
    with ThreadPoolExecutor(1) as executor:
        for i in range(20):
            name = f"moment{i}"
            tf = delayed(patient)(str(tmp_path), name)
            computing = executor.submit(tf.compute)
            running(tmp_path, name)
            cancelling = threading.Timer(i * 0.003, tf.cancel)
            cancelling.start()
            (tmp_path / "go").touch()
            checksum = computing.result(timeout=SOON)
            cancelling.join()
            (tmp_path / "go").unlink()
            outcomes.add(checksum is not None)
            if not tf._cancelled:
                assert tf.result_checksum == checksum is not None
    wait_until(lambda: not unfinished(dummy), "all is over", SOON)
    assert outcomes


def test_one_whose_checksum_nobody_knew(
    dummy: SeamlessDaskClient, tmp_path: Path
) -> None:
    """An input was still to be computed when it was submitted."""

    def first(path):
        return path

    def second(path, name):
        import os
        import time

        with open(f"{path}/{name}", "a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(1000)

    path = str(tmp_path)
    tf = delayed(second)(delayed(first)(path), "deferred")
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(tf.compute)
        pid = running(tmp_path, "deferred")
        by_another_client(dummy, delayed(second)(path, "deferred"))
        assert waiting.result(timeout=SOON) is None
    wait_until(lambda: gone(pid), "its process ends", SOON)


def test_released_handles_stop_the_process(
    dummy: SeamlessDaskClient, tmp_path: Path
) -> None:
    """Nobody says "cancel" to the worker; Dask tells that nobody wants the task."""
    tf = delayed(endless)(str(tmp_path), "victim")
    tf.start()
    pid = running(tmp_path, "victim")
    first = dummy.get_transformation_futures(checksum_of(tf))
    assert first is not None
    dummy.release_transformation_futures(tf._dask_futures, cancel=True)
    assert not gone(pid)
    dummy.release_transformation_futures(first, cancel=True)
    wait_until(lambda: gone(pid), "its process ends", SOON)


def test_many_cancellations_leave_nothing(
    dummy: SeamlessDaskClient, tmp_path: Path
) -> None:
    """No process and no temporary file."""

    def scratch(path, name):
        import os
        import subprocess
        import tempfile
        import time

        tempfile.mkdtemp()
        child = subprocess.Popen(["sleep", "1000"])
        with open(f"{path}/{name}.tmp", "w") as file:
            file.write(f"{tempfile.gettempdir()}\n{child.pid}\n")
        with open(f"{path}/{name}", "w") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(1000)

    for i in range(5):
        tf = delayed(scratch)(str(tmp_path), f"scratch{i}")
        tf.start()
        pid = running(tmp_path, f"scratch{i}")
        directory, child = (tmp_path / f"scratch{i}.tmp").read_text().split()
        assert os.listdir(directory)
        tf.cancel()
        wait_until(lambda pid=pid: gone(pid), "its process ends", SOON)
        wait_until(lambda c=int(child): gone(c), "what it started ends", SOON)
        wait_until(lambda d=directory: not os.path.exists(d), "its files go", SOON)


def permissions_of(client: SeamlessDaskClient) -> dict[str, Any]:
    status = client.client.sync(client.status)
    return {k: status["permissions"][k] for k in ("admitted", "waiting")}


def test_leases_given_up_before_they_are_answered(dummy: SeamlessDaskClient) -> None:
    """Whether their request is on its way or not yet sent: none is left."""
    runner = Pool.of_this_process(2, {}, "").user_of(None)

    async def ask_and_give_up() -> None:
        def ask(first: int, count: int) -> list[asyncio.Task[str]]:
            keys = (f"base-{number:064x}" for number in range(first, first + count))
            return [
                asyncio.create_task(runner.leases.acquire(key, None, 1)) for key in keys
            ]

        asked = ask(0, 500)
        await asyncio.sleep(0)
        asked += ask(10**6, 20)
        await asyncio.sleep(0)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)

    asyncio.run_coroutine_threadsafe(ask_and_give_up(), runner.loop).result(SOON)
    nothing = {"admitted": 0, "waiting": 0}
    wait_until(lambda: permissions_of(dummy) == nothing, "no lease is left", SOON)
    # One that was on its way all the time is answered after all of them.
    lease = asyncio.run_coroutine_threadsafe(
        runner.leases.acquire(f"base-{7:064x}", None, 1), runner.loop
    ).result(SOON)
    assert permissions_of(dummy) == {"admitted": 1, "waiting": 0}
    runner.loop.call_soon_threadsafe(runner.leases.release, lease)
    wait_until(lambda: permissions_of(dummy) == nothing, "it is released", SOON)

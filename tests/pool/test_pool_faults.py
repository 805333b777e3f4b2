"""Seamless processes that die, hang or do not start."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.patient_jobs import patient, running, starts
from helpers.polling import wait_until
from seamless.transformer import delayed, direct

from seamless_dask import SeamlessDaskClient
from seamless_dask.pool import processes, pulse
from seamless_dask.pool.os_processes import describe_exit
from seamless_dask.pool.pool import Pool
from seamless_dask.pool.process import SeamlessProcess
from seamless_dask.pool.processes import Processes

pytestmark = pytest.mark.cluster

#: a guard; the promise is 5 seconds on a machine that is not shared
SOON = 30.0


@pytest.fixture
def group(dummy: SeamlessDaskClient) -> Processes:
    """The processes of the dummy scheduler's worker, all of them ready."""
    group = Pool.of_this_process(2, {}, "")._processes
    wait_until(lambda: whole(group), "the pool is whole", SOON)
    return group


def whole(group: Processes) -> bool:
    processes = group.all()
    return len(processes) >= 2 and all(process.ready for process in processes)


def deadly(path: str, name: str, how: str) -> None:
    """Say in which process this runs; when `path`/die is there, end it."""
    import ctypes
    import os
    import signal
    import time

    with open(f"{path}/{name}", "a") as file:
        file.write(f"{os.getpid()}\n")
    while not os.path.exists(f"{path}/die"):
        time.sleep(0.02)
    if how == "segfault":
        ctypes.string_at(0)
    elif how == "exit":
        os._exit(3)
    else:
        os.kill(os.getpid(), getattr(signal, how))
        time.sleep(1000)


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("SIGKILL", "was killed by SIGKILL"),
        ("segfault", "was killed by SIGSEGV \\(segmentation fault\\)"),
        ("SIGABRT", "was killed by SIGABRT"),
        ("exit", "ended with exit code 3"),
    ],
)
def test_a_job_that_ends_its_process(
    group: Processes, tmp_path: Path, how: str, cause: str
) -> None:
    """Three times, then an error that names it; all others execute once."""
    path = str(tmp_path)
    others = [delayed(patient)(path, f"other{i}") for i in range(4)]
    for tf in others:
        tf.start()
    for i in range(4):
        running(tmp_path, f"other{i}")
    suspect = delayed(deadly)(path, "suspect", how)
    suspect.start()
    running(tmp_path, "suspect")
    (tmp_path / "die").touch()
    suspect.compute()
    assert suspect.exception is not None
    checksum = suspect.construct().hex()
    text = f" {checksum[:12]} was lost 3 times"
    assert text in suspect.exception
    with pytest.raises(RuntimeError, match=cause):
        suspect.run()
    (tmp_path / "go").touch()
    assert [tf.run() for tf in others] == [f"other{i}" for i in range(4)]
    assert len(starts(tmp_path, "suspect")) == 3
    assert [len(starts(tmp_path, f"other{i}")) for i in range(4)] == [1] * 4
    wait_until(lambda: whole(group), "the pool is whole", SOON)


def test_killed_from_outside(group: Processes, tmp_path: Path) -> None:
    """As by the kernel when memory is short: everything runs again, to its end."""
    path = str(tmp_path)
    jobs = [delayed(patient)(path, f"job{i}") for i in range(6)]
    for tf in jobs:
        tf.start()
    pids = {running(tmp_path, f"job{i}") for i in range(6)}
    assert len(pids) == 6
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    begin = time.monotonic()
    for i in range(6):
        running(tmp_path, f"job{i}", times=2)
    wait_until(lambda: whole(group), "the pool is whole", SOON)
    assert time.monotonic() - begin < SOON
    (tmp_path / "go").touch()
    assert [tf.run() for tf in jobs] == [f"job{i}" for i in range(6)]


def test_who_waits_is_not_suspected(group: Processes, tmp_path: Path) -> None:
    """A caller whose process is lost calls again; it need not run alone."""

    def caller(path, name, nested):
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

    path = str(tmp_path)
    callers = [delayed(caller)(path, f"caller{i}", f"nested{i}") for i in range(3)]
    for tf in callers:
        tf.start()
    for i in range(3):
        running(tmp_path, f"nested{i}")
    for process in group.all():
        os.kill(process.pid, signal.SIGKILL)
    for i in range(3):
        running(tmp_path, f"caller{i}", times=2)
        running(tmp_path, f"nested{i}", times=2)
    (tmp_path / "go").touch()
    assert [tf.run() for tf in callers] == [f"caller{i}nested{i}" for i in range(3)]
    assert not [job for p in group.all() for job in p.jobs]


def test_sys_exit_is_an_error_of_the_job(group: Processes) -> None:
    """The process and its other jobs go on."""

    def leaves():
        import sys

        sys.exit(7)

    before = set(group.all())
    with pytest.raises(RuntimeError, match="SystemExit: 7"):
        direct(leaves)()
    assert set(group.all()) == before


def test_ten_seconds_without_the_gil(group: Processes, tmp_path: Path) -> None:
    """A process that does not answer is busy, not dead; others get the new jobs."""

    def holds(path):
        import ctypes
        import os

        with open(f"{path}/holds", "w") as file:
            file.write(f"{os.getpid()}\n")
        ctypes.PyDLL(None).sleep(10)
        return "held"

    def quick(i):
        import os

        return os.getpid()

    tf = delayed(holds)(str(tmp_path))
    tf.start()
    pid = running(tmp_path, "holds")
    (process,) = [p for p in group.all() if p.pid == pid]
    assert [direct(quick)(i) for i in range(3)] != [pid] * 3
    assert tf.run() == "held"
    assert group.process(process.name) is process


def test_a_process_that_never_answers(
    group: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a long time, which is short here, it is taken for dead."""
    monkeypatch.setattr(pulse, "PING_INTERVAL", 0.1)
    monkeypatch.setattr(pulse, "PING_PATIENCE", 0.2)
    monkeypatch.setattr(group, "_unresponsive_limit", 1.0)
    # those that start from now on have the new limit
    for process in group.all():
        os.kill(process.pid, signal.SIGKILL)
    old = set(group.all())
    wait_until(lambda: not old & set(group.all()), "they end", SOON)
    wait_until(lambda: whole(group), "the pool is whole", SOON)
    tf = delayed(patient)(str(tmp_path), "stopped")
    tf.start()
    os.kill(running(tmp_path, "stopped"), signal.SIGSTOP)
    running(tmp_path, "stopped", times=2)
    (tmp_path / "go").touch()
    assert tf.run() == "stopped"


def test_processes_that_do_not_start(
    group: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs get an error that says how they end; when they start again, all is well."""
    monkeypatch.setattr(processes, "START_INTERVAL", 0.5)
    original = SeamlessProcess.launch

    async def stillborn(*args: Any, **options: Any) -> SeamlessProcess:
        process = await original(*args, **options)
        os.kill(process.pid, signal.SIGKILL)
        return process

    def value(i):
        return i

    def broken() -> str | None:
        for process in group.all():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        return group._broken

    with monkeypatch.context() as patch:
        patch.setattr(SeamlessProcess, "launch", stillborn)
        wait_until(broken, "the pool notices", SOON)
        with pytest.raises(RuntimeError, match="can be started: it was killed by SIG"):
            direct(value)(1)
    wait_until(lambda: whole(group), "the pool is whole", SOON)
    assert direct(value)(2) == 2


def test_what_a_dead_process_leaves_behind(group: Processes, tmp_path: Path) -> None:
    """Temporary files, and processes that have lost their parent."""

    def untidy(path):
        import os
        import subprocess
        import tempfile
        import time

        directory = tempfile.mkdtemp()
        child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        if os.path.exists(f"{path}/child"):
            return "done"
        with open(f"{path}/child", "w") as file:
            file.write(f"{directory}\n{child.pid}\n{os.getpid()}")
        time.sleep(1000)

    tf = delayed(untidy)(str(tmp_path))
    tf.start()
    content = wait_until(
        lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text(),
        "it runs",
    )
    directory, child, pid = content.split()
    os.kill(int(pid), signal.SIGKILL)
    assert tf.run() == "done"
    wait_until(lambda: not os.path.exists(directory), "its files go", SOON)
    wait_until(lambda: not psutil.pid_exists(int(child)), "its child ends", SOON)


def test_shared_memory_of_a_dead_process(group: Processes) -> None:
    """A buffer was to be uploaded when the process was killed."""
    pool = Pool.of_this_process(2, {}, "")
    process = group.all()[0]
    request = {"op": "tempref", "checksum": "ab" * 32, "length": 1000}
    loop = group._manager.loop
    answer = asyncio.run_coroutine_threadsafe(
        pool._requests.refer(process._handle, request), loop
    ).result()
    assert os.path.exists(answer["name"])
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not os.path.exists(answer["name"]), "it goes", SOON)
    assert answer["key"] not in group._manager._pointers


def test_many_losses_leave_nothing(group: Processes) -> None:
    """The descriptors and threads of this process do not grow with the losses."""

    def value(i):
        return i

    def lose_one(i: int) -> None:
        victim = group.all()[0]
        os.kill(victim.pid, signal.SIGKILL)
        wait_until(lambda: victim not in group.all(), "it ends", SOON)
        wait_until(lambda: whole(group), "the pool is whole", SOON)
        assert direct(value)(i) == i

    def count() -> int:
        return psutil.Process().num_fds()

    for i in range(2):
        lose_one(1000 + i)
    before = count()
    for i in range(8):
        lose_one(2000 + i)
    wait_until(lambda: count() <= before + 4, "descriptors are closed", SOON)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0, "ended with exit code 0"),
        (-9, "was killed by SIGKILL (by the kernel because memory was short, or"),
        (-64, "was killed by "),
        (None, "ended"),
    ],
)
def test_describe_exit(code: int | None, text: str) -> None:
    """In words, whatever the system says."""
    assert describe_exit(code).startswith(text)

"""How drivers live, and end, on the real stack; the programs are in driver_programs.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.paths import DRIVERS, ROOT, TESTS
from helpers.polling import wait_until
from helpers.stack import DriverResult, RealStack, call_scheduler

pytestmark = pytest.mark.cluster

COMPLAINTS = ("Task was destroyed", "never awaited", "Traceback", "Unclosed")
PROGRAMS = DRIVERS / "driver_programs.py"
#: seconds after which a driver hangs
LIMIT = 60.0


@pytest.fixture
def driver(
    real_stack: RealStack, tmp_path: Path
) -> Iterator[Callable[[str], DriverResult]]:
    """Runs a program; whatever it does, Python complains of nothing."""

    def run(name: str) -> DriverResult:
        result = real_stack.run(PROGRAMS, name, tmp_path.name, tmp_path, timeout=LIMIT)
        for complaint in (
            "Task was destroyed",
            "never awaited",
            "Traceback",
            "Unclosed",
        ):
            assert complaint not in result.stderr, result.stderr
        return result

    yield run
    (tmp_path / "go").touch()  # nothing that was left over goes on for ever
    assert_idle(real_stack)


def assert_idle(stack: RealStack) -> None:
    def busy() -> dict[str, Any]:
        tasks = call_scheduler(
            stack.scheduler_address(),
            lambda scheduler: scheduler.processing(workers=None),
        )
        return {worker: keys for worker, keys in tasks.items() if keys}

    wait_until(lambda: not busy(), "the cluster has nothing to do", 30)
    permissions = stack.scheduler_status()["permissions"]
    assert (permissions["admitted"], permissions["waiting"]) == (0, 0)


def test_forked_drivers(driver: Callable[[str], DriverResult]) -> None:
    """Each way to call gives an error that says what to do; the parent goes on."""
    value = driver("forks").value
    for name, text in value["texts"].items():
        if name == "after close":
            assert "Seamless has been closed" in text
        else:
            assert "was forked from a driver" in text, name
            assert 'multiprocessing.get_context("spawn")' in text, name
    assert value["codes"] == [0, signal.SIGKILL]
    assert value["parent"] == ["started", 20]


def test_pools_of_processes(driver: Callable[[str], DriverResult]) -> None:
    """Forked ones give errors, spawned ones connect; the parent goes on."""
    value = driver("pools").value
    for text in value["forked"]:
        assert "was forked from a driver" in text
    assert value["spawned"] == [str(2 * x) for x in range(40, 46)]
    assert value["parent"] == 100


def test_interrupted_drivers(driver: Callable[[str], DriverResult]) -> None:
    """Ctrl-C, or the interrupt of a notebook, leaves nothing; all works as before."""
    value = driver("interrupts").value
    assert value["outcomes"] == {
        name: [] for name in ("run", "compute", "direct", "task", "parallel", "nested")
    }
    assert value["afterwards"] == "run"
    assert value["threads"] < 10


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_killed_drivers(real_stack: RealStack, tmp_path: Path, how: int) -> None:
    """As by a notebook that restarts its kernel: what only they wanted is stopped."""
    process = real_stack.start(PROGRAMS, "end_threads", tmp_path.name, tmp_path)
    names = [f"a{i}" for i in range(3)]
    pids = [
        int(wait_until(lambda n=n: _text(tmp_path / n), f"{n} runs")) for n in names
    ]
    process.send_signal(how)
    process.communicate(timeout=LIMIT)
    for pid in pids:
        wait_until(lambda pid=pid: not psutil.pid_exists(pid), "its job ends", 30)
    assert_idle(real_stack)


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_threads(driver: Callable[[str], DriverResult]) -> None:
    """Thirty of them, a third with event loops of their own."""
    assert driver("threads").value is True


def test_close_twice(driver: Callable[[str], DriverResult]) -> None:
    """The second changes nothing; what was under way says why it has no result."""
    assert "Seamless has been closed" in driver("close_twice").value


@pytest.mark.parametrize(
    "name", ["end_started", "end_threads", "end_daemons", "end_tasks"]
)
def test_the_interpreter_ends(
    driver: Callable[[str], DriverResult], tmp_path: Path, name: str
) -> None:
    """While calls are under way: at once, or when non-daemon threads have ended."""
    value = driver(name).value
    if name == "end_threads":
        results = [(tmp_path / f"result{i}").read_text() for i in range(3)]
        assert results == ["a0", "a1", "a2"]
    if name == "end_tasks":
        assert value == []


def test_started_and_cancelled(driver: Callable[[str], DriverResult]) -> None:
    """Also in the moment of the submission: nothing is left."""
    assert driver("started_and_cancelled").value == [[], ["Status: canceled"]]


def test_started_with_large_results(driver: Callable[[str], DriverResult]) -> None:
    """Reading one result, with an event loop of its own, harms no other."""
    assert driver("started_and_large").value is True


def test_drivers_of_two_versions(
    driver: Callable[[str], DriverResult], real_stack: RealStack
) -> None:
    """The second is told both versions, and what to do; the first goes on."""
    assert driver("threads").value is True
    text = driver("another_version").value
    assert text.startswith("RuntimeError")
    assert "9.8.7" in text
    assert "0.5" in text
    assert "same version" in text
    assert driver("threads").value is True


def run_script(path: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Run a driver with a dummy cluster; Python complains of nothing."""
    script = path / "driver.py"
    script.write_text(text)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, TESTS)))},
    )
    assert done.returncode == 0, done.stderr
    for complaint in (*COMPLAINTS, "does not stop"):
        assert complaint not in done.stderr, done.stderr
    return done


FORKS = """
import os, sys, threading
import seamless
from seamless.caching.buffer_cache import get_buffer_cache
from seamless.transformer import delayed, direct
from seamless_dask import create_dummy_client

def pid(x):
    import os
    return os.getpid()

def pause(seconds):
    import time
    time.sleep(seconds)
    return seconds

def local(x):
    here = delayed(pid)
    here.local = True
    return here(x).run()

if __name__ == "__main__":
    create_dummy_client(worker_threads=2, spawn_workers=1)
    direct(pid)(0)
    local(10)
    held, free = threading.Event(), threading.Event()

    def hold():
        with get_buffer_cache().lock:
            held.set()
            free.wait()

    slow = delayed(pause)(3)
    slow.start()
    threading.Thread(target=hold).start()  # there is no such thread after the fork
    held.wait()
    child = os.fork()
    free.set()
    if not child:
        try:
            direct(pid)(1)
        except RuntimeError as error:
            print("child", "forked" in str(error), flush=True)
        print("local", local(11) == os.getpid(), flush=True)
        print("cancel", slow.cancel(), slow.status, flush=True)
        ENDING
    print("ended", os.wait()[1], flush=True)
    print("parent", direct(pid)(2) > 0, slow.run(), flush=True)
    seamless.close()
"""


@pytest.mark.parametrize("ending", ["os._exit(0)", "sys.exit(0)"])
def test_forked_with_a_cluster_of_its_own(tmp_path: Path, ending: str) -> None:
    """The cluster is in the process that forks; its processes and files stay."""
    done = run_script(tmp_path, FORKS.replace("ENDING", ending))
    said = done.stdout.split("\n")[:5]
    assert said[:2] == ["child True", "local True"]
    assert said[2].startswith("cancel False") and "cancel" not in said[2][12:].lower()
    assert said[3:] == ["ended 0", "parent True 3"]


CLOSES = """
import asyncio, json, sys, threading
import seamless, seamless_config
from drivers.driver_programs import patient, told, wait_for
from distributed import Client
from seamless.transformer import delayed, parallel
from seamless_dask import SeamlessDaskClient, create_dummy_client, start_dummy_scheduler
from seamless_dask import set_seamless_dask_client

PATH = "FOLDER"

async def task(tf):
    return await tf.task()

def compute(tf):
    return f"{tf.compute()}: {tf.exception}"

WAYS = (
    lambda tf: tf.run(),
    lambda tf: tf.start().run(),
    lambda tf: asyncio.run(task(tf)),
    compute,
)

if __name__ == "__main__":
    seamless_config.set_nparallel(10)
    owner = "OWNER" == "True"
    if owner:
        create_dummy_client(worker_threads=4, spawn_workers=4)
    else:
        handle = start_dummy_scheduler(workers=1, worker_threads=4)
        dask_client = Client(handle.address, set_as_default=False)
        client = SeamlessDaskClient(dask_client, worker_plugin_workers=4)
        set_seamless_dask_client(client)
    told_under_way = {}
    def call(number):
        tf = delayed(patient)(PATH, f"a{number}")
        told_under_way[number] = told(lambda: WAYS[number](tf))
    threads = [threading.Thread(target=call, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    wait_for(*(f"{PATH}/a{n}" for n in range(4)))
    if owner:
        END
    else:
        dask_client.close()
    for thread in threads:
        thread.join()
    told_later = []
    if not owner:
        later = [delayed(patient)(PATH, f"b{n}") for n in range(4)]
        told_later = [told(lambda: way(tf)) for way, tf in zip(WAYS, later)]
        later = [delayed(patient)(PATH, f"c{n}") for n in range(2)]
        told_later += [tf.exception for tf in parallel(later)]
    print(json.dumps([list(told_under_way.values()), told_later]))
"""


@pytest.mark.parametrize(
    ("end", "word"),
    [
        ("dask_client.close()", "connection to the scheduler"),
        ("set_seamless_dask_client(None)", "connection to the scheduler"),
        ("seamless.close()", "Seamless has been closed"),
    ],
)
def test_clients_that_are_closed(tmp_path: Path, end: str, word: str) -> None:
    """Calls that are under way, and later ones, give an error: none waits for ever."""
    owner = not end.startswith("dask_client")
    text = CLOSES.replace("FOLDER", str(tmp_path)).replace("OWNER", str(owner))
    done = run_script(tmp_path, text.replace("END", end))
    under_way, later = json.loads(done.stdout.split("\n")[-2])
    assert len(under_way) == 4
    for message in under_way:
        assert word in message or "closed" in message
    for message in later:
        assert "Dask client of this process is closed" in message

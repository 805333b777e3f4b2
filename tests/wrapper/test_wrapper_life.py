"""The life of a wrapper with a LocalCluster, as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from distributed import Client
from helpers.wrapper_process import (
    WrapperProcess,
    environment_of_worker,
    look_at_worker,
    running,
    start_stubborn_child,
    wait_for,
)

from seamless_dask.client import SeamlessDaskClient

pytestmark = pytest.mark.cluster

#: The launcher's patience after its first signal.
PATIENCE_SECONDS = 5.0
SEAMLESS = ("SEAMLESS_WORKER_TRANSFORMATION_THROTTLE", "SEAMLESS_DASK_QUEUE_EXCLUSIVE")


def connect(wrapper: WrapperProcess) -> Client:
    return Client(wrapper.address(), timeout="30s", set_as_default=False)


def test_running(tmp_path: Path) -> None:
    """The status file of a running cluster, and what it leads to."""
    with WrapperProcess(tmp_path, {"cores": 2, "interactive": True}) as wrapper:
        status = wrapper.until_running()
        path = wrapper.status_file
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert {name: status[name] for name in wrapper.fields} == {
            **wrapper.fields,
            "status": "running",
        }
        assert status["pid"] == wrapper.process.pid
        started = psutil.Process(status["pid"]).create_time()
        assert status["start_time"] == pytest.approx(started, abs=0.1)
        port, dashboard_port = status["port"], status["dashboard_port"]
        assert type(port) is int and type(dashboard_port) is int
        url = f"http://127.0.0.1:{dashboard_port}/health"
        with urllib.request.urlopen(url, timeout=10) as response:
            assert response.status == 200
        with connect(wrapper) as client:
            assert client.submit(sum, [1, 2, 3]).result(timeout=60) == 6
            environment = client.submit(environment_of_worker).result(timeout=60)
            (threads,) = client.nthreads().values()
        assert threads == 6
        assert [environment[name] for name in SEAMLESS] == ["3", "0"]
        assert not list(tmp_path.glob("*.tmp")) + list(tmp_path.glob(".*.tmp"))


def test_a_client_made_by_hand_gets_the_processes_of_the_cluster(
    tmp_path: Path,
) -> None:
    """It need not repeat the parameter `cores`."""
    with WrapperProcess(tmp_path, {"cores": 2, "interactive": True}) as wrapper:
        wrapper.until_running()
        with connect(wrapper) as client:
            assert SeamlessDaskClient(client).worker_plugin_workers == 2

            def slots() -> int:
                status = client.sync(client.scheduler.seamless_status)
                return int(status["permissions"]["capacity"])

            assert wait_for(slots, "slots") == 2 * 3


def test_parameters_reach_the_worker(tmp_path: Path) -> None:
    """Threads, resources, directory, memory, configuration."""
    directory = tmp_path / "scratch"
    directory.mkdir()
    parameters = {
        "cores": 1,
        "transformation_throttle": 2,
        "exclusive": True,
        "dask-resources": {"GPU": "2"},
        "memory": "1GiB",
        "tmpdir": str(directory),
        "unknown-task-duration": "7s",
        "extra_dask_config": {"distributed": {"comm": {"retry": {"count": 3}}}},
        "walltime": "01:00:00",
    }
    with WrapperProcess(tmp_path, parameters) as wrapper:
        wrapper.until_running()
        with connect(wrapper) as client:
            found = client.submit(look_at_worker).result(timeout=60)
            environment = client.submit(environment_of_worker).result(timeout=60)
    assert found.pop("directory").startswith(str(directory))
    assert found.pop("python") == sys.executable
    assert found == {
        "threads": 2,
        "resources": {"S": 1.0, "GPU": 2.0},
        "memory_limit": 2**30,
        "daemon": False,
        "unknown": "7s",
        "extra": 3,
    }
    assert [environment[name] for name in SEAMLESS] == ["2", "1"]


def test_pure_dask(tmp_path: Path) -> None:
    """Plain Dask: two threads, no memory limit, nothing of Seamless."""
    with WrapperProcess(tmp_path, {"pure_dask": True, "cores": 8}) as wrapper:
        wrapper.until_running()
        with connect(wrapper) as client:
            assert client.submit(sum, [1, 2, 3]).result(timeout=60) == 6
            found = client.submit(look_at_worker).result(timeout=60)
            environment = client.submit(environment_of_worker).result(timeout=60)
    assert (found["threads"], found["resources"]) == (2, {})
    assert found["memory_limit"] is None
    added = {name for name in environment if name not in os.environ}
    assert not [name for name in added if "SEAMLESS" in name.upper()]


def test_touches_the_file_while_starting(tmp_path: Path) -> None:
    """A start that takes long shows that it is alive."""
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\n"
        "from distributed import LocalCluster\n"
        "class Cluster(LocalCluster):\n"
        "    def __init__(self, **kwargs):\n"
        "        while not pathlib.Path('go').exists():\n"
        "            time.sleep(0.05)\n"
        "        super().__init__(**kwargs)\n"
    )
    with WrapperProcess(
        tmp_path,
        {"cores": 1},
        cluster="slow::Cluster",
        modules=tmp_path,
    ) as wrapper:
        seen = set()
        for _ in range(2):  # the launcher gives up after 60 s without a change
            before = wrapper.status_file.stat().st_mtime_ns
            wait_for(
                lambda: wrapper.status_file.stat().st_mtime_ns != before,  # noqa: B023
                "the file is touched",
                30,
            )
            seen.add(wrapper.status()["status"])
        assert seen == {"starting"}
        (tmp_path / "go").touch()
        wrapper.until_running()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals(tmp_path: Path, number: signal.Signals) -> None:
    """A clean end before the launcher sends its next signal, whatever runs."""
    with WrapperProcess(tmp_path, {"cores": 2}) as wrapper:
        wrapper.until_running()
        with connect(wrapper) as client:
            client.submit(start_stubborn_child, pure=False).result(timeout=60)
            started = client.submit(start_stubborn_child, pure=False)
            busy = client.submit(time.sleep, 600)
            assert started.result(timeout=60)
            wait_for(
                lambda: any(busy.key in keys for keys in client.processing().values()),
                "the worker is busy",
            )
            below = wrapper.below()
            assert len(below) >= 4
            begin = time.monotonic()
            wrapper.process.send_signal(number)
            assert wrapper.wait() == 0
            # a guard: the launcher waits for so long, on a machine of its own
            assert time.monotonic() - begin < 3 * PATIENCE_SECONDS
    assert not running(below)
    assert not wrapper.status_file.exists()
    assert f"received {number.name}" in wrapper.output()


def test_idle_end_is_quick(tmp_path: Path) -> None:
    """Nothing has to be killed when nothing runs, unless the machine is too busy.

    On a busy machine the worker may also be asked to end in the middle of a heartbeat,
    which Dask logs with a traceback.
    """
    outputs = []
    for attempt in range(10):
        directory = tmp_path / str(attempt)
        directory.mkdir()
        parameters = {"cores": 1, "interactive": True}
        with WrapperProcess(directory, parameters) as wrapper:
            wrapper.until_running()
            with connect(wrapper) as client:
                client.submit(sum, [1]).result(timeout=60)
            wrapper.process.send_signal(signal.SIGINT)
            assert wrapper.wait() == 0
        outputs.append(wrapper.output())
        if "Killing" not in outputs[-1] and "Traceback" not in outputs[-1]:
            return
    raise AssertionError(outputs)


STUCK = """
import asyncio, pathlib

async def dask_setup(worker):
    pathlib.Path({started!r}).touch()
    await asyncio.Event().wait()  # its file system does not answer
"""


def test_end_while_a_worker_starts(tmp_path: Path) -> None:
    """A start that is given up is no error."""
    started = tmp_path / "started"
    preload = tmp_path / "stuck.py"
    preload.write_text(STUCK.format(started=str(started)))
    parameters = {
        "cores": 1,
        "interactive": True,
        "extra_dask_config": {"distributed.worker.preload": [str(preload)]},
    }
    with WrapperProcess(tmp_path, parameters) as wrapper:
        wrapper.until_running()
        wait_for(started.exists, "the worker starts")
        wrapper.process.send_signal(signal.SIGINT)
        assert wrapper.wait() == 0
    assert "a worker starts too late" in wrapper.output()
    assert "Traceback" not in wrapper.output()
    assert "ERROR" not in wrapper.output()


def test_second_signal_forces(tmp_path: Path) -> None:
    """Impatience is answered at once, and everything is gone as well."""
    with WrapperProcess(tmp_path, {"cores": 1}) as wrapper:
        wrapper.until_running()
        with connect(wrapper) as client:
            busy = client.submit(time.sleep, 600)
            wait_for(
                lambda: any(busy.key in keys for keys in client.processing().values()),
                "the worker is busy",
            )
            below = wrapper.below()
            wrapper.process.send_signal(signal.SIGINT)
            wait_for(lambda: "Ending: received SIGINT" in wrapper.output(), "SIGINT")
            wrapper.process.send_signal(signal.SIGTERM)
            assert wrapper.wait() == 8
    assert not running(below)
    assert not wrapper.status_file.exists()


def test_signal_while_waiting(tmp_path: Path) -> None:
    """Also a wrapper without a status file ends when asked."""
    with WrapperProcess(tmp_path) as wrapper:
        wait_for(lambda: "Waiting" in wrapper.output(), "waiting")
        wrapper.process.send_signal(signal.SIGINT)
        assert wrapper.wait() == 0
    assert "Traceback" not in wrapper.output()


@pytest.mark.parametrize(
    "cluster", ["distributed::LocalCluster", "dask_jobqueue::SLURMCluster"]
)
def test_signal_while_starting(tmp_path: Path, cluster: str) -> None:
    """A signal in the middle of the start: no cluster, no file, no traceback."""
    parameters = {"cores": 1, "memory": "1GB", "walltime": "01:00:00"}
    with WrapperProcess(tmp_path, parameters, cluster=cluster) as wrapper:
        wait_for(lambda: "Starting " in wrapper.output(), "starting")
        wrapper.process.send_signal(signal.SIGINT)
        assert wrapper.wait() == 0, wrapper.output()
    assert "Traceback" not in wrapper.output()
    assert not wrapper.status_file.exists()


def test_signal_while_a_module_is_imported(tmp_path: Path) -> None:
    """Also if the module has its own handler, and whichever thread gets the signal."""
    (tmp_path / "rash.py").write_text(
        "import os, signal, sys, time\n"
        "from dask_jobqueue import SLURMCluster\n"
        "signal.signal(signal.SIGINT, lambda *_: sys.exit())\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "while signal.SIGINT in signal.sigpending():\n"
        "    time.sleep(0.001)  # until a thread has taken it\n"
    )
    parameters = {"cores": 1, "memory": "1GB", "walltime": "01:00:00"}
    with WrapperProcess(
        tmp_path, parameters, cluster="rash::SLURMCluster", modules=tmp_path
    ) as wrapper:
        assert wrapper.wait() == 0, wrapper.output()
    assert "Ending: received SIGINT" in wrapper.output()
    assert not wrapper.status_file.exists()


def test_module_that_exits(tmp_path: Path) -> None:
    """The caller learns that it gets no cluster."""
    (tmp_path / "exits.py").write_text("import sys\nsys.exit('no licence')\n")
    with WrapperProcess(
        tmp_path, {"cores": 1}, cluster="exits::Cluster", modules=tmp_path
    ) as wrapper:
        assert wrapper.wait() == 4, wrapper.output()
    status = wrapper.status()
    assert status["status"] == "failed"
    assert "cannot be imported: SystemExit('no licence')" in status["error"]


def test_killed(tmp_path: Path) -> None:
    """After SIGKILL, workers and what they started end without the wrapper."""
    with WrapperProcess(tmp_path, {"cores": 1}) as wrapper:
        wrapper.until_running()
        with connect(wrapper) as client:
            child = client.submit(start_stubborn_child).result(timeout=60)
            below = wrapper.below()
            assert child in {process.pid for process in below}
            wrapper.process.kill()
            assert wrapper.wait() == -signal.SIGKILL
            wait_for(lambda: not running(below), "all processes end", 60)
    status = wrapper.status()
    assert (status["status"], status["error"]) == ("failed", "The wrapper was killed.")


def test_inactivity_timeout(tmp_path: Path) -> None:
    """It ends by itself without work, but not while there is some."""
    options = ("--timeout", "2")
    with WrapperProcess(tmp_path, {"cores": 1}, options=options) as wrapper:
        wrapper.until_running()
        with connect(wrapper) as client:
            # longer than the timeout
            assert client.submit(time.sleep, 4).result(timeout=60) is None
        assert wrapper.wait() == 0
    assert "no work for 2 s, the timeout is 2 s" in wrapper.output()
    assert not wrapper.status_file.exists()


def test_timeout_parameter_wins(tmp_path: Path) -> None:
    """The parameter is nearer to the user than the command line."""
    options = ("--timeout", "600")
    parameters = {"pure_dask": True, "timeout": 0.5}
    with WrapperProcess(tmp_path, parameters, options=options) as wrapper:
        assert wrapper.wait() == 0
    assert "the timeout is 0.5 s" in wrapper.output()


def test_interactive_keeps_a_worker(tmp_path: Path) -> None:
    """One worker is there before there is any work."""
    with WrapperProcess(tmp_path, {"cores": 1, "interactive": True}) as wrapper:
        wrapper.until_running()
        with connect(wrapper) as client:
            client.wait_for_workers(1, timeout=60)


def test_more_work_than_one_worker(tmp_path: Path) -> None:
    """Workers are added up to maximum_jobs."""
    parameters = {
        "pure_dask": True,
        "worker_threads": 1,
        "maximum_jobs": 2,
        "target-duration": "1s",
    }
    with WrapperProcess(tmp_path, parameters) as wrapper:
        wrapper.until_running()
        with connect(wrapper) as client:
            futures = client.map(time.sleep, [60 + number for number in range(20)])
            wait_for(lambda: len(client.nthreads()) == 2, "two workers")
            client.cancel(futures)


def test_scheduler_shut_down_by_a_client(tmp_path: Path) -> None:
    """A client that shuts the scheduler down ends the wrapper."""
    with WrapperProcess(tmp_path, {"cores": 1}, options=("--timeout", "10")) as wrapper:
        wrapper.until_running()
        with connect(wrapper) as client:
            client.submit(sum, [1]).result(timeout=60)
            client.shutdown()
        assert wrapper.wait() == 0, wrapper.output()
    assert "shut down by a client" in wrapper.output()
    assert not wrapper.status_file.exists()


def test_removed_file(tmp_path: Path) -> None:
    """Somebody removed the file: the cluster ends, the file stays away."""
    with WrapperProcess(tmp_path, {"cores": 1}) as wrapper:
        wrapper.until_running()
        wrapper.status_file.unlink()
        assert wrapper.wait() == 7
    assert "was removed by somebody else" in wrapper.output()
    assert not wrapper.status_file.exists()


def test_file_taken_over(tmp_path: Path) -> None:
    """Another wrapper has the file now: the cluster ends, the file is left alone."""
    with WrapperProcess(tmp_path, {"cores": 1}) as wrapper:
        wrapper.until_running()
        theirs = json.dumps({"status": "starting", "pid": 1})
        wrapper.status_file.with_suffix(".new").write_text(theirs)
        wrapper.status_file.with_suffix(".new").replace(wrapper.status_file)
        assert wrapper.wait() == 7
    assert "belongs to process 1" in wrapper.output()
    assert wrapper.status_file.read_text() == theirs

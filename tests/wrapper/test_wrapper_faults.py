"""The wrapper tells its caller how it ended, whatever the parts that it runs do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from distributed import Client
from distributed.comm import CommClosedError
from helpers.wrapper_process import WrapperProcess, running, wait_for

pytestmark = pytest.mark.cluster

#: Exit codes; see ``seamless-dask-wrapper --help``.
START_FAILED, LOST = 6, 7


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("sys.exit('no licence')", "SystemExit: no licence"),
        ("sys.exit()", "SystemExit"),
        ("raise asyncio.CancelledError('not today')", "CancelledError: not today"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_a_cluster_class_that_exits(tmp_path: Path, code: str, error: str) -> None:
    """This is no clean end."""
    (tmp_path / "exits.py").write_text(
        "import asyncio, sys\n"
        "from distributed import LocalCluster\n"
        "class Cluster(LocalCluster):\n"
        "    def __init__(self, **kwargs):\n"
        f"        {code}\n"
    )
    with WrapperProcess(
        tmp_path, {"cores": 1}, cluster="exits::Cluster", modules=tmp_path
    ) as wrapper:
        assert wrapper.wait() == START_FAILED, wrapper.output()
    status = wrapper.status()
    assert status["status"] == "failed"
    assert f"The cluster could not be started: {error}" in status["error"]


def test_the_event_loop_ends_during_the_start(tmp_path: Path) -> None:
    """Whatever ends it in the scheduler, nobody waits for ever."""
    (tmp_path / "exits.py").write_text(
        "import sys\ndef dask_setup(scheduler):\n    sys.exit('no licence')\n"
    )
    config = {"distributed": {"scheduler": {"preload": ["exits"]}}}
    with WrapperProcess(
        tmp_path, {"cores": 1, "extra_dask_config": config}, modules=tmp_path
    ) as wrapper:
        assert wrapper.wait() == START_FAILED, wrapper.output()
    status = wrapper.status()
    assert status["status"] == "failed"
    assert "could not be started: SystemExit: no licence" in status["error"]


def test_the_event_loop_of_a_running_cluster_ends(tmp_path: Path) -> None:
    """The caller learns it, and nothing is left."""
    with WrapperProcess(tmp_path, {"cores": 1}) as wrapper:
        wrapper.until_running()
        with Client(wrapper.address(), set_as_default=False) as client:
            client.submit(sum, [1]).result(timeout=60)
            below = wrapper.below()
            with pytest.raises(CommClosedError):
                client.run_on_scheduler(sys.exit, 5)
            assert wrapper.wait() == LOST, wrapper.output()
        wait_for(lambda: not running(below), "all processes end")
    status = wrapper.status()
    assert (status["status"], status["error"]) == (
        "failed",
        "The cluster broke down: SystemExit: 5",
    )


def guard_of(wrapper: WrapperProcess) -> psutil.Process:
    """The guard of a wrapper."""
    [found] = [
        process
        for process in running(wrapper.below())
        if "wrapper.guard" in " ".join(process.cmdline())
    ]
    return found


def test_another_guard_takes_the_place_of_one_that_ends(tmp_path: Path) -> None:
    """A wrapper that is killed later does not say for ever that it runs."""
    with WrapperProcess(tmp_path, {"cores": 1}) as wrapper:
        wrapper.until_running()
        first = guard_of(wrapper)
        first.kill()
        wait_for(lambda: "starting another" in wrapper.output(), "another guard")
        second = wait_for(lambda: guard_of(wrapper), "the second guard")
        assert second != first
        below = wrapper.below()
        wrapper.process.kill()
        wait_for(lambda: not running(below), "all processes end")
    assert wrapper.status()["status"] == "failed"


def test_a_signal_while_dask_is_imported(tmp_path: Path) -> None:
    """It waits until the wrapper can end in good order."""

    def held_back() -> bool:
        text = Path(f"/proc/{wrapper.process.pid}/status").read_text()
        [mask] = [line for line in text.splitlines() if line.startswith("SigBlk")]
        return bool(int(mask.split()[1], 16) & 1 << signal.SIGTERM - 1)

    with WrapperProcess(tmp_path, {"cores": 1}) as wrapper:
        wait_for(held_back, "signals are held back")
        wrapper.process.send_signal(signal.SIGTERM)
        assert wrapper.wait() == 0, wrapper.output()
    assert not wrapper.status_file.exists()


def test_ended_while_a_cluster_class_hangs(tmp_path: Path) -> None:
    """The wrapper ends in time; its guard ends after it."""
    (tmp_path / "hangs.py").write_text(
        "import time\n"
        "from distributed import LocalCluster\n"
        "class Cluster(LocalCluster):\n"
        "    def __init__(self, **kwargs):\n"
        "        print('hangs now', flush=True)\n"
        "        time.sleep(600)\n"
    )
    with WrapperProcess(
        tmp_path, {"cores": 1}, cluster="hangs::Cluster", modules=tmp_path
    ) as wrapper:
        wait_for(lambda: "hangs now" in wrapper.output(), "the start hangs")
        below = wrapper.below()
        assert below
        wrapper.process.send_signal(signal.SIGTERM)
        wrapper.wait()
        wait_for(lambda: not running(below), "the guard ends")
    assert not wrapper.status_file.exists()


def test_without_standard_output() -> None:
    """A thread that hangs does not keep the process."""
    code = (
        "import sys, threading, time\n"
        "from seamless_dask.wrapper.cli import _exit_soon\n"
        "sys.stdout.close(); sys.stdout = None\n"
        "threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "_exit_soon(5)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60, env=os.environ)
    assert done.returncode == 5

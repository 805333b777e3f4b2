"""Wrappers whose status file hangs, and wrappers that are killed while they start."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from helpers.wrapper_process import WrapperProcess, wait_for

pytestmark = pytest.mark.cluster

#: A cluster class whose start takes long.
SLOW = """
import pathlib, time
from distributed import LocalCluster
class Cluster(LocalCluster):
    def __init__(self, **kwargs):
        pathlib.Path('reached').touch()
        time.sleep(600)
"""


@pytest.mark.parametrize("signals", [1, 2])
def test_signals_while_the_status_file_hangs(tmp_path: Path, signals: int) -> None:
    """They end the wrapper all the same; the log says that the file may be untrue."""
    with WrapperProcess(tmp_path, {"cores": 1}) as wrapper:
        wrapper.until_running()
        pipe = tmp_path / "pipe"  # who opens it waits, as in a file system that hangs
        os.mkfifo(pipe)
        pipe.replace(wrapper.status_file)
        for _ in range(signals):
            wrapper.process.send_signal(signal.SIGTERM)
            wait_for(lambda: "Ending: received SIGTERM" in wrapper.output(), "SIGTERM")
        assert wrapper.wait() in ((0,) if signals == 1 else (0, 8))
    assert "may be untrue" in wrapper.output()
    assert "Traceback" not in wrapper.output()


@pytest.mark.parametrize("pid", [None, os.getpid()], ids=["no pid", "another pid"])
def test_killed_while_starting(tmp_path: Path, pid: int | None) -> None:
    """The caller learns it, also if it did not write our process id into the file."""
    (tmp_path / "slow.py").write_text(SLOW)
    fields = {"status": "starting", "parameters": {"cores": 1}}
    if pid is not None:
        fields["pid"] = pid
    with WrapperProcess(
        tmp_path, content=json.dumps(fields), cluster="slow::Cluster", modules=tmp_path
    ) as wrapper:
        wait_for((tmp_path / "reached").exists, "the cluster starts")
        wrapper.process.kill()
        assert wrapper.wait() == -signal.SIGKILL
        wait_for(lambda: wrapper.status()["status"] == "failed", "the guard says it")
    status = wrapper.status()
    assert status["error"] == "The wrapper was killed."
    assert status["pid"] == (pid or wrapper.process.pid)
    assert status.get("wrapper_pid") == (wrapper.process.pid if pid else None)

"""The wrapper under remote-http-launcher, for real."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import psutil
import pytest
import remote_http_launcher
from distributed import Client
from helpers.wrapper_process import running, wait_for
from ssh_guard.helpers import stop  # type: ignore[import-untyped]

pytestmark = pytest.mark.cluster


def test_launch_reuse_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started as a whitelisted tool, found again, and stopped by its key."""
    monkeypatch.setenv("HOME", str(tmp_path))
    key = "pure-daskserver-test"
    config = {
        "key": key,
        "workdir": "/tmp",
        "network_interface": "127.0.0.1",
        "command": "seamless-dask-wrapper distributed::LocalCluster "
        "--port-range 20000 29999 --status-file {status_file} --host 127.0.0.1 "
        "--timeout 600",
        "handshake": {"path": "health", "port_name": "dashboard_port"},
        "file_parameters": {"pure_dask": True, "interactive": True, "maximum_jobs": 1},
    }
    payload = remote_http_launcher.run(config)
    path = tmp_path / ".remote-http-launcher" / "server" / f"{key}.json"
    status = json.loads(path.read_text())
    wrapper = psutil.Process(status["pid"])
    below = set(wrapper.children(recursive=True)) | {wrapper}
    try:
        assert "wrapper_pid" not in status
        assert payload["parameters"] == config["file_parameters"]
        address = f"tcp://127.0.0.1:{payload['port']}"
        with Client(address, timeout="30s", set_as_default=False) as client:
            assert client.submit(sum, [1, 2]).result(timeout=60) == 3
        assert remote_http_launcher.run(config) == payload
        below |= set(wrapper.children(recursive=True))

        begin = time.monotonic()
        monkeypatch.setattr("sys.argv", ["rhl-stop", key])
        with pytest.raises(SystemExit) as ended:
            stop.main()
        assert ended.value.code == 0
        assert time.monotonic() - begin < 5  # SIGINT was enough
        wait_for(lambda: not running(below), "all processes end", 30)
        assert not path.exists()
    finally:
        for process in running(below):
            os.kill(process.pid, 9)

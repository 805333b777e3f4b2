"""Start the wrapper as callers do, and look at what it does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil
from helpers.paths import TESTS

T = TypeVar("T")
LOCAL = "distributed::LocalCluster"


def wait_for(look: Callable[[], T], what: str, seconds: float = 60) -> T:
    """Look until the answer is true; return it."""
    deadline = time.monotonic() + seconds
    while True:
        answer = look()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"waited {seconds} s: {what}"
        time.sleep(0.05)


def running(processes: set[psutil.Process]) -> set[psutil.Process]:
    """Those that have not ended; zombies have."""
    return {
        process
        for process in processes
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    }


# tasks for workers, which can import this file


def environment_of_worker() -> dict[str, str]:
    """The environment variables of the worker."""
    return dict(os.environ)


def start_stubborn_child() -> int:
    """A process that does not end with its parent, nor when asked."""
    return subprocess.Popen(
        ["sh", "-c", "trap '' INT TERM HUP; while :; do sleep 1; done"],
        start_new_session=True,
    ).pid


def look_at_worker() -> dict[str, Any]:
    """What the worker was given."""
    import multiprocessing

    import dask.config
    from distributed import get_worker

    worker = get_worker()
    return {
        "threads": worker.state.nthreads,
        "resources": worker.state.total_resources,
        "directory": worker.local_directory,
        "python": sys.executable,
        "memory_limit": worker.memory_manager.memory_limit,
        "daemon": multiprocessing.current_process().daemon,
        "unknown": dask.config.get("distributed.scheduler.unknown-task-duration"),
        "extra": dask.config.get("distributed.comm.retry.count"),
    }


class WrapperProcess:
    """A wrapper with a status file in `directory`.

    `content` is written to the status file as it is; without it, `parameters` are
    wrapped as a launcher does. `modules` is a directory to import from, `python` how to
    start Python, `service` the name of the status file without its ending.
    """

    def __init__(
        self,
        directory: Path,
        parameters: dict[str, Any] | None = None,
        *,
        content: str | None = None,
        cluster: str = LOCAL,
        ports: tuple[int, int] = (20000, 29999),
        options: tuple[str, ...] = (),
        modules: Path | None = None,
        environment: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
        python: Sequence[str] = (sys.executable,),
        service: str = "status",
    ):
        self.status_file = directory / f"{service}.json"
        self.log = directory / "wrapper.log"
        self.fields = {
            "workdir": "/tmp",
            "command": "seamless-dask-wrapper",
            "uid": os.getuid(),
            "status": "starting",
            "network_interface": host,
            "parameters": parameters,
            "meta": {"who": ["knows", {"deep": None}]},
        }
        if content is not None:
            self.status_file.write_text(content)
        elif parameters is not None:
            self.status_file.write_text(json.dumps(self.fields))
        command = [*python, "-m", "seamless_dask.wrapper", cluster]
        command += ["--port-range", str(ports[0]), str(ports[1])]
        command += ["--status-file", str(self.status_file), "--host", host]
        # Workers unpickle functions of the tests by their modules.
        folders = {TESTS, *(path.parent for path in TESTS.rglob("test_*.py"))}
        path = os.pathsep.join(map(str, filter(None, [*sorted(folders), modules])))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *options],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env={**os.environ, **(environment or {}), "PYTHONPATH": path},
            )

    def __enter__(self) -> WrapperProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        below = self.below() if self.process.poll() is None else set()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.wait()
        wait_for(lambda: not running(below), f"left over: {running(below)}", 30)

    def status(self) -> dict[str, Any]:
        """What the status file says; {} without one."""
        try:
            return json.loads(self.status_file.read_text())
        except FileNotFoundError:
            return {}

    def until_running(self) -> dict[str, Any]:
        """Wait for the cluster; return the status file."""

        def look() -> dict[str, Any]:
            assert self.process.poll() is None, self.output()
            status = self.status()
            return status if status.get("status") == "running" else {}

        return wait_for(look, "status running")

    def address(self) -> str:
        """Address of the scheduler."""
        host = self.fields["network_interface"]
        host = f"[{host}]" if ":" in host else host
        return f"tcp://{host}:{self.status()['port']}"

    def below(self) -> set[psutil.Process]:
        """All processes below the wrapper."""
        return set(psutil.Process(self.process.pid).children(recursive=True))

    def wait(self, seconds: float = 60) -> int:
        """Wait for the end; return the exit code."""
        return self.process.wait(seconds)

    def output(self) -> str:
        """The log."""
        return self.log.read_text()

"""The real stack with a wrapper that submits to a real batch system."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.batch_systems import BatchSystem
from helpers.stack import RealStack
from helpers.wrapper_process import wait_for

CLUSTERS = {
    "slurm": "dask_jobqueue::SLURMCluster",
    "sge": "dask_jobqueue::SGECluster",
    "oar": "dask_jobqueue::OARCluster",
}
#: Two Seamless processes of three slots per job; jobs come and go quickly.
QUEUE: dict[str, Any] = {
    "conda": "",
    "cores": 2,
    "memory": "2GB",
    "walltime": "00:10:00",
    "maximum_jobs": 2,
    "unknown_task_duration": "1m",
    "target_duration": "5s",
}


class BatchStack(RealStack):
    """A real stack whose queue is one of `system`; everything runs as its user."""

    def __init__(
        self, system: BatchSystem, *, idle_time: str = "3s", **queue: Any
    ) -> None:
        super().__init__(
            environment={**system.environment, "USER": system.user or _me()},
            queue={**QUEUE, **queue},
        )
        self.system = system
        #: what jobs print
        self.job_logs = self.home / "job-logs"
        self.dask_config = {
            f"jobqueue.{system.name}.log-directory": str(self.job_logs),
            "seamless-dask.idle-time": idle_time,
            "seamless-dask.queue-interval": "1s",
        }

    def _write_files(self) -> None:
        super()._write_files()
        path = self.home / ".seamless" / "clusters.yaml"
        clusters = yaml.safe_load(path.read_text())
        cluster = clusters["local"]
        del cluster["workers"]
        cluster["queues"]["default"]["extra_dask_config"] = self.dask_config
        cluster["frontends"][0]["hostname"] = "localhost"
        # seamless-config does not know Grid Engine: start_wrapper() comes first there
        cluster["type"] = "slurm" if self.system.name == "sge" else self.system.name
        if self.system.name == "oar":
            cluster["memory_per_core_property_name"] = "memcore"
        path.write_text(yaml.safe_dump(clusters))
        self.job_logs.mkdir()
        if self.system.user:
            owner = pwd.getpwnam(self.system.user)
            for path in [self.home, *self.home.rglob("*")]:
                os.chown(path, owner.pw_uid, owner.pw_gid)

    def user_options(self) -> dict[str, Any]:
        """Drivers run as the user of the batch system."""
        return _as(self.system.user) if self.system.user else {}

    @property
    def _wrapper_key(self) -> str:
        return f"daskserver-local-rw-{self.project}"

    def wrapper_status(self) -> str | None:
        """What the status file of the wrapper says; None without one."""
        return self.services().get(self._wrapper_key, {}).get("status")

    def start_wrapper(self, parameters: Mapping[str, Any]) -> None:
        """Start the wrapper as remote-http-launcher would, which then finds it."""
        folder = self.home / ".remote-http-launcher" / "server"
        folder.mkdir(parents=True)
        status_file = folder / f"{self._wrapper_key}.json"
        command = [
            str(Path(sys.executable).parent / "seamless-dask-wrapper"),
            CLUSTERS[self.system.name],
            *("--port-range", "20000", "29999"),
            *("--status-file", str(status_file)),
            *("--host", "127.0.0.1", "--timeout", "600"),
        ]
        log = status_file.with_suffix(".log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd="/tmp",
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        fields = {
            "workdir": "/tmp",
            "log": str(log),
            "command": " ".join(command),
            "uid": os.getuid(),
            "pid": process.pid,
            "status": "starting",
            "network_interface": "127.0.0.1",
            "parameters": dict(parameters),
        }
        written = status_file.with_suffix(".tmp")
        written.write_text(json.dumps(fields))
        written.replace(status_file)

        def started() -> bool:
            assert process.poll() is None, log.read_text()
            return self.wrapper_status() == "running"

        wait_for(started, "the wrapper")


def _me() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def _as(user: str) -> dict[str, Any]:
    """Arguments of subprocess: be that user, and in his groups only."""
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


@contextlib.contextmanager
def reachable(user: str) -> Iterator[None]:
    """Let a user run this Python: he must be able to enter the folders above it.

    In CI they are opened for a while, elsewhere the test is skipped.
    """
    if not user:  # we ourselves
        yield
        return
    closed = _closed([Path(sys.executable), Path(sys.executable).resolve()])
    closed |= _closed([Path(__file__)])
    if closed and os.environ.get("CI") != "true":
        names = ", ".join(map(str, sorted(closed)))
        pytest.skip(f"user {user} cannot enter {names}")
    try:
        for path, mode in closed.items():
            path.chmod(mode | stat.S_IXOTH)
        subprocess.run(
            [sys.executable, "-c", "import seamless_dask"],
            **_as(user),
            cwd="/",
            env={},
            check=True,
            timeout=60,
        )
        yield
    finally:
        for path, mode in closed.items():
            path.chmod(mode)


def _closed(paths: list[Path]) -> dict[Path, int]:
    """Folders above that not everybody may enter, with their modes."""
    above = {parent for path in paths for parent in path.parents}
    modes = {parent: stat.S_IMODE(parent.stat().st_mode) for parent in above}
    return {path: mode for path, mode in modes.items() if not mode & stat.S_IXOTH}

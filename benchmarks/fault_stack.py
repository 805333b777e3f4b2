"""What ``soak.py --faults`` runs on: a stack whose parts can be killed, and its drivers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

_HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(_HERE.parent / "tests"))

from helpers.stack import RealStack  # noqa: E402

DRIVER = _HERE / "fault_driver.py"
#: a second and a third Dask worker as soon as there is some work
QUEUE = {
    "maximum_jobs": 3,
    "target-duration": "500ms",
    "unknown-task-duration": "5s",
}


class Stack(RealStack):
    """A stack whose parts can be killed, stopped and started again."""

    def __init__(self) -> None:
        super().__init__(queue=QUEUE, project="faults")
        self._commands: dict[str, list[str]] = {}

    @property
    def buffers(self) -> Path:
        """Where the hashserver keeps them."""
        return self.home / "seamless" / "buffers" / self.project

    def service(self, kind: str) -> tuple[Path, dict[str, Any]]:
        """The status file of a service, and what it says."""
        (path,) = self._server_dir.glob(f"{kind}-*.json")
        return path, json.loads(path.read_text())

    def process(self, kind: str) -> psutil.Process:
        """The process of a service."""
        return psutil.Process(self.service(kind)[1]["pid"])

    def kill(self, kind: str) -> None:
        """Kill a server."""
        process = self.process(kind)
        command = process.cmdline()
        if "--port-range" in command:
            at = command.index("--port-range")
            command[at : at + 3] = ["--port", str(self.service(kind)[1]["port"])]
            at = command.index("--status-file")
            del command[at : at + 2]
        self._commands[kind] = command
        process.kill()
        with contextlib.suppress(psutil.NoSuchProcess):
            process.wait(30)

    def start_again(self, kind: str) -> None:
        """Start a server that was killed, on its port, as if the launcher had."""
        path, status = self.service(kind)
        with (self.home / f"{kind}-again.log").open("a") as log:
            process = subprocess.Popen(
                self._commands[kind],
                cwd=self.home,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        path.write_text(json.dumps({**status, "pid": process.pid}))

    def dask_workers(self) -> list[psutil.Process]:
        """The Dask workers, in the order of their start."""
        return spawned(self.process("daskserver"), "spawn_main")

    def fork_servers(self) -> list[psutil.Process]:
        """What the Seamless processes are forked from, one for each Dask worker."""
        return [s for w in self.dask_workers() for s in spawned(w, "forkserver")]

    def seamless_processes(self) -> list[psutil.Process]:
        """The Seamless processes of all Dask workers."""
        return [p for s in self.fork_servers() for p in spawned(s, "forkserver")]

    def orphans(self, known: set[int]) -> list[str]:
        """Processes that no service has, and none of those that are known."""
        roots = {status.get("pid") for status in self.services().values()} | known
        found = []
        for process in self.processes():
            try:
                line = {process.pid, *(parent.pid for parent in process.parents())}
                command = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if not line & roots:
                found.append(f"{process.pid} {command}")
        return found


def spawned(parent: psutil.Process, what: str) -> list[psutil.Process]:
    """The children of a process that have this in their command, the oldest first."""
    found: list[tuple[float, int, psutil.Process]] = []
    try:
        for child in parent.children():
            with contextlib.suppress(psutil.Error):
                if what in " ".join(child.cmdline()):
                    found.append((child.create_time(), child.pid, child))
    except psutil.Error:
        return []
    return [child for *_, child in sorted(found, key=lambda each: each[:2])]


def shared_memory(processes: list[psutil.Process]) -> set[Path]:
    """The shared memory with a name that processes have open or mapped."""
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            paths = [m.path for m in process.memory_maps()]
            paths += [f.path for f in process.open_files()]
            found |= {Path(p) for p in paths if p.startswith("/dev/shm/")}
    return found


class Driver:
    """One driver process; what it says is read in a thread."""

    def __init__(
        self,
        stack: Stack,
        log: Path,
        hear: Callable[[dict[str, Any]], None],
        *arguments: str,
    ) -> None:
        self.log = log
        self.ready = threading.Event()
        self.closed = False
        #: what was done to it, and when
        self.fate: str | None = None
        self.fate_time = 0.0
        self._hear = hear
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, str(DRIVER), *arguments],
                cwd=stack.project_dir,
                env=stack.environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                message = json.loads(line)
            except json.JSONDecodeError:
                # the last line of one that was killed, or what somebody printed
                continue
            if "ready" in message:
                self.ready.set()
            elif "closed" in message:
                self.closed = True
            else:
                self._hear(message)
        # It has ended, or is about to.
        self.ready.set()

    def wait(self, seconds: float) -> bool:
        """Whether it ends within so many seconds, and all it said is read."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        self._reader.join(30)
        return True

    def end(self, number: signal.Signals, fate: str) -> None:
        """Have it end by a signal."""
        self.fate, self.fate_time = fate, time.monotonic()
        self.signal(number)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and its group, as a terminal does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

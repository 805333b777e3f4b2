"""Real batch systems on this machine, started by the scripts in ``batch/``.

Their daemons run as root. Whoever is not root needs ``sudo`` without a password.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from helpers.paths import TESTS

SCRIPTS = TESTS / "batch"

#: commands that show whether a system is installed
COMMANDS = {
    "slurm": ("slurmctld", "slurmd", "munged", "mungekey", "sbatch"),
    "sge": ("sge_qmaster", "sge_execd", "qconf", "qsub"),
    "oar": ("oar-server", "oar-database", "oarsub", "psql", "sshd"),
}
#: ports in a row that a system needs
PORTS = {"slurm": 5, "sge": 2, "oar": 3}
#: ports are looked for from here on, below those that Linux hands out
FIRST_PORT = 16817
PREFIX = "seamless-test-"
OAR_USER = "seamless-test"
LOCK = Path(tempfile.gettempdir(), "seamless-dask-tests-oar.lock")


@dataclass(frozen=True)
class BatchSystem:
    """A batch system that accepts jobs."""

    name: str
    #: everything that its daemons write
    directory: Path
    #: what its commands need in their environment
    environment: Mapping[str, str]
    #: who has to submit, since root may not; empty: we ourselves
    user: str = ""

    def run(self, *command: str, check: bool = True) -> str:
        """Run one of its commands; return what it prints."""
        done = subprocess.run(
            command,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        if check and done.returncode:
            raise AssertionError(f"{command}: {done.stdout}{done.stderr}")
        return done.stdout


@contextlib.contextmanager
def started(name: str) -> Iterator[BatchSystem]:
    """Start a batch system, and stop it in the end; skip the test without it.

    In CI a missing system is a failure. OAR can be on a machine only once: a second
    test run waits for the first.
    """
    _require(name)
    with contextlib.ExitStack() as stack:
        if name == "oar":
            lock = stack.enter_context(open(LOCK, "a"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        _stop_stale(name)
        # short, and where all users can go: it holds sockets
        directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{name}-", dir="/tmp"))
        directory.chmod(0o755)
        (directory / "owner").write_text(
            f"{os.getpid()} {psutil.Process().create_time()}"
        )
        stack.callback(_script, f"stop-{name}.sh", directory, {})
        settings = {f"{name.upper()}_PORT": str(_free_ports(PORTS[name]))}
        user = ""
        if name == "oar":
            user = OAR_USER if os.geteuid() == 0 else ""
            settings["OAR_USER"] = user or pwd.getpwuid(os.getuid()).pw_name
        exports = _exports(_script(f"start-{name}.sh", directory, settings))
        yield BatchSystem(name, directory, exports, user)


def _stop_stale(name: str) -> None:
    """Stop what an earlier test run that was killed has left behind."""
    for owner in Path("/tmp").glob(f"{PREFIX}{name}-*/owner"):
        with contextlib.suppress(OSError, ValueError):
            pid, started_at = owner.read_text().split()
            with contextlib.suppress(psutil.NoSuchProcess):
                if psutil.Process(int(pid)).create_time() == float(started_at):
                    continue
            _script(f"stop-{name}.sh", owner.parent, {})


def _require(name: str) -> None:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    missing = [
        command for command in COMMANDS[name] if not shutil.which(command, path=path)
    ]
    reason = ""
    if missing:
        reason = f"{name} is not installed: no {', '.join(missing)}"
    elif os.geteuid() and subprocess.run(["sudo", "-n", "true"]).returncode:
        reason = f"{name} needs root, or sudo without a password"
    if reason and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


def _free_ports(count: int) -> int:
    """The first of so many ports in a row that are free."""
    first = FIRST_PORT
    while not all(map(_is_free, range(first, first + count))):
        first += count
    return first


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("0.0.0.0", port))
        except OSError:
            return False
        return True


def _script(name: str, directory: Path, settings: Mapping[str, str]) -> str:
    as_root = ["sudo", "-n"] if os.geteuid() else []
    assignments = [f"{key}={value}" for key, value in settings.items()]
    done = subprocess.run(
        [*as_root, "env", *assignments, str(SCRIPTS / name), str(directory)],
        stdin=subprocess.DEVNULL,
        # a file: the daemons may keep it open
        stdout=(output := tempfile.TemporaryFile("w+")),
        stderr=subprocess.STDOUT,
        timeout=300,
    )
    with output:
        output.seek(0)
        printed = output.read()
    if done.returncode:
        raise AssertionError(f"{name} failed:\n{printed}")
    return printed


def _exports(printed: str) -> dict[str, str]:
    found = {}
    for line in printed.splitlines():
        if line.startswith("export "):
            key, _, value = line.removeprefix("export ").partition("=")
            found[key] = value
    return found

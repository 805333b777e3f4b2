"""A complete Seamless stack on this machine, in a home directory of its own.

``LocalStack`` prepares a home directory with a ``clusters.yaml``, runs driver
scripts in it as a user would, reads the database that they filled, and stops every
service that seamless-config started for them. The demo and the tests use it; nothing
in it is needed to *use* Seamless.

The real home is never touched: each process gets ``HOME`` set to the directory of
the stack. The same variable answers the question "is anything left?": a process
belongs to the stack exactly if that is the ``HOME`` in its environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

CLUSTERS_YAML = Path(__file__).parent / "nested_pi" / "clusters.yaml"

#: variables that would make a process of the stack look outside of it
_FOREIGN_VARIABLES = ("SEAMLESS_", "DASK_", "REMOTE_HTTP_LAUNCHER", "PYTHONPATH")

#: keys of the services that keep results and do not compute
_STORAGE = ("hashserver-", "database-")

#: what remote-http-launcher does to stop a service, and the seconds it waits after each
_STOP_SEQUENCE = ((signal.SIGINT, 5.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))


class StackError(RuntimeError):
    """A driver failed or did not end; the message holds its output and all logs."""


@dataclass(frozen=True)
class DriverResult:
    """How one driver script ended."""

    stdout: str
    stderr: str
    seconds: float

    @property
    def value(self) -> Any:
        """The last line of the output, which by convention is JSON."""
        lines = [line for line in self.stdout.splitlines() if line.strip()]
        if not lines:
            raise StackError(f"the driver printed nothing\n{self.stderr}")
        return json.loads(lines[-1])


@dataclass(frozen=True)
class Stored:
    """What the database holds about transformations, by their checksum."""

    #: transformation checksum -> result checksum
    results: dict[str, str]
    #: transformation checksum -> execution record; it names times, so that it
    #: differs whenever a transformation is executed again
    records: dict[str, str]


@dataclass(frozen=True)
class Stop:
    """How one service was stopped."""

    service: str
    #: the signal after which it was gone, or None if it had ended by itself
    by: str | None
    seconds: float


class LocalStack:
    """hashserver, database and a daskserver (or jobserver) in a temporary home.

    The services are not started here: seamless-config starts them when the first
    driver needs them, and later drivers find them running.
    """

    def __init__(
        self,
        *,
        remote: str = "daskserver",
        workers: int = 2,
        project: str = "demo",
        nparallel: int = 50,
        queue: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.remote = remote
        self.workers = workers
        self.project = project
        self.nparallel = nparallel
        self._queue = dict(queue or {})
        self._extra_environment = dict(environment or {})
        # Stacks that start at the same moment would race for the same free port, so
        # each has its own ranges, below those that the system hands out itself.
        self.first_port = 12000 + 400 * (os.getpid() % 40)
        self.home = Path(tempfile.mkdtemp(prefix="seamless-stack-"))
        self.project_dir = self.home / "project"

    # -- life cycle -----------------------------------------------------------

    def __enter__(self) -> LocalStack:
        try:
            self._write_files()
        except BaseException:
            shutil.rmtree(self.home, ignore_errors=True)
            raise
        return self

    def __exit__(self, exc_type: object, exc: object, tb: object) -> None:
        left: list[str] = []
        try:
            self.stop()
            left = self.end_leftovers()
        finally:
            shutil.rmtree(self.home, ignore_errors=True)
        # An error of the body says more than what it left behind.
        if left and exc is None:
            raise StackError("left behind:\n" + "\n".join(left))

    def _write_files(self) -> None:
        clusters = yaml.safe_load(CLUSTERS_YAML.read_text())
        cluster = clusters["local"]
        cluster["workers"] = self.workers
        cluster["queues"]["default"].update(self._queue)
        first = self.first_port
        for number, service in enumerate(cluster["frontends"][0].values()):
            service["port_start"] = first + 100 * number
            service["port_end"] = first + 100 * number + 99
        (self.home / ".seamless").mkdir()
        (self.home / ".seamless" / "clusters.yaml").write_text(yaml.safe_dump(clusters))
        (self.home / "tmp").mkdir()
        self.project_dir.mkdir()
        (self.project_dir / "seamless.yaml").write_text(
            yaml.safe_dump([{"project": self.project}])
        )
        profile: list[dict[str, Any]] = [
            {"cluster": "local"},
            {"execution": "remote"},
            {"remote": self.remote},
            {"nparallel": self.nparallel},
        ]
        (self.project_dir / "seamless.profile.yaml").write_text(yaml.safe_dump(profile))

    def environment(self) -> dict[str, str]:
        """The environment of a driver, and so of every service that it starts."""
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_FOREIGN_VARIABLES)
        }
        env["HOME"] = str(self.home)
        # Scratch files of Dask and multiprocessing vanish together with the home.
        env["TMPDIR"] = str(self.home / "tmp")
        # The launcher looks for the commands of the services on the path.
        bin_dir = Path(sys.executable).parent
        env["PATH"] = os.pathsep.join([str(bin_dir), env.get("PATH", os.defpath)])
        # With this SIGABRT prints the stacks of all threads: see _dump_stacks().
        env["PYTHONFAULTHANDLER"] = "1"
        env["PYTHONUNBUFFERED"] = "1"
        env.update(self._extra_environment)
        return env

    # -- drivers --------------------------------------------------------------

    def start(
        self, script: str | Path, *args: object, show_stderr: bool = False
    ) -> subprocess.Popen[str]:
        """Start a driver script in the project directory; see also ``run``."""
        return subprocess.Popen(
            self.command(sys.executable, str(script), *map(str, args)),
            cwd=self.project_dir,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if show_stderr else subprocess.PIPE,
            text=True,
            # A signal to the driver's group reaches the driver's own children only.
            start_new_session=True,
            preexec_fn=_no_core_files,
            **self.user_options(),
        )

    def command(self, *words: str) -> list[str]:
        """Return the command that runs a driver, from that which does it here."""
        return list(words)

    def user_options(self) -> dict[str, Any]:
        """Return arguments of ``subprocess.Popen`` that name the user of drivers."""
        return {}

    def run(
        self,
        script: str | Path,
        *args: object,
        timeout: float = 300,
        show_stderr: bool = False,
    ) -> DriverResult:
        """Run a driver script to its end.

        After ``timeout`` seconds every process of the stack prints the stacks of its
        threads and is ended. The error holds them, with what the cluster was doing and
        the tail of each log.
        """
        begin = time.monotonic()
        process = self.start(script, *args, show_stderr=show_stderr)
        return self.finish(process, begin=begin, timeout=timeout)

    def finish(
        self, process: subprocess.Popen[str], *, begin: float, timeout: float
    ) -> DriverResult:
        """Wait for a driver that ``start`` returned."""
        what = " ".join(Path(arg).name for arg in _arguments(process)[1:])
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            picture = self._picture()
            stdout, stderr = self._dump_stacks(process)
            raise StackError(
                f"driver '{what}' did not end within {timeout:g} s\n{picture}\n"
                f"--- stdout\n{_tail(stdout)}\n--- stderr\n{_tail(stderr, 400)}\n"
                f"{self.logs(400)}"
            ) from None
        except BaseException:
            _signal_group(process.pid, signal.SIGKILL)
            process.wait()
            raise
        seconds = time.monotonic() - begin
        if process.returncode != 0:
            raise StackError(
                f"driver '{what}' ended with exit code {process.returncode}\n"
                f"--- stdout\n{_tail(stdout)}\n--- stderr\n{_tail(stderr)}\n"
                f"{self.logs()}"
            )
        return DriverResult(stdout, stderr or "", seconds)

    def _picture(self) -> str:
        """What the cluster is doing, as its operators would ask."""
        try:
            command = [sys.executable, "-m", "seamless_dask.status"]
            asked = subprocess.run(
                [*command, self.scheduler_address()],
                env={**self.environment(), "COLUMNS": "120"},
                capture_output=True,
                text=True,
                timeout=30,
            )
        except (StackError, subprocess.TimeoutExpired) as exc:
            return f"the cluster does not say what it is doing: {exc}"
        return asked.stdout + asked.stderr

    def _dump_stacks(self, process: subprocess.Popen[str]) -> tuple[str, str]:
        """Let whatever computes print the stacks of its threads, which ends it."""
        storage = {
            status.get("pid")
            for key, status in self.services().items()
            if key.startswith(_STORAGE)
        }
        for member in self.processes():
            if member.pid not in storage:
                _send(member, signal.SIGABRT)
        try:
            stdout, stderr = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            _signal_group(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate(timeout=10)
        return stdout, stderr or ""

    # -- what is stored -------------------------------------------------------

    @property
    def database_file(self) -> Path:
        return self.home / "seamless" / "database" / self.project / "seamless.db"

    def stored(self) -> Stored:
        """Read the database file; the server may go on writing meanwhile."""
        if not self.database_file.exists():
            return Stored({}, {})
        # not "ro": what a server was writing when it was killed is undone by who reads next
        uri = f"{self.database_file.as_uri()}?mode=rw"
        connection = sqlite3.connect(uri, uri=True, timeout=30)
        try:
            results = dict(
                connection.execute("select checksum, result from transformation")
            )
            records = dict(
                connection.execute("select checksum, metadata from meta_data")
            )
        finally:
            connection.close()
        return Stored(results, records)

    def buffer(self, checksum: str) -> bytes | None:
        """The buffer with this checksum, if the hashserver holds it."""
        folder = self.home / "seamless" / "buffers" / self.project
        for path in (folder / checksum[:2] / checksum, folder / checksum):
            if path.is_file():
                return path.read_bytes()
        return None

    def has_buffer(self, checksum: str) -> bool:
        """Whether the hashserver holds the buffer with this checksum."""
        return self.buffer(checksum) is not None

    # -- services -------------------------------------------------------------

    @property
    def _server_dir(self) -> Path:
        return self.home / ".remote-http-launcher" / "server"

    def services(self) -> dict[str, dict[str, Any]]:
        """The status files of the services by key, for example ``daskserver-...``."""
        found = {}
        for path in sorted(self._server_dir.glob("*.json")):
            try:
                found[path.stem] = json.loads(path.read_text())
            except (FileNotFoundError, json.JSONDecodeError):
                continue  # removed or replaced at this moment
        return found

    def scheduler_address(self) -> str:
        """The address of the running Dask scheduler."""
        for key, status in self.services().items():
            if key.startswith("daskserver-") and status.get("status") == "running":
                return f"tcp://{status['network_interface']}:{status['port']}"
        raise StackError(f"no daskserver is running\n{self.logs()}")

    def scheduler_status(self) -> dict[str, Any]:
        """The counters of the permission manager, from the scheduler itself."""
        return call_scheduler(
            self.scheduler_address(), lambda scheduler: scheduler.seamless_status()
        )

    def processes(self) -> list[psutil.Process]:
        """Every living process of this stack, drivers included."""
        home = str(self.home)
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("HOME") == home:
                    found.append(process)
            except psutil.Error:
                continue  # ended meanwhile, or somebody else's
        return found

    def stop(self) -> list[Stop]:
        """Stop the services one by one, as remote-http-launcher would."""
        # Whoever computes goes first: it may still have results to store.
        services = sorted(
            self.services().items(),
            key=lambda item: item[0].startswith(_STORAGE),
        )
        return [self._stop_service(key, status) for key, status in services]

    def _stop_service(self, key: str, status: Mapping[str, Any]) -> Stop:
        begin = time.monotonic()
        try:
            process = psutil.Process(int(status["pid"]))
            ours = process.environ().get("HOME") == str(self.home)
        except (KeyError, ValueError, psutil.Error):
            ours = False
        if not ours:
            return Stop(key, None, 0.0)
        for number, seconds in _STOP_SEQUENCE:
            _send(process, number)
            try:
                process.wait(seconds)
            except psutil.TimeoutExpired:
                continue
            except psutil.NoSuchProcess:
                pass
            return Stop(key, number.name, time.monotonic() - begin)
        raise StackError(f"{key} survived SIGKILL (pid {process.pid})")

    def end_leftovers(self, grace: float = 5.0) -> list[str]:
        """Describe what still runs after ``grace`` seconds, and kill it.

        Nothing should: an answer that is not empty is a defect of whoever started
        the process.
        """
        deadline = time.monotonic() + grace
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        described = [_describe(process) for process in left]
        for process in left:
            _send(process, signal.SIGKILL)
        psutil.wait_procs(left, timeout=5)
        return described

    def logs(self, lines: int = 40) -> str:
        """The end of each log, with headings: services under ``server/``."""
        launcher = self.home / ".remote-http-launcher"
        # hashserver and database log each request, which says little.
        parts = [
            f"--- {path.relative_to(launcher)}\n"
            + _tail(
                path.read_text(errors="replace"),
                min(lines, 10) if path.name.startswith(_STORAGE) else lines,
            )
            for path in sorted(launcher.rglob("*.log"))
            if path.stat().st_size and not path.name.endswith(".debug.log")
        ]
        return "\n".join(parts)


def call_scheduler(
    address: str, call: Callable[[Any], Any], *, timeout: float = 30
) -> Any:
    """Call one RPC handler of a Dask scheduler: ``lambda scheduler: scheduler.f()``."""
    from distributed.core import rpc

    async def ask() -> Any:
        scheduler = rpc(address)
        try:
            return await asyncio.wait_for(call(scheduler), timeout)
        finally:
            await scheduler.close_rpc()

    return asyncio.run(ask())


def _no_core_files() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _arguments(process: subprocess.Popen[str]) -> Sequence[str]:
    assert isinstance(process.args, list)
    return [str(arg) for arg in process.args]


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        pass


def _describe(process: psutil.Process) -> str:
    try:
        command = " ".join(process.cmdline())
        return f"pid {process.pid} (parent {process.ppid()}): {command}"
    except psutil.Error:
        return f"pid {process.pid}"


def _tail(text: str | None, lines: int = 60) -> str:
    kept: Iterable[str] = (text or "").splitlines()[-lines:]
    return "\n".join(kept)

"""What is compared: each backend runs the same workloads, in a home of its own.

A backend starts its services with the first run and keeps them until it is closed. One
that hangs is started again, in a new home.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

_HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(_HERE.parent / "examples"))

from local_stack import LocalStack, StackError  # noqa: E402
from scheduler_file import wait_for_facts  # noqa: E402

DRIVER = str(_HERE / "driver.py")
PLAIN_DRIVER = str(_HERE / "plain_dask.py")

#: transformations that one Seamless process lets in, unless it is told otherwise
THROTTLE = 3
#: parameters of a queue that starts all its workers for a minute of work
_EAGER = {"target-duration": "1s", "unknown-task-duration": "1s"}
#: seconds until services must be there and have done something
_START_TIMEOUT = 60.0


class _Home(LocalStack):
    """A stack whose drivers and services use another Python environment."""

    def __init__(self, python: str, **options: Any) -> None:
        super().__init__(**options)
        self.python = python

    def environment(self) -> dict[str, str]:
        env = super().environment()
        # Not resolved: in a virtual environment it is a link to somewhere else.
        bin_dir = Path(self.python).parent
        env["PATH"] = os.pathsep.join([str(bin_dir), env["PATH"]])
        return env

    def start(
        self, script: str | Path, *args: object, show_stderr: bool = False
    ) -> subprocess.Popen[str]:
        return self.start_command([str(script), *map(str, args)], subprocess.PIPE)

    def start_command(
        self, arguments: Sequence[str], output: int
    ) -> subprocess.Popen[str]:
        """Start Python with these arguments."""
        return subprocess.Popen(
            [self.python, *arguments],
            cwd=self.project_dir,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
            start_new_session=True,
        )


class Backend(ABC):
    """Something that runs workloads; ``run`` starts what is needed for that.

    ``processes`` is the number of processes that execute transformations or tasks, on
    each of ``workers`` Dask workers if ``has_workers``.
    """

    has_workers = False

    def __init__(self, name: str, python: str = sys.executable) -> None:
        self.name = name
        self.python = python
        self.workers = 1
        self.processes = 2
        self._home: _Home | None = None

    def run(
        self,
        workload: str,
        arguments: Mapping[str, Any],
        *,
        salt: str,
        timeout: float,
        cold: bool = False,
    ) -> dict[str, Any]:
        """The outcome of one workload; only ``error`` if it failed.

        The first run starts the services and warms them up; one that is ``cold`` starts
        them again, and has one worker at its beginning.
        """
        text = json.dumps(dict(arguments))
        try:
            if cold:
                self.close()
                self.open()
                return self._run_once(workload, text, salt, timeout, cold=True)
            if self._home is None:
                self.open()
                # Not nested: what hangs shall do so where it is measured.
                self._run_once("independent", '{"n": 20}', f"{salt}/w", _START_TIMEOUT)
            return self._run_once(workload, text, salt, timeout)
        except StackError as error:
            self.close()
            return {"error": str(error)}

    def _run_once(
        self,
        workload: str,
        arguments: str,
        salt: str,
        timeout: float,
        cold: bool = False,
    ) -> dict[str, Any]:
        assert self._home is not None
        begin = time.monotonic()
        script, *rest = self._driver(self._home, workload, arguments, salt)
        if cold:
            rest += ["--workers", "1", "--warm-up", "0"]
        elif self.workers > 1:
            rest += ["--workers", str(self.workers)]
        process = self._home.start(script, *rest)
        driver = self._home.finish(process, begin=begin, timeout=timeout)
        outcome: dict[str, Any] = driver.value
        return outcome

    def open(self) -> None:
        """Start the services, as far as the first driver does not."""
        self._home = self._new_home()
        self._home.__enter__()

    def close(self) -> None:
        """Stop the services, however well they take it."""
        home, self._home = self._home, None
        if home is not None:
            try:
                home.__exit__(None, None, None)
            except StackError as error:
                print(f"{self.name}: {error}", file=sys.stderr)

    def versions(self) -> dict[str, str]:
        """{package: version} of the environment that the backend uses."""
        code = (
            "import importlib.metadata as m, json; print(json.dumps("
            "{d.metadata['Name']: d.version for d in m.distributions()}))"
        )
        output = subprocess.run(
            [self.python, "-c", code], check=True, capture_output=True, text=True
        ).stdout
        found: dict[str, str] = json.loads(output)
        return dict(sorted(found.items()))

    @abstractmethod
    def _new_home(self) -> _Home: ...

    @abstractmethod
    def _driver(
        self, home: _Home, workload: str, arguments: str, salt: str
    ) -> tuple[str, ...]:
        """Script and arguments of the driver."""


class Stack(Backend):
    """hashserver, database, and a daskserver or jobserver: everything is real."""

    def __init__(self, name: str, remote: str, python: str = sys.executable) -> None:
        super().__init__(name, python)
        self._remote = remote
        self.has_workers = remote == "daskserver"

    def _new_home(self) -> _Home:
        queue = {"maximum_jobs": self.workers, "interactive": True, **_EAGER}
        return _Home(
            self.python,
            remote=self._remote,
            workers=self.processes,
            queue=queue if self.workers > 1 else None,
        )

    def _driver(
        self, home: _Home, workload: str, arguments: str, salt: str
    ) -> tuple[str, ...]:
        database = str(home.database_file)
        options = ("--salt", salt, "--database", database)
        return (DRIVER, workload, arguments, *options)


class Pool(Backend):
    """The local processes of seamless-transformer: no service, nothing is stored."""

    def _new_home(self) -> _Home:
        return _Home(self.python)

    def _driver(
        self, home: _Home, workload: str, arguments: str, salt: str
    ) -> tuple[str, ...]:
        options = ("--salt", salt, "--pool", str(self.processes))
        return (DRIVER, workload, arguments, *options)


class PlainDask(Backend):
    """Tasks of Dask that call tasks, on as many worker processes with 3 threads."""

    def __init__(
        self, name: str = "plain Dask", python: str = sys.executable, processes: int = 2
    ) -> None:
        super().__init__(name, python)
        self.processes = processes
        #: of the scheduler
        self.address = ""
        self._started: list[subprocess.Popen[str]] = []

    def _new_home(self) -> _Home:
        return _Home(self.python)

    def open(self) -> None:
        super().open()
        assert self._home is not None
        file = self._home.home / "scheduler.json"
        self._dask("scheduler", "--port", "0", "--scheduler-file", str(file))
        try:
            self.address = wait_for_facts(file, _START_TIMEOUT)["address"]
        except TimeoutError as error:
            raise StackError(str(error)) from error
        for _ in range(self.processes):
            self._dask(
                "worker", self.address, "--nthreads", str(THROTTLE), "--no-nanny"
            )

    def _dask(self, command: str, *options: str) -> None:
        assert self._home is not None
        arguments = ["-m", "dask", command, *options]
        arguments += ["--host", "127.0.0.1", "--no-dashboard"]
        self._started.append(self._home.start_command(arguments, subprocess.DEVNULL))

    def close(self) -> None:
        for process in reversed(self._started):
            process.terminate()
        psutil.wait_procs(
            [psutil.Process(p.pid) for p in self._started if p.poll() is None],
            timeout=10,
        )
        for process in self._started:
            process.kill()
            process.wait()
        self._started.clear()
        super().close()

    def _driver(
        self, home: _Home, workload: str, arguments: str, salt: str
    ) -> tuple[str, ...]:
        return PLAIN_DRIVER, self.address, workload, arguments

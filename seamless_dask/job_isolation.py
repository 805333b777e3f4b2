"""Keeps the jobs of one Seamless process apart; runs inside each such process.

seamless-transformer runs several transformations at a time in one process, in threads.
Two of its habits suit one at a time only, and are changed here:

- To capture what a job prints it replaces ``sys.stdout``, which all jobs share. Output
  would reach other jobs, and jobs that print would fail after another has ended.
- A bash transformation holds a lock until its command ends, because the commands'
  working directory is that of the process. A command that submits bash transformations
  and waits for them would wait for itself as soon as each process runs one of its kind.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from importlib import import_module
from typing import Any

#: set in each Seamless process, for the processes that jobs start: its name
PROCESS_ENV = "SEAMLESS_DASK_PROCESS"
#: set for the command of a bash transformation: the key of its Dask task
OWNER_ENV = "SEAMLESS_DASK_OWNER"


class JobStream:
    """Stands for ``sys.stdout`` or ``sys.stderr``: what a job writes goes to its own.

    Inherited by the asyncio tasks that a job starts, not by its threads: they write
    to the stream of the process.
    """

    def __init__(self, process_stream: Any) -> None:
        self._process_stream = process_stream
        self._of_job: ContextVar[Any] = ContextVar("stream", default=None)

    def get(self) -> Any:
        """Return the stream of the job that calls."""
        stream = self._of_job.get()
        return self._process_stream if stream is None else stream

    def set(self, stream: Any) -> None:
        """Let the job that calls write to `stream`."""
        self._of_job.set(stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.get(), name)


class _SysOfJobs:
    """The module ``sys`` for those who replace its streams: they do so per job."""

    def __init__(self, stdout: JobStream, stderr: JobStream) -> None:
        self._stdout = stdout
        self._stderr = stderr

    def __getattr__(self, name: str) -> Any:
        return getattr(sys, name)

    @property
    def stdout(self) -> Any:
        return self._stdout.get()

    @stdout.setter
    def stdout(self, stream: Any) -> None:
        self._stdout.set(stream)

    @property
    def stderr(self) -> Any:
        return self._stderr.get()

    @stderr.setter
    def stderr(self, stream: Any) -> None:
        self._stderr.set(stream)


class _BashSubprocess:
    """The module ``subprocess`` for `execute_bash`; see the head of the file.

    Parameters
    ----------
    lock
        The lock that `execute_bash` holds. While a command runs it is released, and
        the process is back in its own directory.
    owner
        Returns the key of the Dask task of the job that calls.
    """

    def __init__(self, lock: Any, owner: Callable[[], str | None]) -> None:
        self._lock = lock
        self._owner = owner
        self._directory = os.getcwd()

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)

    def Popen(
        self, command: str, *, env: Mapping[str, str], **options: Any
    ) -> _EndedCommand:
        owner = self._owner()
        environment = dict(env) if owner is None else {**env, OWNER_ENV: owner}
        # A file: a command that fills a pipe which nobody empties never ends.
        options["stderr"] = stderr = tempfile.TemporaryFile()
        directory = os.getcwd()
        process = subprocess.Popen(command, env=environment, **options)
        os.chdir(self._directory)
        self._lock.release()
        try:
            stdout, _ = process.communicate()
        finally:
            self._lock.acquire()
            os.chdir(directory)
        stderr.seek(0)
        return _EndedCommand(process, io.BytesIO(stdout), stderr)


class _EndedCommand:
    """What `execute_bash` uses of a `subprocess.Popen`, after the command's end."""

    def __init__(
        self, process: subprocess.Popen[bytes], stdout: Any, stderr: Any
    ) -> None:
        self.pid = process.pid
        self.returncode = process.returncode
        self.stdout = stdout
        self.stderr = stderr

    def wait(self) -> int:
        return self.returncode

    def kill(self) -> None:
        """There is nothing left to kill."""


def isolate_jobs(owner: Callable[[], str | None]) -> None:
    """Arrange all this in the process that calls, once.

    Parameters
    ----------
    owner
        Returns the key of the Dask task of the job that calls.
    """
    import seamless_transformer
    from seamless_transformer import worker

    stdout, stderr = JobStream(sys.stdout), JobStream(sys.stderr)
    sys.stdout, sys.stderr = stdout, stderr
    worker.sys = _SysOfJobs(stdout, stderr)
    execute_bash = import_module("seamless_transformer.execute_bash")
    execute_bash.subprocess = _BashSubprocess(  # type: ignore[attr-defined]
        seamless_transformer.global_lock, owner
    )

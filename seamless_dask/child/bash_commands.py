"""How bash transformations run in a Seamless process.

seamless-transformer holds a lock until the command of a bash transformation ends, since
all threads of a process share the working directory. Commands that submit bash
transformations and wait for them would deadlock as soon as each process runs such a
command. So the lock is released while a command runs.
"""

from __future__ import annotations

import io
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

from ..cluster.environment import OWNER_ENV
from ..neighbours.replacing import replace
from .job_identity import current_job

#: bytes of a command's output that are read at once
CHUNK = 64 * 1024


class _BashSubprocess:
    """Replaces the module ``subprocess`` in `execute_bash`; see the head of the file.

    Parameters
    ----------
    lock
        The lock that `execute_bash` holds. While a command runs it is released.
    owner
        Returns the key of the Dask task of the calling job.
    waiting
        Returns a context manager in which the calling job waits, used while a command
        runs.
    """

    def __init__(
        self,
        lock: Any,
        owner: Callable[[], str | None],
        waiting: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._lock = lock
        self._owner = owner
        self._waiting = waiting

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)

    def Popen(
        self, command: str, *, env: Mapping[str, str], **options: Any
    ) -> _EndedCommand:
        owner = self._owner()
        environment = dict(env) if owner is None else {**env, OWNER_ENV: owner}
        # A file, because a command would block on a full pipe that is not read.
        options["stderr"] = stderr = tempfile.TemporaryFile()
        process: Any = subprocess.Popen(command, env=environment, **options)
        stdout = io.BytesIO()
        job = current_job()
        if job is not None and job.output is not None:
            job.output.of_command(stdout, stderr)
        self._lock.release()
        try:
            with self._waiting(), process.stdout:
                while chunk := process.stdout.read1(CHUNK):
                    stdout.write(chunk)
                process.wait()
        finally:
            self._lock.acquire()
        stdout.seek(0)
        stderr.seek(0)
        return _EndedCommand(process, stdout, stderr)


class _EndedCommand:
    """The part of `subprocess.Popen` that `execute_bash` uses after the command."""

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
        """Do nothing: the command has ended."""


def let_commands_wait(
    owner: Callable[[], str | None],
    waiting: Callable[[], AbstractContextManager[None]],
) -> None:
    """Install this in the calling process; call it once.

    Parameters
    ----------
    owner
        Returns the key of the Dask task of the calling job.
    waiting
        Returns a context manager in which the calling job waits, used while a command
        runs.
    """
    import seamless_transformer

    execute_bash = import_module("seamless_transformer.execute_bash")
    replace(
        execute_bash,
        "subprocess",
        _BashSubprocess(seamless_transformer.global_lock, owner, waiting),
    )

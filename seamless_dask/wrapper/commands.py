"""Run the commands of a batch system, and never wait for ever.

The clients of some batch systems try for ever when their server is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Longest run of a command, in seconds.
PATIENCE = 30.0


class CommandFailed(RuntimeError):
    """A command could not be started, failed, or took too long.

    A RuntimeError, since that is what dask_jobqueue expects. `unfinished` says that it
    was ended by us: nobody knows what it had done by then.
    """

    def __init__(self, message: str, *, unfinished: bool = False):
        super().__init__(message)
        self.unfinished = unfinished


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    output: str
    errors: str


async def run(
    command: Sequence[str],
    seconds: float = PATIENCE,
    *,
    shell: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Result:
    """Run a command to its end, which may be a failure.

    Raises `CommandFailed` if it cannot be started or takes longer than `seconds`; then
    it is killed, with everything that it started. Programs that run as another user, as
    those of OAR do, can only be left alone.
    """
    start: Any = asyncio.create_subprocess_exec
    if shell:
        start = asyncio.create_subprocess_shell
    try:
        process = await start(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # a group of its own: out of reach of Ctrl-C, and killed as a whole
            start_new_session=True,
            env=environment,
        )
    except OSError as error:
        raise CommandFailed(f"{command[0]} cannot be started: {error}") from None
    try:
        output, errors = await asyncio.wait_for(process.communicate(), seconds)
    except asyncio.TimeoutError:
        raise CommandFailed(
            f"{command[0]} took longer than {seconds:g} s", unfinished=True
        ) from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
    return Result(
        process.returncode or 0,
        output.decode(errors="replace"),
        errors.decode(errors="replace"),
    )


async def call(
    command: Sequence[str],
    *,
    shell: bool = False,
    seconds: float = PATIENCE,
    environment: Mapping[str, str] | None = None,
) -> Result:
    """Run a command that must succeed. Raises `CommandFailed`."""
    result = await run(command, seconds, shell=shell, environment=environment)
    if result.code:
        said = (result.errors.strip() or result.output.strip())[:1000]
        raise CommandFailed(f"{command[0]} ended with code {result.code}: {said}")
    return result

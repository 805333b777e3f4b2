"""Run the commands of a batch system, and never wait for ever.

The clients of some batch systems retry for ever when their server is away. Others, or
wrappers that sites put around them, leave a process behind that keeps their output open:
the answer is complete when the program itself has ended, not when the output is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil

logger = logging.getLogger(__name__)

#: Longest run of a command, in seconds.
PATIENCE = 30.0
#: How long other processes, such as ``tee``, may still write its output after the end of a
#: program, in seconds.
LAST_WORDS = 1.0
_CHUNK = 1 << 16
#: What the system may also lack after a program has started: Python from 3.12 on waits for
#: it with a descriptor.
_LACKING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class CommandFailed(RuntimeError):
    """A command could not be started, failed, or took too long.

    A RuntimeError, because dask_jobqueue expects that. `unfinished` says that nobody saw
    the command end, if it was started: its effect is not known.
    """

    def __init__(self, message: str, *, unfinished: bool = False):
        super().__init__(message)
        self.unfinished = unfinished


class NotStarted(CommandFailed):
    """A command was certainly not started: it has no effect."""


@dataclass(frozen=True)
class Result:
    """The exit code and the output of a command."""

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

    Processes that it leaves behind and that keep its output open are killed, unless they
    have a session of their own, as daemons do.

    Raises `NotStarted` if it cannot be started, and `CommandFailed` if nobody can wait for
    it, or if it takes longer than `seconds`; then it is killed, with all processes that it
    started. Programs that run as another user, such as those of OAR, cannot be killed.
    """
    start: Any = asyncio.create_subprocess_exec
    if shell:
        start = asyncio.create_subprocess_shell
    async with _pipe(command[0]) as output, _pipe(command[0]) as errors:
        try:
            process = await start(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output.entrance,
                stderr=errors.entrance,
                # a session of its own: out of reach of Ctrl-C, and killed as a whole
                start_new_session=True,
                env=environment,
            )
        except OSError as error:
            if error.errno in _LACKING:
                raise _unwatched(command[0], error) from None
            raise NotStarted(f"{command[0]} cannot be started: {error}") from None
        except RuntimeError as error:
            # before 3.12, and on old kernels, Python waits for it in a new thread
            raise _unwatched(command[0], error) from None
        output.close_entrance()
        errors.close_entrance()
        readings = {output.reading, errors.reading}
        try:
            await asyncio.wait_for(process.wait(), seconds)
            await asyncio.wait(readings, timeout=LAST_WORDS)
        except asyncio.TimeoutError:
            raise CommandFailed(
                f"{command[0]} took longer than {seconds:g} s", unfinished=True
            ) from None
        finally:  # also if this coroutine is cancelled
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                    _end_session(process.pid, command[0])
                    await process.wait()
            elif not all(reading.done() for reading in readings):
                _end_session(process.pid, command[0])
    return Result(process.returncode or 0, output.text(), errors.text())


def _unwatched(command: str, error: Exception) -> CommandFailed:
    return CommandFailed(
        f"{command} may have been started, but nobody can wait for its end: {error}",
        unfinished=True,
    )


@dataclass
class _Pipe:
    """A pipe whose content so far can be read at any time, also before its end."""

    #: The descriptor for the program; -1 when closed.
    entrance: int
    #: Ends when no process has the pipe open for writing any more.
    reading: asyncio.Task[None]
    content: bytearray = field(default_factory=bytearray)

    def close_entrance(self) -> None:
        """Close our own end for writing; the program has its copy."""
        if self.entrance >= 0:
            os.close(self.entrance)
            self.entrance = -1

    def text(self) -> str:
        """The text that has arrived so far."""
        return self.content.decode(errors="replace")


@asynccontextmanager
async def _pipe(command: str) -> AsyncIterator[_Pipe]:
    """Our own pipe: with asyncio's, a program counts as running while a pipe is open."""
    try:
        exit_, entrance = os.pipe()
    except OSError as error:
        raise NotStarted(f"{command} cannot be started: {error}") from None
    content = bytearray()
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(exit_, "rb", 0)
    )

    async def read() -> None:
        while chunk := await reader.read(_CHUNK):
            content.extend(chunk)

    pipe = _Pipe(entrance, asyncio.create_task(read()), content)
    try:
        yield pipe
    finally:
        pipe.close_entrance()
        pipe.reading.cancel()
        transport.close()


def _end_session(session: int, command: str) -> None:
    """Kill the processes that a program has left behind in its session."""
    try:
        pids = psutil.pids()
    except OSError as error:  # no descriptor is free: its answer counts all the same
        logger.info("Nobody knows what %s left behind: %s", command, error)
        return
    for pid in pids:
        try:
            ours = os.getsid(pid) == session
        except OSError:  # it has ended
            continue
        if ours:
            logger.debug("%s left process %d behind: killed.", command, pid)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


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

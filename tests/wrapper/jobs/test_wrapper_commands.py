"""Programs that are run: what they said, when they have ended, and what they leave."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import psutil
import pytest
from helpers.lacking import descriptors, no_threads
from helpers.wrapper_process import wait_for

from seamless_dask.wrapper.jobs import commands
from seamless_dask.wrapper.jobs.commands import CommandFailed, NotStarted, call, run

pytestmark = pytest.mark.slow


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever keeps the output of a program open has less time to end."""
    monkeypatch.setattr(commands, "LAST_WORDS", 0.3)


def test_what_a_program_said_is_there_when_it_has_ended(
    tmp_path: Path, hasty: None
) -> None:
    """Whoever else keeps its output open is ended, also in a process group of its own."""
    pids = tmp_path / "pids"
    script = (
        f"echo out; echo err >&2; sleep 1000 & echo $! >>{pids}; "
        f"set -m; sleep 1001 & echo $! >>{pids}; exit 3"
    )
    began = time.monotonic()
    result = asyncio.run(run(["bash", "-c", script]))
    assert time.monotonic() - began < 20
    assert (result.code, result.output, result.errors) == (3, "out\n", "err\n")
    left = list(map(int, pids.read_text().split()))
    wait_for(lambda: not any(map(psutil.pid_exists, left)), "nothing left", 10)


def test_what_others_still_write_is_read() -> None:
    """A program may hand its output to another one that ends a little later."""
    script = "exec > >(sleep 0.2; cat); echo 7"
    assert asyncio.run(run(["bash", "-c", script])).output == "7\n"


def test_a_daemon_is_let_go(tmp_path: Path, hasty: None) -> None:
    pid_file = tmp_path / "pid"
    script = f"setsid sh -c 'echo $$ >{pid_file}; exec sleep 1000' & sleep 0.5; echo 7"
    assert asyncio.run(run(["bash", "-c", script])).output == "7\n"
    process = psutil.Process(int(pid_file.read_text()))
    assert process.name() == "sleep"
    process.kill()


def test_nothing_is_left_if_nobody_waits_any_more(tmp_path: Path) -> None:
    """The wrapper may end while a command has ended and its output has not."""
    pids = tmp_path / "pids"

    async def give_up() -> None:
        script = f"sleep 1000 & echo $! $$ >{pids}"
        task = asyncio.create_task(run(["sh", "-c", script]))
        while not (pids.exists() and len(pids.read_text().split()) == 2):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    left = list(map(int, pids.read_text().split()))
    wait_for(lambda: not any(map(psutil.pid_exists, left)), "nothing left", 10)


def test_long_output_and_no_output() -> None:
    script = "head -c 3000000 /dev/zero | tr '\\0' x; head -c 2000000 /dev/zero >&2"
    result = asyncio.run(run(["bash", "-c", script]))
    assert (len(result.output), len(result.errors)) == (3_000_000, 2_000_000)
    assert asyncio.run(run(["true"])).output == ""


def test_programs_that_fail_or_take_too_long(tmp_path: Path, hasty: None) -> None:
    with pytest.raises(CommandFailed, match="cannot be started"):
        asyncio.run(run([str(tmp_path / "missing")]))
    with pytest.raises(CommandFailed, match="ended with code 4: no"):
        asyncio.run(call(["sh", "-c", "echo no >&2; exit 4"]))
    pids = tmp_path / "pids"
    script = f"sleep 1000 & echo $! $$ >{pids}; wait"
    with pytest.raises(CommandFailed, match="took longer than 1 s") as raised:
        asyncio.run(run(["sh", "-c", script], 1))
    assert raised.value.unfinished
    left = list(map(int, pids.read_text().split()))
    wait_for(lambda: not any(map(psutil.pid_exists, left)), "nothing left", 10)


def test_nothing_stays_open() -> None:
    """Descriptors are few, and a wrapper may run for months."""

    async def often() -> tuple[int, int]:
        await run(["true"])
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(10):
            await run(["true"])
        with pytest.raises(CommandFailed):
            await run(["/missing"])
        await asyncio.sleep(0)
        return before, len(os.listdir("/proc/self/fd"))

    before, after = asyncio.run(often())
    assert after <= before


def test_a_lack_of_descriptors_is_a_failure_of_the_command() -> None:
    """However many there are; without pipes nothing was started."""

    async def attempt(free: int) -> str | CommandFailed:
        with descriptors(free):
            try:
                return (await run(["echo", "7"])).output
            except CommandFailed as error:
                return error

    outcomes = [asyncio.run(attempt(free)) for free in range(12)]
    assert all(isinstance(outcome, NotStarted) for outcome in outcomes[:4])
    assert outcomes[-1] == "7\n"
    failures = [each for each in outcomes if isinstance(each, CommandFailed)]
    assert all("Too many open files" in str(failure) for failure in failures)
    assert failures[-1].unfinished  # it may be the descriptor to wait for it


def test_an_answer_counts_if_nobody_can_look_for_what_was_left(
    tmp_path: Path, hasty: None
) -> None:
    began, end = tmp_path / "began", tmp_path / "end"
    script = (
        f"mkdir {began}; while ! [ -d {end} ]; do sleep 0.05; done; sleep 5 & echo 7"
    )

    async def answer() -> str:
        task = asyncio.create_task(run(["sh", "-c", script]))
        while not began.exists():
            await asyncio.sleep(0.01)
        with descriptors(0):
            end.mkdir()
            return (await task).output

    assert asyncio.run(answer()) == "7\n"


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="waits without a thread")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_command_that_nobody_can_wait_for_may_have_been_started() -> None:
    """Python starts it, and then a thread that waits for it."""

    async def attempt() -> None:
        with (
            no_threads(),
            pytest.raises(CommandFailed, match="start new thread") as raised,
        ):
            await run(["true"])
        assert raised.value.unfinished

    asyncio.run(attempt())

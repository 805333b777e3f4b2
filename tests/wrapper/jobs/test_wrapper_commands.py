"""Programs that are run: what they said, when they have ended, and what they leave."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import psutil
import pytest
from helpers.wrapper_process import wait_for

from seamless_dask.wrapper.jobs import commands
from seamless_dask.wrapper.jobs.commands import CommandFailed, call, run

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

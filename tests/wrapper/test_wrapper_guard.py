"""The guard ends when it should: with its wrapper, or when it is asked to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from helpers.wrapper_process import running, wait_for

from seamless_dask.wrapper.events import News
from seamless_dask.wrapper.guard import Guard

pytestmark = pytest.mark.cluster

#: Stands in for the wrapper: it starts its guard, perhaps a process that inherits the
#: pipe to it, and waits.
WRAPPER = """
import os, signal, sys, time
from pathlib import Path
from seamless_dask.wrapper.events import News
from seamless_dask.wrapper.guard import Guard

file, system, forks, at_once = sys.argv[1:]
guard = Guard(Path(file), system)
if at_once:
    os.kill(guard.pid, signal.SIGTERM)
if system:
    guard.watch(News(("1",), "", job_name="dask-worker-x"))
child = 0
if forks:
    child = os.fork()
    if not child:
        time.sleep(600)
print(guard.pid, child, flush=True)
sys.stdin.readline()
guard.dismiss(20)
print(guard._process.returncode, flush=True)
"""


@dataclass
class Guarded:
    """A wrapper and its guard."""

    wrapper: subprocess.Popen[str]
    guard: psutil.Process
    log: Path

    def asked(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal to the guard."""
        self.guard.send_signal(number)

    def said(self, text: str) -> None:
        """Wait for a text in the log of the guard."""
        wait_for(lambda: text in self.log.read_text(), text)

    def ended(self) -> None:
        """Wait for the end of the guard."""
        wait_for(lambda: not running({self.guard}), "the end of the guard", 30)
        assert "Traceback" not in self.log.read_text()


@contextlib.contextmanager
def guarded(
    directory: Path, system: str = "", forks: bool = False, at_once: bool = False
) -> Iterator[Guarded]:
    """Start a wrapper and its guard; end what is left of them."""
    file, log = directory / "status.json", directory / "log"
    commands = directory / "commands"  # no batch system can be asked
    commands.mkdir()
    with log.open("w") as stream:
        wrapper = subprocess.Popen(
            [sys.executable, "-c", WRAPPER, str(file), system]
            + ["1" if forks else "", "1" if at_once else ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
            env={**os.environ, "PATH": str(commands)},
        )
    fields = {"status": "running", "pid": wrapper.pid}
    file.write_text(json.dumps(fields))
    assert wrapper.stdout is not None
    guard, child = map(int, wrapper.stdout.readline().split())
    processes = {psutil.Process(guard)}
    if child:
        processes.add(psutil.Process(child))
    try:
        yield Guarded(wrapper, psutil.Process(guard), log)
    finally:
        wrapper.kill()
        for process in running(processes):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        wrapper.communicate(timeout=30)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_asked_while_the_wrapper_runs(tmp_path: Path, number: signal.Signals) -> None:
    """The first signal may have been sent to both; the second is for the guard."""
    with guarded(tmp_path) as both:
        both.asked(number)
        both.said(f"Asked to end by {number.name}")
        assert running({both.guard})
        both.asked(number)
        both.ended()


@pytest.mark.parametrize("system", ["", "slurm"])
def test_asked_before_it_has_started(tmp_path: Path, system: str) -> None:
    """It is not killed before it can note the signal, and can be dismissed."""
    with guarded(tmp_path, system, at_once=True) as both:
        both.said("Asked to end by SIGTERM")
        output, _ = both.wrapper.communicate("\n", timeout=60)
        assert output.strip() == "0"
        both.ended()


@pytest.mark.parametrize("asked", [False, True])
def test_a_pipe_that_another_process_has_inherited(tmp_path: Path, asked: bool) -> None:
    """The guard notices that the wrapper is gone although the pipe is not broken."""
    with guarded(tmp_path, forks=True) as both:
        both.wrapper.kill()
        both.wrapper.wait()
        if asked:
            both.asked()
        both.ended()
    fields = json.loads((tmp_path / "status.json").read_text())
    assert fields["status"] == "failed"


def test_asked_while_it_cancels_jobs(tmp_path: Path) -> None:
    """It does not try for ten minutes more."""
    with guarded(tmp_path, "slurm") as both:
        both.wrapper.kill()
        both.said("cannot be started")
        both.asked()
        both.ended()
        assert "the jobs 1 may be left in the queue" in both.log.read_text()


def test_a_line_that_was_cut_off(tmp_path: Path) -> None:
    """The wrapper was killed while it told the guard its jobs: the last list counts."""
    done = subprocess.run(
        [sys.executable, "-m", "seamless_dask.wrapper.guard", "--mark", ""]
        + ["--status-file", str(tmp_path / "status.json"), "--batch-system", "slurm"]
        + ["--wrapper", str(os.getpid()), "0"],
        input='{"job_name": ""}\n{"job_name": "dask-wor',
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_modules_of_the_users_folder(tmp_path: Path) -> None:
    """The guard imports what the wrapper has imported, not what the folder has."""
    folder, other = tmp_path / "folder", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    (folder / "queue.py").write_text("raise ImportError('not the one of Python')\n")
    (other / "wrapper.py").write_text(
        "from pathlib import Path\n"
        "from seamless_dask.wrapper.guard import Guard\n"
        "guard = Guard(Path('status.json'))\n"
        "guard.dismiss(60)\n"
        "print(guard._process.returncode)\n"
    )
    done = subprocess.run(
        [sys.executable, str(other / "wrapper.py")],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_a_guard_that_does_not_read(tmp_path: Path) -> None:
    """The wrapper does not wait for it, however long the list of jobs is."""
    guard = Guard(tmp_path / "status.json", "slurm")
    os.kill(guard.pid, signal.SIGSTOP)
    guard.watch(News(tuple(map(str, range(100_000))), "", job_name="dask-worker-x"))
    guard.dismiss(0.1)
    assert not guard.runs

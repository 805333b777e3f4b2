"""Jobs that share a process: their output, and bash commands that run side by side."""

from __future__ import annotations

import io
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from seamless_dask.job_isolation import (
    OWNER_ENV,
    JobStream,
    _BashSubprocess,
    _SysOfJobs,
)


def test_each_job_writes_to_its_own_stream() -> None:
    """Also while another ends, as seamless-transformer replaces and restores them."""
    process = io.StringIO()
    stdout = JobStream(process)
    system: Any = _SysOfJobs(stdout, JobStream(io.StringIO()))
    together = threading.Barrier(2, timeout=30)
    written: dict[str, str] = {}

    def job(name: str, first_to_end: bool) -> None:
        previous, mine = system.stdout, io.StringIO()
        system.stdout = mine
        print(f"begin {name}", file=stdout)
        together.wait()
        if first_to_end:
            system.stdout = previous
            written[name] = mine.getvalue()
            mine.close()
        together.wait()
        if not first_to_end:
            print(f"end {name}", file=stdout)
            system.stdout = previous
            written[name] = mine.getvalue()
        print(f"after {name}", file=stdout)

    jobs = [threading.Thread(target=job, args=("a", True))]
    jobs.append(threading.Thread(target=job, args=("b", False)))
    for started in jobs:
        started.start()
    for started in jobs:
        started.join()
    assert written == {"a": "begin a\n", "b": "begin b\nend b\n"}
    assert sorted(process.getvalue().splitlines()) == ["after a", "after b"]


@pytest.fixture
def bash() -> Any:
    """As in a Seamless process: with the lock, in the directory of the process."""
    return _BashSubprocess(threading.Lock(), lambda: "base-0")


def run(bash: Any, directory: Path, command: str) -> Any:
    """What execute_bash does around a command."""
    with bash._lock:
        previous = os.getcwd()
        os.chdir(directory)
        try:
            ended = bash.Popen(
                command,
                shell=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                executable="/bin/bash",
                env=dict(os.environ),
                preexec_fn=os.setsid,
            )
            assert os.getcwd() == str(directory)
        finally:
            os.chdir(previous)
    return ended


def test_bash_commands_run_side_by_side(bash: Any, tmp_path: Path) -> None:
    """Each waits for the other, in a directory of its own."""
    before = os.getcwd()
    ended: dict[str, Any] = {}

    def job(name: str, other: str) -> None:
        (tmp_path / name).mkdir()
        ended[name] = run(
            bash,
            tmp_path / name,
            f"touch here; while [ ! -e ../{other}/here ]; do :; done; pwd",
        )

    jobs = [
        threading.Thread(target=job, args=pair, daemon=True)
        for pair in (("a", "b"), ("b", "a"))
    ]
    for started in jobs:
        started.start()
    for started in jobs:
        started.join(30)
        assert not started.is_alive(), "they wait for each other for ever"
    for name in "ab":
        assert ended[name].wait() == 0
        assert ended[name].stdout.read() == f"{tmp_path / name}\n".encode()
    assert os.getcwd() == before


def test_bash_command_may_fill_its_standard_error(bash: Any, tmp_path: Path) -> None:
    """More than a pipe holds; nobody reads it before the command has ended."""
    ended = run(bash, tmp_path, "head -c 1000000 /dev/zero >&2; exit 3")
    assert ended.wait() == 3
    assert len(ended.stderr.read()) == 1_000_000


def test_bash_command_knows_its_transformation(bash: Any, tmp_path: Path) -> None:
    """A process that the command starts can say for whom it works."""
    assert run(bash, tmp_path, f"echo ${OWNER_ENV}").stdout.read() == b"base-0\n"

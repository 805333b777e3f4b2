"""Bash commands of jobs that share a process run side by side."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from seamless_dask.child.bash_commands import _BashSubprocess
from seamless_dask.child.job_identity import belong_to, current_job
from seamless_dask.child.turn_keeper import TurnKeeper
from seamless_dask.child.turns import JobTurn
from seamless_dask.cluster.environment import OWNER_ENV


class WorkingDirectory:
    """The only thing that is global in these tests."""

    def __init__(self) -> None:
        self.baseline = os.getcwd()

    def save(self) -> str:
        return os.getcwd()

    def restore(self, saved: str) -> None:
        os.chdir(saved)

    def reset(self) -> list[str]:
        os.chdir(self.baseline)
        return []

    def is_held(self) -> bool:
        return False


@pytest.fixture
def keeper() -> TurnKeeper:
    """Lets one job at a time execute."""
    return TurnKeeper(WorkingDirectory(), lambda job, waited: None, lambda job: None)


@pytest.fixture
def bash(keeper: TurnKeeper) -> Any:
    """As in a Seamless process."""
    return _BashSubprocess(
        threading.Lock(), lambda: "base-0", lambda: keeper.waiting(current_job())
    )


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


def test_bash_commands_run_side_by_side(
    bash: Any, keeper: TurnKeeper, tmp_path: Path
) -> None:
    """Each waits for the other, in a directory of its own."""
    before = os.getcwd()
    ended: dict[str, Any] = {}

    def job(name: str, other: str) -> None:
        (tmp_path / name).mkdir()
        turn = JobTurn(name)
        belong_to(turn)
        while not keeper.begin(turn):
            """The other one has not come to its command yet."""
        ended[name] = run(
            bash,
            tmp_path / name,
            f"touch here; while [ ! -e ../{other}/here ]; do :; done; pwd",
        )
        keeper.end(turn, [])

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

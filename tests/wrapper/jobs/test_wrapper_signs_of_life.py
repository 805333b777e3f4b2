"""What makes a prologue show that it makes progress never makes it fail."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest
from helpers.lacking import no_threads

from seamless_dask.wrapper.jobs.signs_of_life import SUFFIX, Signs, around

#: A prologue that tells the result of commands that fail.
PROLOGUE = ['false || echo "$?"', '(exit 7) || echo "$?"', "set +e", "(exit 5)"]
PROLOGUE += ['echo "$?"', "set -e"]
IDS = {
    "slurm": "SLURM_JOB_ID",
    "sge": "JOB_ID",
    "oar": "OAR_JOB_ID",
    "pbs": "PBS_JOBID",
    "moab": "PBS_JOBID",
    "lsf": "LSB_JOBID",
}


@pytest.mark.parametrize("system", IDS)
@pytest.mark.parametrize(
    "options", ["set -e", "set -eC", "set -e -o posix", "set -euC -o posix"]
)
@pytest.mark.parametrize("case", ["right", "there", "missing", "no-id"])
def test_a_prologue_runs_as_it_is(
    system: str, options: str, case: str, tmp_path: Path
) -> None:
    """Also if the file cannot be written, or is there already."""
    directory = tmp_path / "it's here"
    file = directory / f"job-12{SUFFIX}"
    if case != "missing":
        directory.mkdir()
    if case == "there":
        file.touch()
    lines = [*around([options, *PROLOGUE], system, directory), "echo end"]
    environment = {"PATH": os.environ["PATH"]}
    if case != "no-id":
        environment[IDS[system]] = "12"
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["1", "7", "5", "end"]
    assert file.exists() == (case in ("right", "there"))


def test_no_sign_is_seen_without_a_thread(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Later there is one; the reason is told once."""
    signs = Signs(tmp_path)
    file = tmp_path / "job-12.log"

    async def look(now: float) -> list[str]:
        file.write_text(str(now))
        return await signs.look(["12"], now)

    async def looks() -> None:
        with no_threads():
            assert await look(100.0) == await look(200.0) == []
        assert len(caplog.messages) == 1 and "start new thread" in caplog.text
        assert await look(300.0) == []
        assert await look(4000.0) == ["12"]

    asyncio.run(looks())

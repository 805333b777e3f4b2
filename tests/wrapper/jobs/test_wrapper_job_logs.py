"""The directories for the output of batch jobs."""

from __future__ import annotations

import shlex
import stat
from pathlib import Path

import dask
import pytest
from helpers.written import SYSTEMS, script

from seamless_dask.wrapper.jobs import logs


def test_directory_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the home directory, by the name of the status file, for our eyes only."""
    monkeypatch.setenv("HOME", str(tmp_path))
    directory = logs.run_directory("daskserver-x")
    assert directory.parent == tmp_path / ".seamless-dask" / "logs" / "daskserver-x"
    assert logs.make(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_directory_that_cannot_be_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """That is no reason not to start."""
    (tmp_path / "file").touch()
    assert not logs.make(tmp_path / "file" / "run")
    assert "No directory for the output of jobs" in caplog.text


def test_clean_up(tmp_path: Path) -> None:
    """Empty files go, and runs beyond the latest ones."""
    runs = [tmp_path / f"20260101-00000{number}-1" for number in range(8)]
    for run in runs:
        run.mkdir()
        (run / "job-1.log").write_text("said something")
        (run / "job-2.log").touch()
    logs.prune(runs[-1], success=False)
    assert sorted(tmp_path.iterdir()) == runs[-logs.KEPT_RUNS :]
    assert [path.name for path in runs[-1].iterdir()] == ["job-1.log"]
    # a run whose jobs said nothing leaves nothing
    (runs[-1] / "job-1.log").write_text("")
    logs.prune(runs[-1], success=False)
    assert not runs[-1].exists()
    logs.prune(runs[-1], success=False)  # is gone already


def test_after_a_success_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "job-1.log").write_text("said something")
    logs.prune(tmp_path / "run", success=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("name", ["a directory", "it's", 'the "best"'])
def test_a_configured_directory_with_a_blank_is_quoted(
    system: str, name: str, tmp_path: Path
) -> None:
    """On each batch system, and what else is left out stays left out."""
    directory = tmp_path / name
    section = f"jobqueue.{system}"
    config = {
        f"{section}.log-directory": str(directory),
        f"{section}.job-directives-skip": ["walltime", "h_rt", "-t ", "-W "],
    }
    with dask.config.set(config):
        lines = script(system, {})
    head = [line for line in lines if line.startswith("#")]
    found = [line for line in head if tmp_path.name in line]
    assert found
    for line in found:
        assert shlex.quote(str(directory)) in line
    assert not [line for line in head if "01:00:00" in line]

"""The command without effect: job scripts, worker options, the schema."""

from __future__ import annotations

import copy
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest

from seamless_dask.wrapper.dry_run import dry_run
from seamless_dask.wrapper.exit_codes import ParametersError, StatusFileUnusable

pytestmark = pytest.mark.slow

SLURM = "dask_jobqueue::SLURMCluster"
BATCH: dict[str, Any] = {"cores": 4, "memory": "8GiB", "walltime": "01:00:00"}


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """Puts back what importing dask_jobqueue and a dry run change in this process."""
    handler = signal.getsignal(signal.SIGINT)
    import dask_jobqueue  # noqa: F401 - it adds defaults, which shall stay

    config = copy.deepcopy(dask.config.config)
    yield
    signal.signal(signal.SIGINT, handler)
    dask.config.config.clear()
    dask.config.config.update(config)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the wrapper's command."""
    return subprocess.run(
        [sys.executable, "-m", "seamless_dask.wrapper", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


def written(directory: Path, content: Any) -> Path:
    """A file with that content."""
    path = directory / "file.json"
    path.write_text(json.dumps(content))
    return path


def test_status_file_stays_as_it_is(tmp_path: Path) -> None:
    """The script of a status file, as a launcher writes it, is printed; that is all."""
    path = written(tmp_path, {"status": "starting", "parameters": {**BATCH, "odd": 1}})
    before = path.stat().st_mtime_ns, path.read_text()
    ended = command(SLURM, "--dry-run", "--status-file", str(path))
    assert ended.returncode == 0, ended.stderr
    assert "Parameter odd is not known" in ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "#SBATCH --cpus-per-task=12" in lines
    assert lines[-1] == "# Submitted with: sbatch SCRIPT"
    (output,) = [line for line in lines if line.startswith("#SBATCH --output=")]
    assert not Path(output.partition("=")[2]).parent.exists()
    assert (path.stat().st_mtime_ns, path.read_text()) == before
    assert list(tmp_path.iterdir()) == [path]


def test_all_problems_and_their_exit_code(tmp_path: Path) -> None:
    """Wrong parameters end it as they end a start."""
    path = written(tmp_path, {"cores": 0, "walltime": "soon"})
    ended = command(SLURM, "--dry-run", "--parameters", str(path))
    assert ended.returncode == 3
    assert "- cores = 0" in ended.stderr and "- walltime = 'soon'" in ended.stderr
    assert not ended.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--dry-run"],
        ["--parameters", "x", "--status-file", "y", "--port-range", "2", "3"],
    ],
)
def test_usage(arguments: list[str]) -> None:
    """What a start and a dry run need differs."""
    assert command(SLURM, *arguments).returncode == 2


def test_schema_is_printed() -> None:
    """Without anything else on the command line."""
    ended = command("--print-schema")
    assert ended.returncode == 0, ended.stderr
    schema = json.loads(ended.stdout)
    assert schema["properties"]["walltime"]["unit"] == "seconds"


def test_parameters_alone_or_in_a_status_file(tmp_path: Path) -> None:
    """Both give the same; a status file without parameters is an error."""
    alone = dry_run(SLURM, written(tmp_path, BATCH), "tcp://1.2.3.4:5")
    assert "tcp://1.2.3.4:5" in alone
    status = {"status": "running", "parameters": BATCH}
    inside = dry_run(SLURM, written(tmp_path, status), "tcp://1.2.3.4:5")
    assert _without_output(inside) == _without_output(alone)
    for wrong in ({"status": "starting"}, [], {"parameters": 1}):
        with pytest.raises(StatusFileUnusable):
            dry_run(SLURM, written(tmp_path, wrong), "tcp://1.2.3.4:5")


def _without_output(script: str) -> list[str]:
    return [line for line in script.splitlines() if "--output" not in line]


def test_commands_of_other_systems(tmp_path: Path) -> None:
    """OAR takes the head of the script as options, LSF the script as input."""
    raw = {**BATCH, "memory_per_core_property_name": "not_applicable"}
    path = written(tmp_path, raw)
    last = dry_run("dask_jobqueue::OARCluster", path, "tcp://x:1").splitlines()[-1]
    assert last.startswith(
        "# Submitted with: oarsub -n dask-worker -l /nodes=1/core=12,"
    )
    last = dry_run("dask_jobqueue::LSFCluster", path, "tcp://x:1").splitlines()[-1]
    assert last == "# Submitted with: bsub < SCRIPT"


def test_local_cluster(tmp_path: Path) -> None:
    """Options of the workers; the directory for their files is not made."""
    directory = tmp_path / "not" / "there"
    path = written(tmp_path, {"cores": 2, "tmpdir": str(directory), "maximum_jobs": 3})
    text = dry_run("distributed::LocalCluster", path, "tcp://x:1")
    said = json.loads(text)
    assert said["workers"] == [0, 3]
    assert said["options"]["threads_per_worker"] == 6
    assert not directory.parent.exists()
    path = written(tmp_path, {"tmpdir": str(path / "below a file")})
    with pytest.raises(ParametersError):
        dry_run("distributed::LocalCluster", path, "tcp://x:1")

"""--check asks real batch systems, and submits nothing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.batch_stack import _as, reachable
from helpers.batch_systems import BatchSystem

pytestmark = pytest.mark.cluster

QUEUE: dict[str, Any] = {
    "conda": "",
    "cores": 1,
    "job_cores": 1,
    "memory": "200MB",
    "walltime": "01:00:00",
    "maximum_jobs": 2,
}


def check(system: BatchSystem, home: Path, **queues: Any) -> dict[str, tuple[int, str]]:
    """The exit code and the report for each of these queues."""
    (home / ".seamless").mkdir()
    fields = {"network_interface": "127.0.0.1"}
    cluster = {
        "type": system.name,
        "frontends": [
            {
                "hostname": "localhost",
                "hashserver": {"bufferdir": str(home / "buffers"), **fields},
                "database": {"database_dir": str(home / "database"), **fields},
                "daskserver": {"port_start": 20000, "port_end": 29999, **fields},
            }
        ],
        "default_queue": next(iter(queues)),
        "queues": {name: {**QUEUE, **queue} for name, queue in queues.items()},
    }
    if system.name == "oar":
        cluster["memory_per_core_property_name"] = "memcore"
    text = yaml.safe_dump({"local_cluster": "big", "big": cluster})
    (home / ".seamless" / "clusters.yaml").write_text(text)
    if system.user:
        shutil.chown(home, system.user)
    found = {}
    for queue in queues:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "seamless_dask.wrapper"),
                *("--check", "--cluster", "big", "--queue", queue),
            ],
            env={**os.environ, **system.environment, "HOME": str(home)},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=120,
            **(_as(system.user) if system.user else {}),
        )
        assert not done.stderr
        found[queue] = done.returncode, done.stdout
    return found


@contextlib.contextmanager
def drained(slurm: BatchSystem) -> Iterator[None]:
    slurm.run("scontrol", "update", "NodeName=ALL", "State=DRAIN", "Reason=test")
    try:
        yield
    finally:
        slurm.run("scontrol", "update", "NodeName=ALL", "State=RESUME")


def test_slurm(slurm: BatchSystem, tmp_path: Path) -> None:
    """What SLURM says of the partition and the script."""
    (name,) = set(slurm.run("sinfo", "-h", "-o", "%R").split())
    before = slurm.run("squeue", "--states=all", "-h", "-o", "%i")
    found = check(
        slurm,
        tmp_path,
        good={"partition": name},
        default={},
        typo={"partition": f"{name}x"},
        large={"memory": "900TB"},
        wrong={"job_extra_directives": ["--constraint=no-such-feature"]},
    )
    code, report = found["good"]
    assert code == 0, report
    assert f"sinfo: partition {name} (up, " in report
    assert "sbatch --test-only: sbatch: Job " in report
    code, report = found["default"]
    assert code == 0 and f"sinfo: partition {name} (up, " in report, report
    code, report = found["typo"]
    assert code == 6, report
    assert f"- partition = '{name}x': SLURM has no {name}x (did you mean" in report
    assert f"allowed is one of {name}" in report
    for queue in ("large", "wrong"):
        code, report = found[queue]
        assert code == 6, report
        assert "- sbatch --test-only refuses the job script: " in report
    assert slurm.run("squeue", "--states=all", "-h", "-o", "%i") == before


def test_slurm_without_a_node_at_the_moment(slurm: BatchSystem, tmp_path: Path) -> None:
    """sbatch would accept the job: it waits. So that is no obstacle."""
    with drained(slurm):
        ((code, report),) = check(slurm, tmp_path, short={}).values()
    assert code == 0, report
    assert "refuses the job script now, which may pass" in report


def test_oar(oar: BatchSystem, tmp_path: Path) -> None:
    """OAR has no test of a job, but it counts its nodes."""
    with reachable(oar.user):
        top = Path(tempfile.gettempdir())
        for folder in (tmp_path, *tmp_path.parents):
            if top in folder.parents:
                folder.chmod(0o755)
        ((code, report),) = check(oar, tmp_path, short={}).values()
    assert code == 0, report
    assert "oarnodes: 2 nodes, their resources: " in report
    assert " Alive" in report


def test_grid_engine(grid_engine: BatchSystem, tmp_path: Path) -> None:
    """qsub verifies a script without submitting it; seamless-config does not know it."""
    for number, (directive, said) in enumerate(
        [
            ("-pe smp", "qsub -w v: verification: found"),
            ("-l no_such_resource=1", "qsub -w v refuses the job script"),
        ]
    ):
        file = tmp_path / f"queue{number}.json"
        fields = {**QUEUE, "job_extra_directives": [directive]}
        del fields["conda"]
        file.write_text(json.dumps(fields))
        done = subprocess.run(
            [
                *(sys.executable, "-m", "seamless_dask.wrapper"),
                *("dask_jobqueue::SGECluster", "--check", "--parameters", str(file)),
            ],
            env={**os.environ, **grid_engine.environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert said in done.stdout, done.stdout + done.stderr

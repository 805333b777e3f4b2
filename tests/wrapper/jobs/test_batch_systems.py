"""The whole stack on real batch systems: nested work, growing, shrinking, ending."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from helpers.batch_stack import BatchStack, reachable
from helpers.batch_systems import BatchSystem
from helpers.stack import WorkloadRun
from helpers.wrapper_process import wait_for

pytestmark = pytest.mark.cluster


def jobs(system: BatchSystem) -> dict[str, str]:
    """{job id: node} of all jobs in the queue; the node is empty for waiting ones."""
    if system.name == "slurm":
        lines = system.run("squeue", "-h", "-o", "%i %N").splitlines()
        return {job: "".join(node) for job, *node in map(str.split, lines)}
    if system.name == "sge":
        text = system.run("qstat", "-xml")
        found = re.findall(
            r"<JB_job_number>(\d+)<.*?<queue_name>(?:[^<]*@)?([^<]*)<", text, re.DOTALL
        )
        return dict(found)
    text = system.run("oarstat", "-f")
    pattern = r"Job_Id: (\d+)\n.*?assigned_hostnames = (\S*)"
    return dict(re.findall(pattern, text, re.DOTALL))


def busy_nodes(stack: BatchStack) -> set[str]:
    """The nodes of SLURM whose workers have run something."""
    if stack.wrapper_status() != "running":
        return set()
    with Client(stack.scheduler_address()) as client:
        # no function of this file: workers cannot import it
        counts = client.run(
            lambda dask_worker: dask_worker.state.executed_count, on_error="ignore"
        )
        workers = client.scheduler_info(n_workers=-1)["workers"]
    nodes = jobs(stack.system)
    names = [workers[key]["name"] for key, count in counts.items() if count]
    return {nodes[name.removeprefix("worker-")] for name in names}


def check_stored(stack: BatchStack, run: WorkloadRun) -> None:
    """Every transformation of the tree has a row, and its buffer is kept."""
    assert run.outcome["values_ok"], run.outcome
    assert len(run.new_results) == run.outcome["distinct"]
    assert all(map(stack.has_buffer, run.new_results.values()))


def until_jobs(system: BatchSystem, count: int) -> None:
    """Wait until so many jobs are left."""
    wait_for(lambda: len(jobs(system)) == count, f"{count} jobs", 60)


def check_end(stack: BatchStack) -> None:
    """Ending the services ends the jobs, and what they printed is kept."""
    assert jobs(stack.system)
    stack.stop()
    until_jobs(stack.system, 0)
    assert stack.wrapper_status() is None
    printed = [path.read_text() for path in stack.job_logs.iterdir()]
    assert any("Start worker at" in text for text in printed), printed


def test_slurm_nested_work_on_several_nodes(slurm: BatchSystem) -> None:
    """One job per node; all rows are stored, and nothing is computed twice."""
    # one that comes late still finds work, and does not go before
    queue = {"memory": "40GB", "maximum_jobs": 4, "target_duration": "1s"}
    with BatchStack(slurm, idle_time="1m", **queue) as stack:
        begin = time.monotonic()
        driver = stack.start_workload("sleepers", n=40)
        wait_for(lambda: len(busy_nodes(stack)) >= 3, "work on three nodes")
        outcome = stack.finish(driver, begin=begin, timeout=120).value
        assert outcome["values_ok"]
        assert len(stack.stored().results) == outcome["distinct"]
        again = stack.run_workload("sleepers", n=40)
        assert again.outcome["values_ok"] and not again.executed
        check_end(stack)


#: for the wrapper itself, where seamless-config cannot write them
PARAMETERS: dict[str, Any] = {
    "cores": 2,
    "memory": "2GB",
    "walltime": "00:10:00",
    "partition": "all.q",
    "maximum_jobs": 2,
    "interactive": True,
    "unknown-task-duration": "1m",
    "target-duration": "5s",
    "job_extra_directives": "-pe smp",
}


def test_grid_engine(grid_engine: BatchSystem) -> None:
    """Jobs ask for slots, find Python, and do nested work; they go when it is done."""
    with BatchStack(grid_engine) as stack:
        stack.start_wrapper({**PARAMETERS, "extra_dask_config": stack.dask_config})
        check_stored(stack, stack.run_workload("tree", n=12))
        assert "smp 6" in grid_engine.run("qstat", "-r")
        until_jobs(grid_engine, 1)
        check_end(stack)


def test_pure_dask_on_grid_engine(grid_engine: BatchSystem) -> None:
    """Plain workers, several in a job, without anything of Seamless."""
    with BatchStack(grid_engine) as stack:
        pure = {"pure_dask": True, "processes": 2, "interactive": False}
        config = {"extra_dask_config": stack.dask_config}
        stack.start_wrapper({**PARAMETERS, **pure, **config})
        with Client(stack.scheduler_address()) as client:
            assert client.submit(pow, 2, 10).result(60) == 1024
            client.wait_for_workers(2, timeout=60)
            environments = client.run(lambda: dict(os.environ))
        assert len({env["JOB_ID"] for env in environments.values()}) == 1
        names = set().union(*environments.values())
        assert not [name for name in names if name.startswith("SEAMLESS_")]
        until_jobs(grid_engine, 0)  # nothing to do


def test_what_we_say_wins_over_request_files_on_grid_engine(
    grid_engine: BatchSystem, tmp_path: Path
) -> None:
    """What such a file of the user says in addition stays, as for all his jobs."""
    (tmp_path / ".sge_request").write_text("-N other -l h_rt=60 -p -7 -q no.such.queue")
    parameters = tmp_path / "parameters.json"
    parameters.write_text(json.dumps(PARAMETERS))
    script = tmp_path / "script.sh"
    script.write_text(
        subprocess.run(
            [sys.executable, "-m", "seamless_dask.wrapper", "dask_jobqueue::SGECluster"]
            + ["--dry-run", "--parameters", str(parameters)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
        ).stdout
    )
    done = subprocess.run(
        ["qsub", "-h", "-terse", str(script)],
        env={**os.environ, **grid_engine.environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    job_id = done.stdout.strip()
    try:
        text = grid_engine.run("qstat", "-j", job_id)
    finally:
        grid_engine.run("qdel", job_id)
    said = {
        name.strip(): value.strip()
        for name, _, value in (line.partition(":") for line in text.splitlines())
    }
    assert said["job_name"] == "dask-worker"
    assert said["hard resource_list"] == "h_rt=600"
    assert said["hard_queue_list"] == "all.q"
    assert said["priority"] == "-7"


def test_oar(oar: BatchSystem) -> None:
    """The same on OAR, as another user, on a node that was asked for."""
    queue = {"interactive": True, "job_extra_directives": ["-p", "host='oarnode2'"]}
    with reachable(oar.user), BatchStack(oar, **queue) as stack:
        check_stored(stack, stack.run_workload("tree", n=12))
        assert set(jobs(oar).values()) == {"oarnode2"}
        until_jobs(oar, 1)
        check_end(stack)

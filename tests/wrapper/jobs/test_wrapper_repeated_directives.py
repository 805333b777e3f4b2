"""Directives that say what a parameter says already are refused, others are not."""

from __future__ import annotations

from typing import Any

import dask
import pytest
from helpers.written import BATCH, problems, script
from hypothesis import given, settings
from hypothesis import strategies as st

RAW: dict[str, Any] = {
    **BATCH,
    "cores": 4,
    "memory_per_core_property_name": "x",
    "extra_dask_config": {"jobqueue.htcondor.disk": "1GB"},
}
WALLTIME = "walltime = '01:00:00'"
MEMORY = "memory = '4GB'"
CORES = "cores = 4 (12 CPU cores per job)"


@pytest.mark.parametrize(
    ("system", "directive", "known"),
    [
        ("slurm", "-t 10", WALLTIME),
        ("slurm", "-t10", WALLTIME),
        ("slurm", "-t=10", WALLTIME),
        ("slurm", "--time=00:10:00", WALLTIME),
        ("slurm", "#SBATCH --time 00:10:00", WALLTIME),
        ("slurm", "--gres=gpu:1 --time=10", WALLTIME),
        ("slurm", "--mem=8G", MEMORY),
        ("slurm", "--mem-per-cpu=1G", MEMORY),
        ("slurm", "--mem-per-gpu 1G", MEMORY),
        ("slurm", "-c 2", CORES),
        ("slurm", "--cpus-per-task=2", CORES),
        ("slurm", "--ntasks=8", CORES),
        ("slurm", "-n8", CORES),
        ("slurm", "-c 2 --mem=1G", f"{CORES} and {MEMORY}"),
        ("sge", "-l h_rt=600", WALLTIME),
        ("sge", "#$ -l gpu=1,h_rt=0:10:0", WALLTIME),
        ("sge", "-pe smp 4", CORES),
        ("sge", "-pe smp 4-8", CORES),
        ("oar", "-l walltime=0:10:0", WALLTIME),
        ("oar", "--resource=/nodes=2", CORES),
        ("oar", "-l /nodes=1/core=2,walltime=1", f"{CORES} and {WALLTIME}"),
        ("pbs", "-l walltime=0:10:0", WALLTIME),
        ("pbs", "-lwalltime=0:10:0", WALLTIME),
        ("pbs", "-l select=1:ncpus=2:mem=4gb", f"{CORES} and {MEMORY}"),
        ("moab", "#PBS -l nodes=1:ppn=4", CORES),
        ("lsf", "-W 0:10", WALLTIME),
        ("lsf", "-n 4", CORES),
        ("lsf", "-n4", CORES),
        ("lsf", "-M 4GB", MEMORY),
        ("htcondor", "request_cpus = 2", CORES),
        ("htcondor", "RequestMemory = 2GB", MEMORY),
    ],
)
def test_what_a_parameter_says_is_not_said_by_a_directive(
    system: str, directive: str, known: str
) -> None:
    """The error names the directive, the parameter and its value."""
    (problem,) = problems(system, {**RAW, "job_extra_directives": directive})
    assert problem.startswith(
        f"job_extra_directives = {directive!r}: says what {known} is for"
    )
    if "cores" in known:
        assert "job_cores says the CPU cores" in problem


@pytest.mark.parametrize(
    ("system", "directives"),
    [
        (
            "slurm",
            [
                *("--gres=gpu:1", "--exclusive", "--constraint=a", "--account=x"),
                *("-A x", "-p all", "--qos=low", "--time-min=5", "-n 1", "--ntasks=1"),
                *("--mem=0", "--mem-bind=local", "--nodelist=n1", "--comment='-t 5'"),
                *("--cpu-freq=high", "-N 1", "--tmp=5G", "--no-requeue", "-C a"),
            ],
        ),
        (
            "sge",
            ["-pe smp", "-pe smp 12", "-l h_vmem=2G", "-l gpu=1", "-q x", "-P x"]
            + ["-p -5", "-V", "-now n"],
        ),
        ("oar", ["-t besteffort", "-p", "host='n1'", "-q x", "--project x"]),
        (
            "pbs",
            ["-l place=excl", "-q x", "-A x", "-W group_list=x", "-V", "-l vmem=9gb"],
        ),
        ("lsf", ["-R 'rusage[mem=4000]'", "-We 5", "-q x", "-P x", "-notify done"]),
        ("htcondor", ["+Group = 1", "Requirements = Memory > 5"]),
    ],
)
def test_what_no_parameter_says_stays(system: str, directives: list[str]) -> None:
    assert not problems(system, {**RAW, "job_extra_directives": directives})


@pytest.mark.parametrize(
    ("system", "partition", "project"),
    [
        ("slurm", "-p all", "--account=x"),
        ("slurm", "--partition=all", "-A x"),
        ("sge", "-q all.q", "-P x"),
        ("oar", "-q all", "--project x"),
        ("pbs", "-q all", "-A x"),
        ("lsf", "-q all", "-P x"),
    ],
)
def test_partition_and_project_are_said_once(
    system: str, partition: str, project: str
) -> None:
    """By a parameter or by a directive."""
    raw = {**RAW, "job_extra_directives": [partition, project]}
    assert not problems(system, raw)
    first, second = problems(system, {**raw, "partition": "long", "project": "grant"})
    assert f"{partition!r}: says what partition = 'long' is for" in first
    assert f"{project!r}: says what project = 'grant' is for" in second


def test_all_at_once_and_in_the_configuration() -> None:
    key = "jobqueue.slurm.job-extra-directives"
    raw = {
        **BATCH,
        "job_cores": 8,
        "job_extra_directives": ["--time=5", "-c 2"],
        "extra_dask_config": {key: ["--mem=1G"]},
    }
    first, second, third = problems("slurm", raw)
    assert "'--time=5'" in first and WALLTIME in first
    assert "'-c 2'" in second and "job_cores = 8" in second
    assert third.startswith(f"Dask's configuration {key} = '--mem=1G'")


@pytest.mark.parametrize(
    "directive",
    ["-l gpu=1", "-l cluster=1", "-lgpu=1", "--resource=/gpu=1", "#OAR -l gpu=1", "-l"],
)
def test_oar_takes_one_request_only(directive: str) -> None:
    """With a second one, OAR may choose that which has no walltime."""
    raw = {**RAW, "job_extra_directives": ["-t besteffort", directive]}
    (problem,) = problems("oar", raw)
    assert problem.startswith(f"job_extra_directives = {directive!r}: is a second")
    assert "allowed is resource_spec" in problem
    skip = {"jobqueue.oar.job-directives-skip": ["#OAR -l"]}
    assert not problems("oar", {**raw, "extra_dask_config": skip})


@pytest.mark.parametrize(
    ("system", "directive"),
    [
        ("slurm", "-c 12"),
        ("slurm", "-c12"),
        ("slurm", "--cpus-per-task=12"),
        ("lsf", "-n 12"),
        ("slurm", "--wait-all-nodes=1"),
    ],
)
def test_what_is_no_contradiction_stays(system: str, directive: str) -> None:
    assert not problems(system, {**RAW, "job_extra_directives": directive})


def test_what_dask_jobqueue_leaves_out_may_be_said() -> None:
    """A site may take no --mem."""
    extra = {"jobqueue.slurm.job-directives-skip": ["--mem="]}
    raw = {**BATCH, "job_extra_directives": "--mem-per-cpu=2G"}
    assert problems("slurm", raw)
    assert not problems("slurm", {**raw, "extra_dask_config": extra})
    with dask.config.set(extra):
        lines = script("slurm", {"job_extra_directives": "--mem-per-cpu=2G"})
    assert "#SBATCH --mem-per-cpu=2G" in lines
    assert not [line for line in lines if "--mem=" in line]


NAMES = {
    **{"slurm": "#SBATCH -J ", "sge": "#$ -N ", "oar": "#OAR -n ", "pbs": "#PBS -N "},
    **{"moab": "#PBS -N ", "lsf": "#BSUB -J "},
}


@pytest.mark.parametrize("key", ["job-directives-skip", "header-skip"])
@pytest.mark.parametrize("system", NAMES)
def test_the_name_of_jobs_is_not_left_out(system: str, key: str) -> None:
    """By it jobs are found. It may be left out by Dask's own configuration as well."""
    line = NAMES[system]
    assert any(each.startswith(line) for each in script(system, {}))
    mark, option = line.split()
    full = f"jobqueue.{system}.{key}"
    for part in (option, mark, "#", line, line + "dask", f"{option} dask-worker"):
        left_out = {full: ["--mem=", part]}
        (problem,) = problems(system, {**RAW, "extra_dask_config": left_out})
        assert problem.startswith(
            f"Dask's configuration {full} = {part!r}: would leave"
        )
        assert f"{line}NAME" in problem and "allowed is" in problem
        with dask.config.set(left_out):
            assert problems(system, RAW) == [problem]
    for part in ("--mem=", "walltime", "-t ", "-W", "-e ", "-o "):
        assert not problems(system, {**RAW, "extra_dask_config": {full: [part]}})


@pytest.mark.parametrize("system", NAMES)
@settings(deadline=None)  # the first call loads modules
@given(part=st.text("dask-worker0123JNn #", min_size=1, max_size=4))
def test_what_is_left_out_and_happens_to_be_in_the_name(system: str, part: str) -> None:
    key = f"jobqueue.{system}.job-directives-skip"
    with dask.config.set({key: [part]}):
        if problems(system, RAW):
            return
        lines = script(system, {})
    assert len([each for each in lines if each.startswith(NAMES[system])]) == 1


def test_a_directive_takes_the_place_of_a_line_that_a_deprecated_key_leaves_out() -> (
    None
):
    raw = {**BATCH, "job_extra_directives": "--mem-per-cpu=2G"}
    left_out = {"jobqueue.slurm.header-skip": ["--mem="]}
    assert not problems("slurm", {**raw, "extra_dask_config": left_out})


@pytest.mark.parametrize(
    ("system", "request_"),
    [
        ("oar", "/nodes=1/core=2,walltime=1:00"),
        ("pbs", "select=1:ncpus=2,walltime=1:00"),
        ("sge", "gpu=1,h_rt=600"),
    ],
)
def test_the_request_for_resources_does_not_say_the_walltime(
    system: str, request_: str
) -> None:
    (problem,) = problems(system, {**RAW, "resource_spec": request_})
    assert problem.startswith(f"resource_spec = {request_!r}: says what {WALLTIME}")
    without = request_.rpartition(",")[0]
    assert not problems(system, {**RAW, "resource_spec": without})

"""Job scripts, without a batch system: what dask_jobqueue makes of our arguments."""

from __future__ import annotations

import re
import shlex
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from seamless_dask.wrapper.checks import check
from seamless_dask.wrapper.cluster_string import resolve
from seamless_dask.wrapper.jobs.arguments import job_arguments
from seamless_dask.wrapper.settings.parameters import read_parameters

BATCH = {"cores": 4, "memory": "8GiB", "walltime": "01:00:00"}
LONG = {"-J": "--job-name", "-n": "--ntasks", "-t": "--time", "-p": "--partition"}


@dataclass
class Script:
    """A job script, taken apart."""

    shebang: str
    #: Lines of the head, with their mark.
    directives: list[str]
    exports: dict[str, str]
    #: Other lines before the worker.
    prologue: list[str]
    #: Options of the worker; the last one of a name counts.
    options: dict[str, str]
    scheduler: str

    def slurm(self) -> dict[str, str]:
        """Directives of SLURM by their long names."""
        found = {}
        for line in self.directives:
            name, _, value = (
                line.removeprefix("#SBATCH ").replace("=", " ").partition(" ")
            )
            found[LONG.get(name, name)] = value
        return found


def make_job(system: str, raw: dict[str, Any], logs: Path | None = None) -> Any:
    """A job as the wrapper would submit it; a warning is an error."""
    cluster_class = resolve(f"dask_jobqueue::{system}")
    parameters, unknown = read_parameters(raw)
    assert not unknown
    check(parameters, cluster_class)
    arguments = job_arguments(parameters, cluster_class.batch_system, logs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return cluster_class.cls.job_cls("tcp://1.2.3.4:5", name="name", **arguments)


def script_of(system: str, raw: dict[str, Any], logs: Path | None = None) -> Script:
    """The script of a job, taken apart."""
    text = make_job(system, raw, logs).job_script()
    lines = [line for line in text.splitlines() if line]
    shebang, *lines = lines
    *lines, command = lines
    exports, prologue = {}, []
    for line in lines:
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            exports[name] = value
        elif not line.startswith("#"):
            prologue.append(line)
    words = shlex.split(command)
    assert words[1:3] == ["-m", "distributed.cli.dask_worker"]
    options: dict[str, str] = {}
    position = 4
    while position < len(words):
        if words[position] == "--nanny":
            options["--nanny"] = ""
            position += 1
        else:
            options[words[position]] = words[position + 1]
            position += 2
    directives = [line for line in lines if line.startswith("#")]
    return Script(shebang, directives, exports, prologue, options, words[3])


def test_slurm_pure_dask() -> None:
    """The first example of the specification, option by option."""
    script = script_of(
        "SLURMCluster",
        {
            "pure_dask": True,
            "cores": 24,
            "memory": "54000MB",
            "walltime": "01:00:00",
            "partition": "all",
            "maximum_jobs": 4,
        },
    )
    assert script.shebang == "#!/usr/bin/env bash"
    assert script.slurm() == {
        "--job-name": "dask-worker",
        "--ntasks": "1",
        "--cpus-per-task": "24",
        "--mem": "54000M",
        "--time": "01:00:00",
        "--partition": "all",
    }
    assert script.exports == {
        "DASK_DISTRIBUTED__WORKER__DAEMON": "False",
        "DASK_DISTRIBUTED__SCHEDULER__UNKNOWN_TASK_DURATION": "1m",
        "DASK_DISTRIBUTED__SCHEDULER__TARGET_DURATION": "10m",
        "PYTHON_CPU_COUNT": "$SLURM_JOB_CPUS_PER_NODE",
    }
    assert script.prologue == []
    assert script.options == {
        "--nthreads": "2",
        "--name": "worker-$SLURM_JOB_ID",
        # always written by dask_jobqueue
        "--memory-limit": "50.29GiB",
        "--nanny": "",
        "--death-timeout": "60",
    }
    assert script.scheduler == "tcp://1.2.3.4:5"


def test_slurm_seamless() -> None:
    """The second example of the specification, option by option."""
    script = script_of(
        "SLURMCluster",
        {
            "cores": 24,
            "memory": "54000MB",
            "walltime": "01:00:00",
            "partition": "all",
            "maximum_jobs": 10,
            "interactive": True,
            "tmpdir": "/tmp",
        },
    )
    assert script.slurm() == {
        "--job-name": "dask-worker",
        "--ntasks": "1",
        "--cpus-per-task": "72",
        "--mem": "54000M",
        "--time": "01:00:00",
        "--partition": "all",
    }
    assert script.exports == {
        "SEAMLESS_DASK_QUEUE_EXCLUSIVE": "0",
        "SEAMLESS_WORKER_TRANSFORMATION_THROTTLE": "3",
        "DASK_DISTRIBUTED__WORKER__DAEMON": "False",
        "DASK_DISTRIBUTED__SCHEDULER__UNKNOWN_TASK_DURATION": "1m",
        "DASK_DISTRIBUTED__SCHEDULER__TARGET_DURATION": "10m",
        "DASK_DISTRIBUTED__WORKER__LIFETIME__DURATION": "55m",
        "DASK_DISTRIBUTED__WORKER__LIFETIME__STAGGER": "4m",
        "PYTHON_CPU_COUNT": "$SLURM_JOB_CPUS_PER_NODE",
    }
    assert script.prologue == []
    assert script.options == {
        "--nthreads": "72",
        "--local-directory": "/tmp",
        "--name": "worker-$SLURM_JOB_ID",
        # always written by dask_jobqueue
        "--memory-limit": "50.29GiB",
        "--nanny": "",
        "--death-timeout": "60",
    }


def test_slurm_everything() -> None:
    """All other parameters that SLURM has a place for."""
    script = script_of(
        "SLURMCluster",
        {
            **BATCH,
            "job_cores": 4,
            "exclusive": True,
            "processes": 2,
            "worker_threads": 7,
            "project": "grant",
            "job_extra_directives": ["--nodelist=n1", "--exclusive"],
            "job_script_prologue": ["module load python", "ulimit -c 0"],
            "internal-port-range": "40000-40100",
            "dask-resources": {"GPU": "1"},
            "transformation_throttle": 2,
            "extra_dask_config": {"distributed": {"worker": {"daemon": False}}},
        },
    )
    directives = script.slurm()
    assert directives["--cpus-per-task"] == "4"
    assert directives["-A"] == "grant"
    assert directives["--nodelist"] == "n1"
    assert "--exclusive" in directives
    assert script.exports["SEAMLESS_DASK_QUEUE_EXCLUSIVE"] == "1"
    assert script.exports["SEAMLESS_WORKER_TRANSFORMATION_THROTTLE"] == "2"
    resources = script.exports["DASK_DISTRIBUTED__WORKER__RESOURCES"]
    assert shlex.split(resources) == ["{'S': 1.0, 'GPU': 1.0}"]
    assert script.exports["DASK_DISTRIBUTED__WORKER__PORT"] == "40000:40100"
    assert script.exports["DASK_DISTRIBUTED__NANNY__PORT"] == "40000:40100"
    assert script.prologue == ["module load python", "ulimit -c 0"]
    assert script.options["--nworkers"] == "2"
    assert script.options["--nthreads"] == "7"
    assert script.options["--worker-port"] == "40000:40100"
    assert script.options["--nanny-port"] == "40000:40100"


@pytest.mark.parametrize(
    ("written", "slurm", "lsf", "sge"),
    [
        ("01:30:00", "01:30:00", "01:30", "01:30:00"),
        ("2-12:00:00", "2-12:00:00", "60:00", "60:00:00"),
        ("90m", "01:30:00", "01:30", "01:30:00"),
    ],
)
def test_walltimes(written: str, slurm: str, lsf: str, sge: str) -> None:
    """Each batch system gets a walltime that it understands."""
    raw = {**BATCH, "walltime": written}
    assert f"#SBATCH -t {slurm}" in script_of("SLURMCluster", raw).directives
    assert f"#BSUB -W {lsf}" in script_of("LSFCluster", raw).directives
    assert f"#$ -l h_rt={sge}" in script_of("SGECluster", raw).directives


def test_oar_node_and_memory_are_one_condition() -> None:
    """OAR heeds only the last -p, and its quotes must reach the database."""
    job = make_job(
        "OARCluster",
        {
            **BATCH,
            "memory_per_core_property_name": "memcore",
            "job_extra_directives": ["-t besteffort", "-p", "host='n1'"],
            "partition": "long",
            "project": "grant",
        },
    )
    # 12 cores of 683 MiB; the arguments as dask_jobqueue hands them to oarsub
    header = [line.removeprefix("#OAR ") for line in job.job_header.splitlines()]
    assert shlex.split(" ".join(header)) == [
        *("-n", "dask-worker", "-q", "long", "--project", "grant"),
        *("-l", "/nodes=1/core=12,walltime=01:00:00", "-t", "besteffort"),
        *("-p", "host='n1' AND memcore>=683"),
    ]


@pytest.mark.parametrize("written", ["-p gpu='YES'", "-p \"gpu='YES'\""])
def test_oar_condition_in_one_directive(written: str) -> None:
    """A condition may also be written as one directive, quoted or not."""
    raw = {
        **BATCH,
        "memory_per_core_property_name": "not_applicable",
        "job_extra_directives": written,
    }
    script = script_of("OARCluster", raw)
    (line,) = [line for line in script.directives if line.startswith("#OAR -p")]
    assert shlex.split(line.removeprefix("#OAR ")) == ["-p", "gpu='YES'"]


def test_oar_whole_node() -> None:
    """A request for a node replaces the one for cores."""
    raw = {
        **BATCH,
        "exclusive": True,
        "resource_spec": "/nodes=1",
        "memory_per_core_property_name": "not_applicable",
    }
    assert (
        "#OAR -l /nodes=1,walltime=01:00:00" in script_of("OARCluster", raw).directives
    )


@pytest.mark.parametrize(
    "system", ["SLURMCluster", "OARCluster", "PBSCluster", "SGECluster", "LSFCluster"]
)
def test_pure_dask_has_nothing_of_seamless(system: str) -> None:
    """Neither in the environment nor on the command line."""
    raw = {**BATCH, "pure_dask": True, "memory_per_core_property_name": "memcore"}
    text = make_job(system, raw).job_script()
    # the path of Python may have the name of this project
    text = text.replace(str(Path(sys.executable).parent), "")
    assert not re.search("seamless", text, re.IGNORECASE)


@pytest.mark.parametrize("system", ["PBSCluster", "SGECluster", "LSFCluster"])
def test_other_batch_systems_keep_their_names(system: str) -> None:
    """Only SLURM has a name of ours; elsewhere dask_jobqueue knows its workers."""
    script = script_of(system, {**BATCH, "partition": "long", "project": "grant"})
    assert script.options["--name"] == "name"
    assert script.options["--nthreads"] == "12"
    assert script.exports["SEAMLESS_WORKER_TRANSFORMATION_THROTTLE"] == "3"
    assert any("long" in line for line in script.directives)
    assert any("grant" in line for line in script.directives)


def test_htcondor() -> None:
    """HTCondor has no script: everything is in the arguments of a shell."""
    import dask

    raw = {**BATCH, "job_extra_directives": "MaxRetries = 5"}
    with dask.config.set({"jobqueue.htcondor.disk": "1GB"}):
        text = make_job("HTCondorCluster", raw).job_script()
    assert "MaxRetries = 5" in text
    assert "export SEAMLESS_WORKER_TRANSFORMATION_THROTTLE=3; " in text
    assert "--nthreads 12" in text


LOGIN = {
    "PYTHONPATH": "/my packages",
    "SEAMLESS_REMOTE_READ_TIMEOUT": "5",
    "SEAMLESS_DASK_SCHEDULER": "tcp://somewhere",
    "SEAMLESS_REMOTE_CLIENTS": "[]",
    "SECRET": "x",
}


@pytest.mark.parametrize("pure", [False, True])
@pytest.mark.parametrize("system", ["OARCluster", "SGECluster", "PBSCluster"])
def test_environment_where_it_is_not_inherited(
    system: str, pure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs find Python and Seamless as we do, and see nothing private."""
    for name, value in LOGIN.items():
        monkeypatch.setenv(name, value)
    raw = {**BATCH, "memory_per_core_property_name": "memcore", "pure_dask": pure}
    raw["job_extra_directives"] = "-pe smp"
    exports = script_of(system, raw).exports
    assert exports["PATH"] == f"{Path(sys.executable).parent}:$PATH"
    assert exports["PYTHONPATH"] == "'/my packages'"
    assert ("SEAMLESS_REMOTE_READ_TIMEOUT" in exports) is not pure
    assert not {"SECRET", "SEAMLESS_DASK_SCHEDULER", "SEAMLESS_REMOTE_CLIENTS"} & set(
        exports
    )


def test_slots_on_grid_engine(caplog: pytest.LogCaptureFixture) -> None:
    """The number is added to the name of the parallel environment."""

    def directives(**more: Any) -> list[str]:
        caplog.clear()
        return script_of("SGECluster", {**BATCH, **more}).directives

    assert "#$ -pe smp 12" in directives(job_extra_directives=["-pe smp", "-V"])
    assert not caplog.messages
    assert "#$ -pe smp 12" in directives(job_extra_directives="-pe smp 12")
    assert "#$ -l exclusive=true" in directives(resource_spec="exclusive=true")
    assert not caplog.messages
    directives()
    (message,) = caplog.messages
    assert "one slot, but it will use 12" in message and "-pe NAME" in message
    directives(job_cores=1)
    assert not caplog.messages


OUTPUT = {
    "SLURMCluster": ["#SBATCH --output=/logs/job-%j.log"],
    "SGECluster": ["#$ -o /logs/"],
    "PBSCluster": ["#PBS -j oe", "#PBS -o /logs/"],
    "LSFCluster": ["#BSUB -o /logs/job-%J.log"],
    "OARCluster": ["#OAR -d /logs"],
}


@pytest.mark.parametrize("system", OUTPUT)
def test_output_of_jobs(system: str) -> None:
    """It goes to our directory, unless the user names a place."""
    raw: dict[str, Any] = {**BATCH, "memory_per_core_property_name": "memcore"}

    def directives(**more: Any) -> list[str]:
        return script_of(system, {**raw, **more}, Path("/logs")).directives

    assert [line for line in directives() if "/logs" in line or "oe" in line] == (
        OUTPUT[system]
    )
    option = "-d" if system == "OARCluster" else "-o"
    chosen = directives(job_extra_directives=f"{option} /mine/")
    assert not [line for line in chosen if "/logs" in line]


@pytest.mark.parametrize("system", [name for name in OUTPUT if name != "LSFCluster"])
def test_output_where_dask_is_configured_to_put_it(system: str, tmp_path: Path) -> None:
    """Also on OAR, where dask_jobqueue ignores its own setting."""
    import dask

    raw = {**BATCH, "memory_per_core_property_name": "memcore"}
    key = f"jobqueue.{system.removesuffix('Cluster').lower()}.log-directory"
    with dask.config.set({key: str(tmp_path)}):
        lines = script_of(system, raw, Path("/logs")).directives
    assert [line for line in lines if str(tmp_path) in line]
    assert not [line for line in lines if "/logs" in line]


def test_settings_of_dask_jobqueue_are_added() -> None:
    """What the user wrote in Dask's own configuration is not lost."""
    import dask

    extra = {
        "job-script-prologue": ["module load conda"],
        "job-extra-directives": ["--qos=low"],
        "worker-extra-args": ["--interface", "ib0"],
    }
    with dask.config.set({f"jobqueue.slurm.{key}": extra[key] for key in extra}):
        script = script_of(
            "SLURMCluster", {**BATCH, "job_script_prologue": "conda activate x"}
        )
    assert script.prologue == ["module load conda", "conda activate x"]
    assert script.slurm()["--qos"] == "low"
    assert script.options["--interface"] == "ib0"


def test_oar_whole_node_of_unknown_size() -> None:
    """Without a number of cores there is no memory per core to ask for."""
    raw = {
        "memory": "200GB",
        "walltime": "01:00:00",
        "exclusive": True,
        "resource_spec": "/nodes=1",
        "memory_per_core_property_name": "memcore",
    }
    assert not [
        line for line in script_of("OARCluster", raw).directives if "-p" in line
    ]

"""Parameters: defaults, what they amount to, and how they are refused."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from seamless_dask.wrapper.checks import check
from seamless_dask.wrapper.cluster_string import ClusterClass
from seamless_dask.wrapper.exit_codes import ParametersError
from seamless_dask.wrapper.launch import local_arguments
from seamless_dask.wrapper.settings.dask_config import (
    dask_settings,
    exports,
    lifetime_seconds,
    merged_config,
    seamless_environment,
    stagger_seconds,
)
from seamless_dask.wrapper.settings.durations import (
    format_clock,
    format_duration,
    parse_duration,
    slurm_memory,
)
from seamless_dask.wrapper.settings.parameters import (
    Parameters,
    json_schema,
    read_parameters,
)

BATCH: dict[str, Any] = {"cores": 4, "memory": "4GB", "walltime": "01:00:00"}


def read(**raw: object) -> Parameters:
    parameters, unknown = read_parameters(raw)
    assert not unknown
    return parameters


def problems_of(raw: dict[str, object]) -> list[str]:
    with pytest.raises(ParametersError) as caught:
        read_parameters(raw)
    return caught.value.problems


def batch_problems_of(system: str = "slurm", **raw: Any) -> list[str]:
    with pytest.raises(ParametersError) as caught:
        check(read(**raw), ClusterClass(object, "jobqueue", system))
    return caught.value.problems


def test_defaults() -> None:
    """An empty object is enough for a cluster on this machine."""
    parameters = read()
    assert parameters.transformation_throttle == 3
    assert parameters.threads == 3
    assert parameters.maximum_workers == 1
    assert parameters.minimum_workers == 0
    assert parameters.resources == {}
    assert parameters.timeout is None
    assert parameters.unknown_task_duration == "1m"
    assert parameters.target_duration == "10m"
    check(parameters, ClusterClass(object, "local"))


def test_names_with_hyphens_and_underscores() -> None:
    """Both spellings of a name mean the same."""
    for name in ("unknown-task-duration", "unknown_task_duration"):
        assert read(**{name: "5s"}).unknown_task_duration == "5s"


def test_null_means_absent() -> None:
    """Callers write null for what they do not know."""
    assert read(interactive=None, cores=None) == read()


def test_unknown_names_are_returned() -> None:
    """A name that we do not know is no error: callers may be newer than we are."""
    parameters, unknown = read_parameters({"cores": 2, "colour": "red", "x-y": 1})
    assert parameters.cores == 2
    assert unknown == ["colour", "x-y"]


def test_all_problems_at_once() -> None:
    """Each problem names the field as written, its value and what is allowed."""
    raw = {
        "cores": 0,
        "walltime": "soon",
        "memory": "a lot",
        "lifetime-stagger": -1,
        "internal-port-range": "5000",
        "dask-resources": {"GPU": "many"},
        "interactive": "yes",
        "maximum_jobs": True,
        "job_extra_directives": [1],
        "extra_dask_config": "x",
        "timeout": 0,
        "tmpdir": "here",
        "partition": "",
        "colour": "red",
    }
    problems = problems_of(raw)
    for name, value in raw.items():
        if name == "colour":
            assert not any("colour" in problem for problem in problems)
        else:
            (problem,) = [p for p in problems if p.startswith(f"{name} = ")]
            assert repr(value) in problem
            assert "allowed is " in problem
    assert len(problems) == len(raw) - 1


def test_a_name_written_twice() -> None:
    """Two spellings with two values are a contradiction."""
    (problem,) = problems_of({"target-duration": "1m", "target_duration": "2m"})
    assert "target-duration" in problem and "target_duration" in problem


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("01:00:00", 3600),
        ("100:00:00", 360000),
        ("2-12:00:00", 216000),
        ("1-06", 108000),
        ("1-06:30", 109800),
        ("1m", 60),
        ("10m", 600),
        ("1.5h", 5400),
        ("90 s", 90),
        (36000, 36000),  # YAML's reading of an unquoted 10:00:00
    ],
)
def test_durations(written: str | int, seconds: float) -> None:
    """Dask's notation and that of batch systems."""
    assert parse_duration(written) == seconds


@pytest.mark.parametrize(
    "written", ["", " ", "soon", "10:00", "01:60:00", "-1s", 0, "0s", "1 parsec"]
)
def test_no_durations(written: str | int) -> None:
    """What is ambiguous or no duration at all."""
    with pytest.raises(ValueError):
        parse_duration(written)


def test_formatting() -> None:
    """The way back, exact or rounded in the safe direction."""
    assert format_duration(3300) == "55m"
    assert format_duration(3301.7) == "3301s"
    assert format_clock(216000) == "60:00:00"
    assert format_clock(89.2) == "00:01:30"


@pytest.mark.parametrize(
    ("written", "directive"),
    [
        ("54000MB", "54000M"),
        ("54 GiB", "54G"),
        ("54g", "54G"),
        ("1.5GiB", "1536M"),
        (3 * 2**30 + 1, "3073M"),
    ],
)
def test_slurm_memory(written: str | int, directive: str) -> None:
    """A number with a unit keeps its number."""
    assert slurm_memory(written) == directive


def test_threads_match_the_seamless_pool() -> None:
    """Threads are cores x throttle unless written; pure Dask has two."""
    assert read(cores=24).threads == 72
    assert read(cores=24, transformation_throttle=2).threads == 48
    assert read(cores=24, worker_threads=5).threads == 5
    assert read(cores=24, pure_dask=True).threads == 2
    assert read(cores=24, pure_dask=True, worker_threads=8).threads == 8


def test_cores_per_job() -> None:
    """Jobs ask for cores x throttle unless job_cores says otherwise."""
    assert read(cores=24).cores_per_job == 72
    assert read(cores=24, job_cores=24).cores_per_job == 24
    assert read(cores=24, pure_dask=True).cores_per_job == 24


def test_resources() -> None:
    """Units may be strings; exclusive mode brings S, but not in pure Dask."""
    assert read(**{"dask-resources": {"GPU": "2"}}).resources == {"GPU": 2.0}
    assert read(exclusive=True, cores=1).resources == {"S": 1.0}
    written = {"S": "4", "GPU": 1}
    assert read(**{"dask-resources": written}).resources == {"S": 4.0, "GPU": 1.0}
    assert read(exclusive=True, pure_dask=True).resources == {}


@pytest.mark.parametrize(
    ("units", "exclusive", "reason"),
    [
        (0.5, False, "none could ever start"),
        (0, False, "none could ever start"),
        (2, True, "one top-level transformation at a time"),
        (0.5, True, "one top-level transformation at a time"),
    ],
)
def test_units_with_which_nothing_could_start(
    units: float, exclusive: bool, reason: str
) -> None:
    """Each top-level transformation takes one; pure Dask may use S as it likes."""
    parameters: dict[str, Any] = {
        "dask-resources": {"S": units},
        "exclusive": exclusive,
    }
    (problem,) = problems_of(parameters)
    assert problem.startswith("dask-resources = {'S': ") and reason in problem
    assert read(pure_dask=True, **parameters)


@pytest.mark.parametrize("value", ["40000:40100", "40000-40100", [40000, 40100]])
def test_internal_port_range(value: object) -> None:
    """One notation comes out, whatever went in."""
    parameters = read(**{"internal-port-range": value})
    assert parameters.internal_port_range == "40000:40100"
    settings = dask_settings(parameters, walltime=False)
    assert settings["distributed.worker.port"] == "40000:40100"
    assert settings["distributed.nanny.port"] == "40000:40100"
    arguments = local_arguments(parameters)
    assert arguments["port"] == arguments["worker_port"] == "40000:40100"


def test_internal_port_range_too_small() -> None:
    """Workers and nannies that share a machine need a port each."""
    parameters = read(maximum_jobs=3, **{"internal-port-range": "40000:40004"})
    with pytest.raises(ParametersError, match="3 workers .* need 6"):
        check(parameters, ClusterClass(object, "local"))


def test_lifetime() -> None:
    """Lifetime is walltime - stagger - grace, and only where workers rotate."""

    def lifetime(ends: bool = True, **raw: Any) -> float | None:
        return lifetime_seconds(read(**raw), walltime=ends)

    many = {**BATCH, "maximum_jobs": 2}
    assert lifetime(**many, lifetime_stagger="0s") == 3540
    assert lifetime(**many) == 3300
    assert lifetime(**many, lifetime_stagger="10m") == 2940
    assert lifetime(**many, lifetime="20m") == 1200
    assert lifetime(**many, pure_dask=True) is None
    assert lifetime(**many, pure_dask=True, lifetime="20m") == 1200
    assert lifetime(**BATCH) is None
    assert lifetime(**BATCH, lifetime="20m") is None
    # nobody ends a worker on this machine at the walltime
    assert lifetime(ends=False, **many) is None
    assert lifetime(ends=False, **many, lifetime="20m") == 1200


def test_tmpdir_in_the_configuration() -> None:
    """Both keys of the old name and the one that Dask reads."""
    for parameters, expected in (
        (read(), "/tmp"),
        (read(tmpdir="/scratch"), "/scratch"),
    ):
        settings = dask_settings(parameters, walltime=False)
        for key in ("local-directory", "temp-directory", "temporary-directory"):
            assert settings[key] == expected


def test_environment() -> None:
    """What Seamless reads in a worker; nothing in pure Dask."""
    assert seamless_environment(read(transformation_throttle=5)) == {
        "SEAMLESS_DASK_QUEUE_EXCLUSIVE": "0",
        "SEAMLESS_WORKER_TRANSFORMATION_THROTTLE": "5",
    }
    exclusive = seamless_environment(read(exclusive=True))
    assert exclusive["SEAMLESS_DASK_QUEUE_EXCLUSIVE"] == "1"
    assert seamless_environment(read(pure_dask=True)) == {}


def test_extra_dask_config_wins() -> None:
    """Nested or dotted, the user's configuration is merged last."""
    extra = {
        "distributed.scheduler.unknown-task-duration": "5s",
        "distributed": {"worker": {"memory": {"target": 0.5}}},
        "logging": {"distributed.scheduler": "debug"},
    }
    settings = dask_settings(read(), walltime=True)
    merged = merged_config(settings, extra)
    scheduler = merged["distributed"]["scheduler"]
    assert scheduler == {
        "unknown-task-duration": "5s",
        "target-duration": "10m",
        "allowed-failures": 10,
    }
    assert merged["distributed"]["worker"]["memory"] == {"target": 0.5}
    assert merged["logging"] == {"distributed.scheduler": "debug"}
    lines = exports(settings, extra, merged)
    assert "export DASK_DISTRIBUTED__SCHEDULER__UNKNOWN_TASK_DURATION=5s" in lines


def test_allowed_failures() -> None:
    """The loss of workers is no fault of the transformations; pure Dask is untouched."""
    key = "distributed.scheduler.allowed-failures"
    settings = dask_settings(read(), walltime=True)
    assert settings[key] == 10
    merged = merged_config(settings, {key: 3})
    assert merged["distributed"]["scheduler"]["allowed-failures"] == 3
    # Only the scheduler reads it, which runs here.
    assert not any("ALLOWED_FAILURES" in line for line in exports(settings, {}, merged))
    assert key not in dask_settings(read(pure_dask=True), walltime=True)


def test_exports_arrive() -> None:
    """Dask reads in another process what was meant, capital letters included."""
    import dask.config

    extra = {"distributed": {"worker": {"memory": {"target": 0.5}}}}
    parameters = read(**{"dask-resources": {"GPU": 2}})
    settings = dask_settings(parameters, walltime=True)
    lines = exports(settings, extra, merged_config(settings, extra))
    assignments = [shlex.split(line)[1].partition("=") for line in lines]
    environment = {name: value for name, _, value in assignments}
    config = dask.config.collect_env(environment)
    worker = config["distributed"]["worker"]
    assert worker["daemon"] is False
    assert worker["memory"] == {"target": 0.5}
    assert worker["resources"] == {"GPU": 2.0}


def test_batch_systems_need_more() -> None:
    """All that a batch system needs and did not get, at once."""
    names = [problem.partition(":")[0] for problem in batch_problems_of("oar")]
    assert names == ["walltime", "memory", "cores", "memory_per_core_property_name"]


def test_walltime_too_short_for_rotation() -> None:
    """Stagger, up or down, and grace must fit into the walltime."""
    short = {**BATCH, "walltime": "00:05:00", "lifetime_stagger": "2m"}
    (problem,) = batch_problems_of(**short, maximum_jobs=2)
    assert "walltime = '00:05:00'" in problem and "lifetime-stagger" in problem
    check(read(**short), ClusterClass(object, "jobqueue", "slurm"))
    for wrong in ("59m", "56m", "400h", "4m", "3m", "1s"):
        more = {"maximum_jobs": 2, "lifetime_stagger": "4m"}
        (problem,) = batch_problems_of(**BATCH, **more, lifetime=wrong)
        assert f"lifetime = '{wrong}'" in problem and "lifetime-stagger (240" in problem
        long = wrong in ("59m", "56m", "400h")
        assert ("at most 3300 s, walltime = '01:00:00'" in problem) == long
    check(
        read(**BATCH, **more, lifetime="55m"), ClusterClass(object, "jobqueue", "slurm")
    )
    (problem,) = batch_problems_of(**{**BATCH, "walltime": "60s"}, maximum_jobs=2)
    assert problem.startswith("walltime = '60s': must be longer than 60 s")


@pytest.mark.parametrize("kind", [("local", ""), ("jobqueue", "slurm")])
@pytest.mark.parametrize(
    "wrong",
    [
        {"lifetime": 0.5},
        {"lifetime": "900ms", "lifetime_stagger": 0},
        {"lifetime": "30s", "lifetime_stagger": "5h"},
    ],
)
def test_lives_that_end_at_once(wrong: dict[str, Any], kind: tuple[str, str]) -> None:
    """Dask would take a lifetime of 0 s for none, and end a worker below it at once."""
    raw = {**BATCH, "walltime": "20:00:00", "maximum_jobs": 2, **wrong}
    with pytest.raises(ParametersError) as caught:
        check(read(**raw), ClusterClass(object, *kind))
    (problem,) = caught.value.problems
    assert problem.startswith(f"lifetime = {wrong['lifetime']!r}: must be at least ")


def test_a_short_lifetime_is_named(caplog: pytest.LogCaptureFixture) -> None:
    for lifetime, said in (("59s", True), ("60s", False)):
        caplog.clear()
        raw = {**BATCH, "maximum_jobs": 2, "lifetime": lifetime}
        check(read(**raw), ClusterClass(object, "jobqueue", "slurm"))
        assert (f"lifetime = '{lifetime}' is short" in caplog.text) == said


@pytest.mark.parametrize(
    ("raw", "lifetime", "stagger"),
    [
        ({"walltime": "01:00:00"}, 55 * 60, 240),
        ({"walltime": "00:05:00"}, 180, 60),
        ({"walltime": "01:00:00", "lifetime": "1m"}, 60, 15),
    ],
)
def test_stagger_of_short_lives(
    raw: dict[str, Any], lifetime: float, stagger: float
) -> None:
    """The default of the stagger never eats up the lifetime."""
    parameters = read(**{**BATCH, **raw}, maximum_jobs=2)
    check(parameters, ClusterClass(object, "jobqueue", "slurm"))
    assert lifetime_seconds(parameters, walltime=True) == lifetime
    assert stagger_seconds(parameters) == stagger


def test_htcondor_needs_disk() -> None:
    """dask_jobqueue has no parameter for it, only configuration."""
    (problem,) = batch_problems_of("htcondor", **BATCH)
    assert "jobqueue.htcondor.disk" in problem
    extra = {"jobqueue.htcondor.disk": "1GB"}
    condor = ClusterClass(object, "jobqueue", "htcondor")
    check(read(**BATCH, extra_dask_config=extra), condor)


def test_schema_has_every_parameter() -> None:
    """Both spellings, a description, what is allowed and, for amounts, the unit."""
    schema = json_schema()
    for name, field in schema["properties"].items():
        assert name.replace("-", "_") in Parameters.model_fields
        if "$ref" in field:
            continue
        assert field["description"] and field["allowed"] and "default" in field
        kinds = {str(part.get("type")) for part in field.get("anyOf", [field])}
        if kinds & {"number", "integer"}:
            assert field["unit"], name
    assert schema["properties"]["memory"]["unit"] == "bytes"
    assert "lifetime-stagger" in schema["properties"]
    assert json.loads(json.dumps(schema)) == schema


def test_tmpdir(tmp_path: Path) -> None:
    """A directory on this machine is made, and must be writable."""
    local = ClusterClass(object, "local")
    check(read(tmpdir=str(tmp_path / "new" / "one")), local)
    assert (tmp_path / "new" / "one").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(ParametersError, match="tmpdir = .*file"):
        check(read(tmpdir=str(tmp_path / "file")), local)
    for wrong in ("relative", "/with'quote", "/x;reboot"):
        (problem,) = problems_of({"tmpdir": wrong})
        assert "absolute path" in problem
    assert read(tmpdir="$SCRATCH/${USER}").tmpdir == "$SCRATCH/${USER}"


def test_exclusive_needs_a_whole_node_or_cores() -> None:
    """Exclusive without cores must say how to get a whole node."""
    whole: dict[str, Any] = {"memory": "4GB", "walltime": "01:00:00", "exclusive": True}
    (problem,) = batch_problems_of(**whole)
    assert problem.startswith("exclusive = True")
    for more in ({"job_cores": 8}, {"job_extra_directives": "--exclusive"}):
        check(read(**whole, **more), ClusterClass(object, "jobqueue", "slurm"))

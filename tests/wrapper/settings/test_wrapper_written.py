"""What people write: understood as they meant it, or refused with a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.written import (
    BATCH,
    SYSTEMS,
    problems,
    script,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from seamless_dask.wrapper.exit_codes import ParametersError
from seamless_dask.wrapper.settings.durations import parse_memory
from seamless_dask.wrapper.settings.parameters import Parameters, read_parameters

MARKS = {
    "slurm": "#SBATCH",
    "sge": "#$",
    "oar": "#OAR",
    "pbs": "#PBS",
    "lsf": "#BSUB",
    "moab": "#MSUB",
}


# --- directives


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_directive_may_have_the_mark_of_its_batch_system(system: str) -> None:
    mark = MARKS[system]
    head = "#PBS" if system == "moab" else mark
    for written in (f"{mark} -x y", f"  {mark}   -x y ", f"{mark}\t-x y", "-x y"):
        lines = script(system, {"job_extra_directives": [written]})
        assert f"{head} -x y" in lines
        assert not [line for line in lines if line.count("#") > 1]


def test_moab_reads_the_directives_of_pbs() -> None:
    assert "#PBS -x y" in script("moab", {"job_extra_directives": "#PBS -x y"})


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize(
    "written",
    [
        "##SBATCH --gres=gpu:1",
        "# SBATCH --x",
        "# a remark",
        "#",
        "gres=gpu:1",
        "#COBALT -n",
    ],
)
def test_what_would_be_a_comment_is_refused(system: str, written: str) -> None:
    raw = {**BATCH, "memory_per_core_property_name": "x"}
    (problem,) = problems(system, {**raw, "job_extra_directives": ["-a", written]})
    assert problem.startswith(f"job_extra_directives = {written!r}: ")


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("mark", [*MARKS.values()])
def test_the_mark_of_another_batch_system_is_refused(system: str, mark: str) -> None:
    raw = {**BATCH, "memory_per_core_property_name": "x"}
    found = problems(system, {**raw, "job_extra_directives": [f"{mark} -q x"]})
    if mark == MARKS[system] or (system, mark) == ("moab", "#PBS"):
        assert not found
    else:
        (problem,) = found
        assert f"marked for another batch system, this one is {system}" in problem


def test_directives_in_the_configuration_are_read_alike() -> None:
    key = "jobqueue.slurm.job-extra-directives"
    import dask

    with dask.config.set({key: ["#SBATCH --qos=low"]}):
        assert "#SBATCH --qos=low" in script("slurm", {})
    raw = {**BATCH, "extra_dask_config": {key: ["#PBS -l x", "# remark"]}}
    first, second = problems("slurm", raw)
    assert key in first and "another batch system" in first
    assert key in second and "comment" in second


def test_all_conditions_of_oar_are_kept() -> None:
    """Those of Dask's configuration, and those in two directives."""
    import dask

    key = "jobqueue.oar.job-extra-directives"
    with dask.config.set({key: ["-p gpu = 'YES' OR a = 1"]}):
        lines = script("oar", {"job_extra_directives": ["#OAR -p", "host='n1'"]})
    (line,) = [line for line in lines if line.startswith("#OAR -p")]
    assert "gpu = 'YES' OR a = 1" in line and "host='n1'" in line
    raw = {**BATCH, "memory_per_core_property_name": "x"}
    (problem,) = problems("oar", {**raw, "job_extra_directives": ["-t x", "-p"]})
    assert "needs a condition" in problem


@pytest.mark.parametrize(
    ("system", "directive"),
    [
        ("slurm", "--wait"),
        ("slurm", "-W"),
        ("slurm", "#SBATCH --test-only"),
        ("sge", "-sync y"),
        ("sge", "-t 1-10"),
        ("oar", "--array 5"),
        ("pbs", "-J 1-5"),
        ("lsf", "-K"),
        ("lsf", "-J name[1-5]"),
    ],
)
def test_directives_with_which_jobs_cannot_be_followed(
    system: str, directive: str
) -> None:
    raw = {**BATCH, "memory_per_core_property_name": "x"}
    (problem,) = problems(system, {**raw, "job_extra_directives": directive})
    assert repr(directive) in problem


def test_directives_of_htcondor() -> None:
    raw = {**BATCH, "extra_dask_config": {"jobqueue.htcondor.disk": "1GB"}}
    assert not problems("htcondor", {**raw, "job_extra_directives": "+Group = 1"})
    for wrong in ("MaxRetries", "# remark", "#PBS -l x"):
        (problem,) = problems("htcondor", {**raw, "job_extra_directives": wrong})
        assert repr(wrong) in problem


def test_directives_in_the_prologue_are_refused() -> None:
    """Nobody reads them there: commands stand before them."""
    for line in ("#SBATCH --gres=gpu:1", "#$ -l gpu=1"):
        (problem,) = problems("slurm", {**BATCH, "job_script_prologue": line})
        assert "job_extra_directives" in problem
    assert "# a remark" in script(
        "slurm", {"job_script_prologue": ["# a remark", "true"]}
    )


def test_values_with_their_options_are_refused() -> None:
    raw = {**BATCH, "partition": "-p all", "project": "#SBATCH -A x"}
    raw["resource_spec"] = "-l select=1"
    assert len(problems("pbs", raw)) == 3


# --- amounts


@pytest.mark.parametrize("system", ["", *SYSTEMS])
@pytest.mark.parametrize(
    "memory", ["4000", "4000.0", "4_000", " 4000 ", 4000, 4e9, 8 * 2**30, "1e400", 0]
)
def test_memory_without_a_unit_is_refused(system: str, memory: Any) -> None:
    raw = {**BATCH, "memory": memory, "memory_per_core_property_name": "x"}
    (problem,) = problems(system, raw)
    assert problem.startswith(f"memory = {memory!r}: ") and "unit" in problem


@pytest.mark.parametrize(
    ("memory", "processes"),
    [("4000B", 1), ("4000 kB", 1), ("99MB", 1), ("500MB", 6), ("0.01GB", 1)],
)
def test_less_memory_than_a_dask_worker_needs_is_refused(
    memory: str, processes: int
) -> None:
    raw = {**BATCH, "cores": 6, "memory": memory, "processes": processes}
    (problem,) = problems("slurm", raw)
    assert problem.startswith(f"memory = {memory!r}: ") and "unit" in problem
    assert not problems("slurm", {**raw, "memory": "600MB"})


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize(
    "walltime", ["90", "90.5", "1e400", 90, 120, 5415, 3600, 36000.0]
)
def test_a_walltime_without_a_unit_is_refused(system: str, walltime: Any) -> None:
    raw = {**BATCH, "walltime": walltime, "memory_per_core_property_name": "x"}
    (problem,) = problems(system, raw)
    assert problem.startswith(f"walltime = {walltime!r}: ") and "unit" in problem


@pytest.mark.parametrize("written", ["72:00", "1:00:00:00", "10:00:00", "1_0", "1e3"])
def test_a_clock_without_quotes_is_refused(written: str) -> None:
    """YAML makes a number of it, which may have meant minutes, hours or days."""
    walltime = yaml.safe_load(f"walltime: {written}")["walltime"]
    (problem,) = problems("slurm", {**BATCH, "walltime": walltime})
    assert problem.startswith(f"walltime = {walltime!r}: ")
    assert "needs quotes or a unit: YAML reads HH:MM:SS without quotes" in problem


NUMBERS = (
    st.floats()
    | st.integers()
    | st.booleans()
    | st.sampled_from(
        ["1e400", "-1e400", "nan", "inf", "1e400 s", "1e400GB", "9" * 400]
    )
)
JSON = st.recursive(
    st.none() | NUMBERS | st.text(max_size=12),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(st.text(max_size=8), below, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None)  # the first call loads modules
@given(st.dictionaries(st.sampled_from(sorted(Parameters.model_fields)), JSON))
def test_whatever_is_written_is_taken_or_refused_in_sentences(
    raw: dict[str, Any],
) -> None:
    """Also after a detour through a file; each refused field is named with its value."""
    raw = json.loads(json.dumps(raw))
    try:
        parameters, _ = read_parameters(raw)
    except ParametersError as error:
        for problem in error.problems:
            name = problem.split(" ")[0]
            assert name in raw
            assert "allowed is" in problem or "contradicts" in problem
            assert problem.isprintable()
        return
    for system in ("slurm", "oar", "htcondor", ""):
        for problem in problems(system, raw):
            assert problem.isprintable()
    for name, value in raw.items():
        if isinstance(value, list) and value:
            taken = getattr(parameters, name)
            assert name == "internal_port_range" or taken == value  # nothing is lost


@pytest.mark.parametrize(
    "ports",
    [[6000.0, 6100.5], [6000, 6100, 6200], ["6000.5", 6100], [float("inf"), 6100]],
)
def test_a_port_range_is_not_made_to_fit(ports: list[Any]) -> None:
    (problem,) = problems("", {"internal-port-range": ports})
    assert problem.startswith(f"internal-port-range = {ports!r}: allowed is")


@pytest.mark.parametrize("cores", [2.5, "2.0", "two", 10**7, "1_0", float("nan"), [2]])
def test_whole_numbers(cores: Any) -> None:
    (problem,) = problems("", {"cores": cores})
    assert problem.startswith(f"cores = {cores!r}: allowed is a whole number")


@pytest.mark.parametrize(
    "text", ["a\nb", "a\x00b", "\ud800", "a\u2028b", " ", "\x1b[1m"]
)
def test_texts_that_no_job_script_can_hold(text: str) -> None:
    raw = {"partition": text, "job_extra_directives": ["-a", text]}
    first, second = problems("", raw)
    assert first.startswith("partition = ") and second.startswith(
        "job_extra_directives"
    )
    assert first.isprintable() and second.isprintable()


def test_memory_is_one_number_with_one_unit() -> None:
    assert parse_memory("4 GB") == 4 * 10**9
    for wrong in ("4 4GB", "4 G B", "1e400GB", "nanGB", "-1GB", "9e10GB"):
        with pytest.raises(ValueError):
            parse_memory(wrong)


def test_all_problems_at_once() -> None:
    """Those of single values, of values together, and of the batch system."""
    raw = {
        "memory": "4000",
        "cores": 2,
        "processes": 20,
        "job_extra_directives": ["#PBS -l x"],
        "extra_dask_config": {"seamless-dask.queue-interval": "soon"},
    }
    found = problems("slurm", raw)
    starts = ("memory = '4000'", "Dask's configuration", "walltime: is required")
    starts += ("processes = 20", "job_extra_directives = '#PBS -l x'")
    assert len(found) == len(starts)
    for start, problem in zip(starts, found, strict=True):
        assert problem.startswith(start)


# --- Dask's configuration


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seamless-dask.queue-interval", "soon"),
        ("seamless-dask.idle-time", -1),
        ("seamless-dask.stall-warning", [1]),
        ("jobqueue.slurm.death-timeout", "1e400"),
        ("jobqueue.slurm.job-script-prologue", 5),
        ("jobqueue.slurm.worker-extra-args", {"a": 1}),
        ("jobqueue.slurm.log-directory", 7),
        ("jobqueue.slurm.log-directory", ""),
        ("jobqueue.slurm.shebang", ["#!/bin/sh"]),
        ("jobqueue.slurm.job-directives-skip", "--mem="),
        ("jobqueue.slurm.job-directives-skip", 5),
        ("distributed.scheduler.preload", 7),
        ("distributed.scheduler.allowed-failures", "many"),
    ],
)
def test_keys_of_the_configuration_are_checked(key: str, value: Any) -> None:
    raw = {**BATCH, "extra_dask_config": {key: value}, "cores": 4, "processes": 5}
    raw["transformation_throttle"] = 1
    first, second = problems("slurm", raw)
    assert f"{key} = {value!r}: allowed is" in first
    assert second.startswith("processes = 5")


@pytest.mark.parametrize(
    ("words", "named", "said"),
    [
        (["--name", "x"], "--name", "gives each worker a name of its own"),
        (["--name=x"], "--name=x", "gives each worker a name of its own"),
        (["--preload m --nthreads 9"], "--preload m --nthreads 9", "worker_threads"),
        (["--nworkers", "2"], "--nworkers", "processes"),
        (["--local-directory", "/x"], "--local-directory", "tmpdir"),
        (["--resources", "GPU=1"], "--resources", "dask_resources"),
        (["--death-timeout", "1"], "--death-timeout", "jobqueue.pbs.death-timeout"),
        (["--scheduler-file", "/x"], "--scheduler-file", "set by the wrapper"),
        (["--no-nanny"], "--no-nanny", "nanny"),
        (["--worker-port", "40000"], "--worker-port", "set by internal-port-range"),
        (["--version"], "--version", "starts no worker"),
    ],
)
def test_options_of_workers_that_are_set(
    words: list[str], named: str, said: str
) -> None:
    key = "jobqueue.pbs.worker-extra-args"
    raw = {**BATCH, "internal_port_range": "40000:40100"}
    (problem,) = problems("pbs", {**raw, "extra_dask_config": {key: words}})
    assert problem.startswith(f"Dask's configuration {key} = {named!r}: --")
    assert said in problem


def test_options_of_workers_that_may_be_added() -> None:
    words = ["--worker-port", "40000:40099", "--nanny-port", "40000:40099"]
    words += ["--interface ib0", "--memory-limit", "2GB", "--preload", "name"]
    extra = {"jobqueue.slurm.worker-extra-args": words}
    assert not problems("slurm", {**BATCH, "extra_dask_config": extra})


@pytest.mark.parametrize("system", ["", "slurm"])
def test_names_of_resources_that_are_ours(system: str) -> None:
    wrong: list[dict[str, Any]] = [
        {"dask_resources": {"seamless-nested": 3, "GPU": 1}},
        {"extra_dask_config": {"distributed.worker.resources": {"S": 2}}},
        {"extra_dask_config": {"distributed.worker.resources.seamless-nested": 2}},
    ]
    for raw in wrong:
        (problem,) = problems(system, {**BATCH, **raw})
        assert "allowed are other names than seamless-nested" in problem
        assert not problems(system, {**BATCH, **raw, "pure_dask": True})
    for resources in ({"S": 5}, {"S": 1.5, "GPU": 2}):
        assert not problems(system, {**BATCH, "dask_resources": resources})
    extra = {"distributed.worker.resources": {"GPU": 2}}
    assert not problems(system, {**BATCH, "extra_dask_config": extra})


UNREADABLE: dict[str, list[Any]] = {
    "distributed.comm.timeouts.connect": ["banana", "01:00:00", "-1s", [1], True],
    "distributed.comm.retry.count": ["many", 1.5, -1],
    "distributed.comm.compression": ["nope", True, ["zlib"]],
    "distributed.comm.offload": ["x", True],
    "distributed.scheduler.bandwidth": ["fast"],
    "distributed.scheduler.idle-timeout": ["x"],
    "distributed.scheduler.worker-saturation": ["x", 0],
    "distributed.scheduler.default-task-durations": [{"f": "x"}, 5],
    "distributed.scheduler.active-memory-manager.measure": ["x"],
    "distributed.worker.connections.outgoing": [0, "x"],
    "distributed.worker.lifetime.duration": ["\u0663m"],
    "distributed.worker.memory.max-spill": ["1 GBB"],
    "distributed.worker.memory.terminate": ["x", 95, True],
    "distributed.worker.memory.rebalance.sender-min": ["x", False],
    "distributed.worker.multiprocessing-method": ["x"],
    "distributed.worker.resources": [5, {"GPU": "x"}, {"GPU": -1}],
    "distributed.nanny.environ": [5],
}


@pytest.mark.parametrize("system", ["", "slurm"])
@pytest.mark.parametrize("key", UNREADABLE)
def test_values_that_dask_cannot_read(key: str, system: str) -> None:
    for value in UNREADABLE[key]:
        raw = {**BATCH, "extra_dask_config": {key: value}}
        (problem,) = problems(system, raw)
        assert f"{key} = {value!r}: allowed is " in problem


def test_values_that_dask_can_read() -> None:
    """All of its defaults, what it does not know, and several notations."""
    import distributed

    defaults = yaml.safe_load(
        Path(distributed.__file__).with_name("distributed.yaml").read_text()
    )
    assert not problems("slurm", {**BATCH, "extra_dask_config": defaults})
    extra = {
        "distributed.comm.timeouts.connect": "1e-3s",
        "distributed.comm.timeouts.tcp": 90,
        "distributed.comm.compression": "zlib",
        "distributed.comm.offload": False,
        "distributed.scheduler.idle-timeout": "2 hours",
        "distributed.scheduler.worker-ttl": None,
        "distributed.scheduler.worker-saturation": "inf",
        "distributed.worker.memory.terminate": False,
        "distributed.worker.memory.pause": 1,
        "distributed.worker.memory.max-spill": 10**9,
        "distributed.comm.future-key": "banana",
        "mine": {"a": "banana"},
    }
    assert not problems("slurm", {**BATCH, "extra_dask_config": extra})


def test_a_key_that_is_value_and_section() -> None:
    (problem,) = problems("", {"extra_dask_config": {"a": 1, "a.b": 2}})
    assert "a has a value, but there is also a.b" in problem


# --- parameters inside of extra_dask_config


@pytest.mark.parametrize(
    "extra",
    [
        {"seamless.transformation-throttle": 1},
        {"seamless.transformation_throttle": 1},
        {"seamless": {"transformation-throttle": 1}},
        {"seamless": {"transformation_throttle": 1}, "distributed.comm.retry.count": 2},
    ],
)
def test_the_throttle_may_be_said_in_the_configuration(extra: dict[str, Any]) -> None:
    parameters, unknown = read_parameters({"cores": 4, "extra_dask_config": extra})
    assert parameters.transformation_throttle == 1
    assert parameters.threads == parameters.cores_per_job == 4
    assert not unknown and "seamless" not in str(parameters.extra_dask_config)
    lines = script("slurm", {"cores": 4, "extra_dask_config": extra})
    assert "export SEAMLESS_WORKER_TRANSFORMATION_THROTTLE=1" in lines
    assert "#SBATCH --cpus-per-task=4" in lines


def test_the_timeout_may_be_said_in_the_configuration() -> None:
    parameters, _ = read_parameters({"extra_dask_config": {"seamless.timeout": 90}})
    assert parameters.timeout == 90


def test_hidden_parameters_are_checked_like_others() -> None:
    extra = {"seamless.transformation-throttle": 0, "seamless.colour": "red"}
    (problem,) = problems("", {"extra_dask_config": extra})
    assert problem.startswith(
        "extra_dask_config seamless.transformation-throttle = 0: "
    )
    _, unknown = read_parameters({"extra_dask_config": {"seamless": {"colour": 1}}})
    assert unknown == ["extra_dask_config seamless.colour"]
    (problem,) = problems("", {"extra_dask_config": {"seamless": 5}})
    assert problem.startswith("extra_dask_config seamless = 5: allowed is a mapping")


def test_two_throttles_are_a_contradiction_unless_they_agree() -> None:
    raw = {"extra_dask_config": {"seamless.transformation-throttle": 1}}
    assert not problems("", {**raw, "transformation_throttle": 1})
    assert not problems("", {**raw, "transformation_throttle": None})
    (problem,) = problems("", {**raw, "transformation-throttle": 2})
    assert "contradicts transformation-throttle = 2" in problem
    both = {
        "seamless.transformation-throttle": 1,
        "seamless": {"transformation_throttle": 2},
    }
    (problem,) = problems("", {"extra_dask_config": both})
    assert "contradicts" in problem


@pytest.mark.parametrize("name", ["partition", "project"])
@pytest.mark.parametrize("value", ["a b", 'a"c', "x'; touch y; '", "$HOME", "a\tb"])
def test_names_that_would_be_several_words_are_refused(name: str, value: str) -> None:
    """The batch system, or its shell, would take the rest for something else."""
    (problem,) = problems("slurm", {**BATCH, name: value})
    assert name in problem and "several names are separated by commas" in problem


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("walltime", "\u0660\u0661:\u0660\u0660:\u0660\u0660"),
        ("walltime", "\u0663h"),
        ("lifetime", "\uff13m"),
        ("target_duration", "\u0663"),
        ("memory", "\uff14GB"),
        ("cores", "\u0663"),
        ("timeout", "\u0663"),
        ("dask_resources", {"GPU": "\u0663"}),
        ("internal_port_range", "\u0664\u0660\u0660\u0660\u0660:50000"),
    ],
)
def test_numbers_in_other_digits_are_refused(name: str, value: Any) -> None:
    (problem,) = problems("slurm", {**BATCH, name: value})
    assert problem.startswith(f"{name} = {value!r}: ")

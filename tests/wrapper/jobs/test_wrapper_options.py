"""A directive with several options is read as its batch system reads it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from helpers.written import BATCH, problems, script
from hypothesis import given
from hypothesis import strategies as st

from seamless_dask.wrapper.jobs.arguments import job_arguments
from seamless_dask.wrapper.jobs.options import options, separated
from seamless_dask.wrapper.jobs.queues import QUEUES
from seamless_dask.wrapper.settings.parameters import read_parameters

RAW: dict[str, Any] = {
    **BATCH,
    "cores": 4,
    "partition": "long",
    "project": "grant",
    "memory_per_core_property_name": "x",
}


@pytest.mark.parametrize(
    ("system", "directive"),
    [
        ("sge", "-cwd -t 1-4"),
        ("sge", "-pe smp 12 -V -t 1-4:2"),
        ("oar", "-t besteffort --array 3"),
        ("oar", "--arr=3"),
        ("oar", "-n x --array-p file"),
        ("pbs", "-m abe -J 1-3"),
        ("pbs", "-VJ1-3"),
        ("pbs", "-p -5 -t 1-3"),
        ("moab", "-V -t x[1-3]"),
        ("lsf", "-x -J a[1-3]"),
        ("lsf", "-x -J 'a [1-3]'"),
        ("lsf", "-N -Ja[1-3]"),
    ],
)
def test_one_job_does_not_become_several(system: str, directive: str) -> None:
    (problem,) = problems(system, {**RAW, "job_extra_directives": directive})
    assert "makes several jobs of one" in problem


@pytest.mark.parametrize(
    ("system", "directive"),
    [
        ("slurm", "--gres=gpu:1 --wait"),
        ("slurm", "--wai"),
        ("slurm", "-OW"),
        ("slurm", "-N1 -W"),
        ("slurm", "--gres=gpu:1 --quiet"),
        ("slurm", "-Q"),
        ("slurm", "-OQ"),
        ("slurm", "--vers"),
        ("slurm", "--comment 'a --b' --test"),
        ("slurm", "--exclusive --wait # needed"),
        ("sge", "-V -sync y"),
        ("sge", "-V -sync yes"),
        ("sge", "-cwd -now y"),
        ("sge", "-cwd -w v"),
        ("sge", "-p -5 -verify"),
        ("oar", "-t besteffort -I"),
        ("oar", "-SI"),
        ("oar", "-p \"a='-x'\" --inter"),
        ("oar", "--conn 5"),
        ("pbs", "-W depend=afterok:1:2,block=true"),
        ("pbs", "-V -Wblock=TRUE"),
        ("pbs", "-z"),
        ("pbs", "-Vz"),
        ("pbs", "-m abe -I"),
        ("pbs", '-W "depend=afterok:1, block=t"'),
        ("moab", "-V -K"),
        ("moab", "-W x=5 -I"),
        ("lsf", "-R 'select[mem>5]' -K"),
        ("lsf", "-R rusage[mem=4] -Ip"),
        ("lsf", "-x -ISs"),
    ],
)
def test_the_command_that_submits_says_the_id_at_once(
    system: str, directive: str
) -> None:
    (problem,) = problems(system, {**RAW, "job_extra_directives": directive})
    assert "the wrapper needs the id of the job at once" in problem


@pytest.mark.parametrize(
    ("system", "directive"),
    [
        ("slurm", "-H"),
        ("slurm", "-OH"),
        ("slurm", "--gres=gpu:1 --hold"),
        ("slurm", "--hol"),
        ("slurm", "--priority=0"),
        ("sge", "-cwd -h"),
        ("oar", "-t besteffort --hold"),
        ("oar", "--hol"),
        ("pbs", "-h"),
        ("pbs", "-Vh"),
        ("moab", "-V -h"),
        ("lsf", "-x -H"),
        ("htcondor", "hold = True"),
        ("htcondor", "Hold=1"),
    ],
)
def test_no_job_is_held_from_the_beginning(system: str, directive: str) -> None:
    """After a minute it would be replaced by another one that is held, for ever."""
    raw = {**RAW, "job_extra_directives": [directive]}
    raw["extra_dask_config"] = {"jobqueue.htcondor.disk": "1GB"}
    (problem,) = problems(system, raw)
    assert problem.startswith(f"job_extra_directives = {directive!r}: would hold every")


@pytest.mark.parametrize(
    ("system", "directive"),
    [
        *(("slurm", "-Jmine"), ("slurm", "-OJmine"), ("slurm", "#SBATCH -Jmine")),
        *(("sge", "-Nmine"), ("sge", "-cwd -Nmine"), ("sge", "#$ -Nmine")),
        *(("oar", "-nmine"), ("oar", "-Snmine"), ("pbs", "-Nmine"), ("pbs", "-VNmine")),
        *(("lsf", "-Jmine"), ("lsf", "-x -J=mine"), ("lsf", "-Jmine -x")),
        ("moab", "-Nmine"),
    ],
)
def test_a_name_without_a_blank_takes_the_place_of_ours(
    system: str, directive: str
) -> None:
    name = job_arguments(
        read_parameters({**RAW, "job_extra_directives": directive})[0], system, tag="t"
    )["job_name"]
    assert name == "mine-t"
    lines = script(system, {"job_extra_directives": directive})
    assert len([line for line in lines if re.match("#.*mine", line)]) == 1


@pytest.mark.parametrize("directive", ["-I60", "-OI60", "-koff", "-I", "-k -O"])
def test_a_value_that_may_be_left_out_stays_with_its_option(directive: str) -> None:
    joined = "".join(option.text for option in options(directive, "slurm"))
    assert joined.replace("-", "") == directive.replace("-", "").replace(" ", "")
    names = {name for option in options(directive, "slurm") for name in option.names}
    assert names <= {"--immediate", "--overcommit", "--no-kill"}


@pytest.mark.parametrize(
    ("system", "directive", "known"),
    [
        ("slurm", "--tim=10", "walltime"),
        ("slurm", "--gres=gpu:1 --ti 10", "walltime"),
        ("slurm", "-Ot10", "walltime"),
        ("slurm", "--acc=x", "project"),
        ("slurm", "--part x", "partition"),
        ("slurm", "--cpus=4", "cores"),
        ("slurm", "--nta=4", "cores"),
        ("slurm", "-Oc2", "cores"),
        ("slurm", "--comment 'a b' --mem-per-c=1G", "memory"),
        ("oar", "-t besteffort --que=x", "partition"),
        ("oar", "-n x --proj y", "project"),
        ("oar", "-t x --reso /gpu=1,walltime=5", "walltime"),
        ("sge", "-V -cwd -l gpu=1,h_rt=5", "walltime"),
        ("sge", "-j y -P x", "project"),
        ("sge", "-cwd -pe smp 3", "cores"),
        ("pbs", "-Vq short", "partition"),
        ("pbs", "-m abe -lwalltime=5", "walltime"),
        ("moab", "-V -A x", "project"),
        ("lsf", "-x -n4", "cores"),
        ("lsf", "-J name -W 5", "walltime"),
        ("lsf", "-x -qshort", "partition"),
        ("lsf", "-Pother", "project"),
    ],
)
def test_no_option_repeats_a_parameter(system: str, directive: str, known: str) -> None:
    (problem,) = problems(system, {**RAW, "job_extra_directives": directive})
    assert f"says what {known}" in problem


@pytest.mark.parametrize(
    ("system", "directives"),
    [
        (
            "slurm",
            [
                *("--comment '--wait'", "--comment --wait", "--gres=gpu:1 # --wait"),
                *("--array=1-3", "--wait-all=1 --gres=gpu:1", "-Os", "--time-m=5"),
                *("--mail-type=END --mail-user -W", "-Nt", "-C -W", "--new-option -n1"),
                *("-J x --no-req", "--signal=B:10@60 --nice", "--nice=-5", "--mem-b=x"),
            ],
        ),
        (
            "sge",
            [
                *("-N -t", "-v A=-t,B=1", "-ac x=-sync", "-cwd -sync n", "-now no -V"),
                *("-tc 5 -w e", "-hold_jid 5 -V", "-binding linear:4 -R y", "-q@ x"),
            ],
        ),
        ("oar", ["-n --array", "-t besteffort -p 'a=-5'", "-S", "--name=-I"]),
        (
            "pbs",
            [
                *("-N -J", "-v A=-J,B=z", "-W depend=afterok:1,umask=022", "-p -5"),
                *("-W block=false", "-m abe -M me@here", "-NzI", "-W group_list=block"),
            ],
        ),
        ("lsf", ["-J a", "-Jd 'a[1]'", "-E 'x -K'", "-w 'done(1)' -N", "-G K -x"]),
        ("moab", ["-V -W x=y", "-N -t"]),
    ],
)
def test_what_only_resembles_such_options_stays(
    system: str, directives: list[str]
) -> None:
    assert not problems(system, {**RAW, "job_extra_directives": directives})


def test_names_outputs_and_conditions_among_other_options() -> None:
    """Each option has the effect that it has on a line of its own."""
    text = "\n".join(script("slurm", {"job_extra_directives": "--gres=gpu:1 -J mine"}))
    assert "#SBATCH -J mine" in text and "#SBATCH --gres=gpu:1\n" in text
    text = "\n".join(script("slurm", {"job_extra_directives": "-O --arr=1-3"}))
    assert "worker-$SLURM_ARRAY_JOB_ID-$SLURM_ARRAY_TASK_ID" in text
    text = "\n".join(script("sge", {"job_extra_directives": "-V -pe smp", "cores": 4}))
    assert "#$ -V\n" in text and "#$ -pe smp 12\n" in text
    for directives in (
        ["-t x -p", "a='b'"],
        ["-t x --property \"a='b'\""],
        ["--prop=\"a='b'\" -t x"],
    ):
        lines = script("oar", {"cores": 4, "job_extra_directives": directives})
        assert "#OAR -t x" in lines
        (line,) = [line for line in lines if "-p " in line and "#OAR" in line]
        assert line == "#OAR -p \"a='b' AND memcore>=318\""
    queue = QUEUES["slurm"]
    assert queue.options_of(["-O -M other", "--cluster=more"]) == ("--clusters=more",)


def test_a_whole_node_is_asked_for_among_other_options() -> None:
    raw = {"memory": "4GB", "walltime": "01:00:00", "exclusive": True}
    asked = {**raw, "job_extra_directives": "#SBATCH --gres=gpu:1 --exclusive"}
    assert not problems("slurm", asked)
    (problem,) = problems("slurm", {**raw, "job_extra_directives": "--exclusive=user"})
    assert problem.startswith("exclusive = True: needs cores")


@given(
    st.sampled_from(["slurm", "sge", "oar", "pbs", "lsf", "moab"]),
    st.text(alphabet="-tWaJ= '\"\\#1[]x", max_size=20),
)
def test_any_text_can_be_read(system: str, text: str) -> None:
    """What is separated is read like the whole."""
    directive = f"-{text}".strip()
    found = options(directive, system)
    assert [option.names for option in found]
    parts = separated(directive, system)
    # in quotes there may be dashes, and -W-J is an error everywhere
    if not re.search(r"""['"\\]|\S-""", directive):
        again = [option for part in parts for option in options(part, system)]
        assert [(o.names, o.value) for o in again] == [
            (o.names, o.value) for o in found
        ]

"""The answers to submissions, the names of jobs, and what commands get to see of us."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from seamless_dask.wrapper.jobs.names import job_name, new_tag, service_base, split_name
from seamless_dask.wrapper.jobs.queues import QUEUES, Row, UnreadableAnswer
from seamless_dask.wrapper.jobs.submission_answers import (
    Accepted,
    is_terse,
    read_answer,
)
from seamless_dask.wrapper.jobs.surroundings import (
    for_commands,
    for_submission,
    withheld,
)

ANSWERS = {
    "slurm": ["Submitted batch job {}", "{}", "{};other"],
    "sge": [
        'Your job {} ("dask-worker") has been submitted',
        'Your job-array {}.1-2:1 ("x") has been submitted',
        "{}",
    ],
    "oar": ["OAR_JOB_ID={}", "OAR_JOB_ID = {}"],
    "pbs": ["{}.head", "{}", "{}[].pbs-server.example.org"],
    "moab": ["\n{}\n", "Moab.{}", "{}.head"],
    "lsf": [
        "Job <{}> is submitted to queue <normal>.",
        "Job <{}> is submitted to default queue <short>.",
    ],
    "htcondor": [
        "Submitting job(s).\n1 job(s) submitted to cluster {}.",
        "{}.0 - {}.0",
    ],
}
#: What sites say before and behind it; digits are everywhere.
GREETINGS = [
    "*** Welcome to Frontier3 (login node 12) ***",
    "Maintenance on 2026-01-02, 08:00; see ticket #4711.",
    "You have used 1234 of 5000 core hours (24.7 %).",
    "sbatch: INFO: job 17 of yours is still running",
    "\x1b[31mWarning:\x1b[0m /home is 93% full",
    "Version 23.11.4",
    "[ Generate a job key... ]",
    "[ADMISSION RULE] Modify resource description with type constraints (2)",
    "---- 8< ----",
    "",
    "lua: priority set to 100\r",
]
SYSTEMS = [(name, answer) for name, answers in ANSWERS.items() for answer in answers]


@pytest.mark.parametrize(("system", "answer"), SYSTEMS)
@given(
    before=st.lists(st.sampled_from(GREETINGS), max_size=4),
    behind=st.lists(st.sampled_from(GREETINGS), max_size=4),
    number=st.integers(1, 10**9),
    end=st.sampled_from(["\n", "\r\n", ""]),
)
def test_the_id_is_found_whatever_stands_around_it(
    system: str,
    answer: str,
    before: list[str],
    behind: list[str],
    number: int,
    end: str,
) -> None:
    output = (
        end.join([*before, answer.format(number, number), *behind])
        if end
        else ("\n".join([*before, answer.format(number, number), *behind]))
    )
    expected = f"{number}.0" if system == "htcondor" else str(number)
    terse = answer.strip(" \n")[0] == "{"
    for accepted in (
        read_answer(system, output, terse=terse),
        read_answer(system, "", output, terse=terse),
    ):
        assert accepted is not None and accepted.id == expected


@pytest.mark.parametrize("system", ANSWERS)
@given(st.lists(st.sampled_from(GREETINGS), max_size=6), st.text(max_size=60))
@example([], "")
def test_no_answer_is_no_id(system: str, lines: list[str], text: str) -> None:
    assert read_answer(system, "\n".join(lines)) is None
    accepted = read_answer(system, text)  # whatever it is, it does not fail
    assert accepted is None or accepted.id[0].isdigit()


@pytest.mark.parametrize("system", ["slurm", "sge"])
def test_a_number_is_no_id_beside_an_answer_that_nobody_reads(system: str) -> None:
    """The words may be in another language, and 42 another job of the user."""
    assert read_answer(system, "42\nBatch-Auftrag 1001 wurde abgeschickt\n") is None
    assert read_answer(system, "Willkommen\n1001\n") == Accepted("1001")
    assert read_answer(system, "4２\n") is None


@pytest.mark.parametrize(
    ("system", "words"),
    [
        ("slurm", "Submitted batch job {}"),
        ("slurm", "note: Submitted batch job {} on cluster a"),
        ("oar", "OAR_JOB_ID={}"),
        ("htcondor", "1 job(s) submitted to cluster {}"),
    ],
)
def test_the_number_of_an_answer_stands_alone(system: str, words: str) -> None:
    for number in ("12é34", "12-34", "12,13", "12.5", "12_3", "12x", "12\u0663"):
        for behind in ("", " (queued)"):
            assert read_answer(system, words.format(number) + behind) is None
    for behind in ("", ".", " (queued)", "!"):
        accepted = read_answer(system, words.format("12") + behind)
        assert accepted is not None and accepted.id.split(".")[0] == "12"


def test_who_asks_for_a_number_gets_one() -> None:
    assert is_terse("sbatch --parsable")
    assert is_terse("#!/bin/sh\n#$ -terse\n")
    assert not is_terse("#SBATCH --job-name=not--parsable-terse\n")


def test_what_looks_like_an_id_of_pbs() -> None:
    pbs = QUEUES["pbs"]
    text = "2026-01-02\n42%\n2026 Jan 02 09:00 R x\n12.head\n"
    assert list(pbs.of("x").search_answer(0, text, "")) == ["12"]
    assert pbs.answer(0, "2026 Jan 02 09:00 R x\n", "") == {}
    assert read_answer("pbs", "10.0.0.5.example\n") is None


@pytest.mark.parametrize("events", [None, [None], {"1": {"type": "FRAG_JOB_REQUEST"}}])
def test_oarstat_with_braces_in_front_and_odd_events(events: object) -> None:
    job = {"4": {"state": "Terminated", "events": events}}
    text = f"Hello {{site news}}\n{json.dumps(job)}\nbye }}"
    (row,) = QUEUES["oar"].answer(0, text, "").values()
    assert row.place == "gone"


def test_squeue_in_colours() -> None:
    text = "\x1b(B\x1b[m7|R|n1|None\n"
    assert list(QUEUES["slurm"].answer(0, text, "")) == ["7"]


def test_two_possible_ids_are_none() -> None:
    """A wrong one would leave a job in the queue, and might cancel another one."""
    assert read_answer("slurm", "Submitted batch job 5\nSubmitted batch job 6") is None
    assert read_answer("slurm", "2026\n4711") is None
    assert read_answer("oar", "OAR_JOB_ID=5\nOAR_JOB_ID=6") is None
    # said twice, or in the way that is more certain, it is one
    assert read_answer("slurm", "4711\nSubmitted batch job 5\nSubmitted batch job 5")
    accepted = read_answer(
        "slurm", "Submitted batch job 5 times\nSubmitted batch job 6"
    )
    assert accepted == Accepted("6")


@pytest.mark.parametrize(("system", "answer"), SYSTEMS)
def test_no_job_has_the_number_0(system: str, answer: str) -> None:
    """Batch systems count from 1; a 0 is the number of nothing."""
    for terse in (False, True):
        assert read_answer(system, answer.format(0, 0), terse=terse) is None
    assert read_answer(system, answer.format(10, 10), terse=True) is not None


def test_the_cluster_is_remembered() -> None:
    said = "Submitted batch job 7 on cluster other"
    assert read_answer("slurm", said) == Accepted("7", "other")
    assert read_answer("slurm", "7;other") == Accepted("7", "other")


# --- names


@pytest.mark.parametrize(
    ("system", "directive"),
    [
        ("slurm", "--job-name=mine"),
        ("slurm", "-J mine"),
        ("sge", "-N mine"),
        ("oar", "-n mine"),
        ("oar", "--name=mine"),
        ("pbs", "-N mine"),
        ("lsf", '-J "mine"'),
        ("htcondor", "batch_name = mine"),
    ],
)
def test_a_name_of_the_user_gets_the_tag(system: str, directive: str) -> None:
    base, others = split_name(["-x y", directive], system)
    assert (base, others) == ("mine", ["-x y"])
    assert job_name(base, system, "0a1b2c3d") == "mine-0a1b2c3d"
    assert job_name(base, system, "") == "mine"


@pytest.mark.parametrize(
    ("service", "base"),
    [
        ("daskserver-big-rw-proteins", "seamless-proteins"),
        ("daskserver-big-one-rw-a-rw-b", "seamless-a-rw-b"),
        ("daskserver-big-rw-proteins--part--STAGE-x", "seamless-proteins-part-STAGE-x"),
        ("pure-daskserver-big-long", "seamless-big-long"),
        ("status", ""),
    ],
)
def test_jobs_are_named_after_the_project(service: str, base: str) -> None:
    """In pure Dask, which has no project, after cluster and queue."""
    assert service_base(service) == base


def test_a_long_name_keeps_what_tells_projects_apart() -> None:
    """PBS takes 15 characters."""
    assert job_name("seamless-proteins", "pbs", "0a1b2c3d") == "protei-0a1b2c3d"
    assert job_name("seamless-2nd", "pbs", "0a1b2c3d") == "seamle-0a1b2c3d"
    assert job_name("seamless-a", "sge", "0a1b2c3d") == "seamless-a-0a1b2c3d"


@given(st.text(max_size=80), st.sampled_from(sorted(ANSWERS)))
def test_any_name_is_made_one_that_batch_systems_take(text: str, system: str) -> None:
    tag = new_tag()
    name = job_name(text, system, tag)
    assert re.fullmatch(r"[A-Za-z][\w.-]*", name, re.ASCII) and name.endswith(f"-{tag}")
    assert len(name) <= (15 if system in ("pbs", "moab") else 48)


# --- the environment of commands

LOGIN = {
    "PATH": "/bin",
    "SLURM_CONF": "/etc/slurm.conf",
    "SBATCH_TIMELIMIT": "1",
    "SBATCH_WAIT": "1",
    "SBATCH_JOB_NAME": "mine",
    "SBATCH_PARTITION": "debug",
    "SBATCH_ACCOUNT": "grant",
    "SQUEUE_STATES": "R",
    "SQUEUE_FORMAT": "%u",
    "SCANCEL_INTERACTIVE": "1",
    "SLURM_CLUSTERS": "other",
    "SLURM_JOB_ID": "1",
    "SGE_ROOT": "/sge",
    "SGE_CELL": "default",
    "SGE_LONG_QNAMES": "1",
    "OAR_JOB_ID": "1",
    "OARCONFFILE": "/etc/oar.conf",
    "PBS_DPREFIX": "#QSUB",
    "PBS_DEFAULT": "head",
    "BSUB_QUIET": "1",
    "LSF_ENVDIR": "/lsf",
}


def test_variables_of_the_batch_system_do_not_reach_its_commands() -> None:
    def theirs(system: str, *prefixes: str) -> set[str]:
        seen = for_commands(system, LOGIN)
        return {name for name in seen if name.startswith(prefixes)}

    assert theirs("slurm", "SLURM", "SBATCH", "SQUEUE", "SCANCEL") == {"SLURM_CONF"}
    assert theirs("sge", "SGE") == {"SGE_ROOT", "SGE_CELL"}
    assert theirs("oar", "OAR") == {"OARCONFFILE"}
    assert theirs("pbs", "PBS") == {"PBS_DEFAULT"}
    assert theirs("lsf", "BSUB", "LSF") == {"LSF_ENVDIR"}
    assert for_commands("htcondor", LOGIN) == LOGIN


def test_the_choice_of_a_site_stays_unless_the_script_says_otherwise() -> None:
    script = "#!/bin/sh\n#SBATCH -p all\n#SBATCH --time=1\ntrue"
    seen = for_submission("slurm", LOGIN, script)
    sbatch = {name for name in seen if name.startswith("SBATCH_")}
    assert sbatch == {"SBATCH_ACCOUNT", "SBATCH_NO_REQUEUE"}
    seen = for_submission("slurm", LOGIN, "#SBATCH --account=mine")
    assert "SBATCH_ACCOUNT" not in seen and seen["SBATCH_PARTITION"] == "debug"
    names = withheld("slurm", LOGIN, seen)
    assert "SBATCH_TIMELIMIT" in names and "PATH" not in names


# --- queues


def test_arrays_are_one_job() -> None:
    slurm = QUEUES["slurm"]
    rows = slurm.answer(0, "1000_[1-2]|PD||Priority\n", "")
    assert rows == {"1000": Row("pending", "PD", "", "Priority")}
    rows = slurm.answer(0, "1000_2|CD|n2|None\n1000_1|R|n1|None\n", "")
    assert rows["1000"].place == "running"
    rows = slurm.answer(0, "1000_2|CD|n2|None\n1000_1|F|n1|None\n", "")
    assert rows["1000"].place == "gone"


def test_a_greeting_in_front_of_the_queue_is_no_matter() -> None:
    slurm = QUEUES["slurm"]
    text = "Welcome to node 12\nCLUSTER: other\n7|R|n1|None\n"
    assert list(slurm.answer(0, text, "")) == ["7"]
    assert slurm.answer(1, "Welcome to node 12\n", "error: Invalid job id") == {}
    with pytest.raises(UnreadableAnswer):
        slurm.answer(0, "Welcome to node 12\n", "")
    assert slurm.answer(0, "Welcome to node 12\nJOBID|ST|NODELIST|REASON\n", "") == {}
    header = "JOBID|STAT|EXEC_HOST|EXIT_REASON"
    assert QUEUES["lsf"].answer(0, f"Welcome to node 12\n{header}\n", "") == {}
    with pytest.raises(UnreadableAnswer):
        QUEUES["lsf"].answer(0, "Welcome to node 12\n", "")
    oar = '[ greeting ]\n{"4": {"state": "Waiting", "name": "x"}}\nbye 5'
    assert list(QUEUES["oar"].answer(0, oar, "")) == ["4"]


def test_the_search_finds_jobs_of_the_name_only() -> None:
    slurm = QUEUES["slurm"].of("mine-1", ["--clusters=other"])
    assert slurm.search_command() == [
        *("squeue", "--clusters=other", "--states=all"),
        *("--format=%i|%t|%N|%r|%j", "--name=mine-1"),
    ]
    text = "7|PD||None|mine-1\n8|PD||None|theirs\n"
    assert list(slurm.search_answer(0, text, "")) == ["7"]
    oar = QUEUES["oar"].of("mine-1")
    text = '{"4": {"state": "Waiting", "name": "mine-1"}, "5": {"state": "Hold", "name": "x"}}'
    assert list(oar.search_answer(0, text, "")) == ["4"]
    assert list(QUEUES["pbs"].of("x").search_answer(0, "12.head\n13.head\n", "")) == [
        *("12", "13"),
    ]


@pytest.mark.parametrize("written", ["--clusters=a", "--clusters a", "-M a", "-Ma"])
def test_options_for_all_commands_follow_from_directives(written: str) -> None:
    slurm = QUEUES["slurm"]
    options = slurm.options_of(["--nice", written])
    assert options == ("--clusters=a",)
    bound = slurm.of("x", options)
    assert "--clusters=a" in bound.query_command(["1"])
    assert bound.cancel_command(["1"]) == ["scancel", "--clusters=a", "1"]

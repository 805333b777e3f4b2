"""What the queues of batch systems say, and what is said to them."""

from __future__ import annotations

import asyncio
import shlex
import sys
import time

import pytest

from seamless_dask.wrapper.jobs import commands
from seamless_dask.wrapper.jobs.cancellation import make_sure
from seamless_dask.wrapper.jobs.queues import QUEUES, Queue, Row, UnreadableAnswer

QSTAT_XML = """<?xml version='1.0'?>
<job_info>
  <queue_info>
    <job_list state="running">
      <JB_job_number>7</JB_job_number><state>r</state>
      <queue_name>all.q@node1</queue_name>
    </job_list>
    <job_list state="running">
      <JB_job_number>8</JB_job_number><state>dr</state>
      <queue_name>all.q@node1</queue_name>
    </job_list>
  </queue_info>
  <job_info>
    <job_list state="pending">
      <JB_job_number>9</JB_job_number><state>qw</state><queue_name></queue_name>
    </job_list>
    <job_list state="pending">
      <JB_job_number>10</JB_job_number><state>Eqw</state><queue_name></queue_name>
    </job_list>
    <job_list state="pending">
      <JB_job_number>11</JB_job_number><state>hqw</state><queue_name></queue_name>
    </job_list>
  </job_info>
</job_info>
"""

OAR_JSON = """{
 "4": {"state": "Running", "assigned_network_address": ["node2"], "message": "FIFO"},
 "5": {"state": "Waiting", "assigned_network_address": [], "message": ""},
 "6": {"state": "Hold", "assigned_network_address": [], "message": ""},
 "7": {"state": "toError", "assigned_network_address": ["node1"], "message": ""},
 "8": {"state": "Error", "assigned_network_address": ["node1"], "message": "R=1",
       "events": [{"type": "FRAG_JOB_REQUEST"}, {"type": "SEND_KILL_JOB"}]},
 "9": {"state": "Error", "assigned_network_address": ["node1"], "message": "R=1",
       "events": [{"type": "OUTPUT_FILES"}]}
}"""


@pytest.mark.parametrize(
    ("system", "output", "places"),
    [
        (
            "slurm",
            "1|R|n1|None\n2|PD||Resources\n3|PD||JobHeldUser\n4|CG|n2|None\n"
            "5|CA||Resources\n6|NF|n3|NodeDown\n7|CF|n4|None\n",
            "running pending held ending gone gone pending",
        ),
        ("sge", QSTAT_XML, "running ending pending held held"),
        ("oar", OAR_JSON, "running pending held ending gone gone"),
        (
            "pbs",
            "Job id            Name             User              Time Use S Queue\n"
            "----------------  ---------------- ----------------  -------- - -----\n"
            "12.head           dask-worker      ada               00:01:02 R workq\n"
            "13.head           dask-worker      ada                      0 Q workq\n"
            "14.head           dask-worker      ada                      0 H workq\n"
            "15.head           dask-worker      ada               00:00:02 C workq\n",
            "running pending held gone",
        ),
        (
            "lsf",
            "1|RUN|8*node1|-\n2|PEND|-|-\n3|PSUSP|-|-\n4|EXIT|node2|TERM_MEMLIMIT: x\n",
            "running pending held gone",
        ),
        (
            "htcondor",
            "1.0, 2, slot1@node1, undefined\n2.0, 1, undefined, undefined\n"
            "3.0, 5, undefined, via condor_hold, by user\n",
            "running pending held",
        ),
    ],
)
def test_places(system: str, output: str, places: str) -> None:
    rows = QUEUES[system].answer(0, output, "")
    assert [row.place for row in rows.values()] == places.split()


def test_details() -> None:
    slurm = QUEUES["slurm"].answer(0, "6|NF|n3|NodeDown\n8|OOM|n1|OutOfMemory\n", "")
    assert slurm["6"] == Row("gone", "NF", "n3", "NodeDown")
    assert slurm["8"].blame == "job"
    assert QUEUES["sge"].answer(0, QSTAT_XML, "")["7"].node == "node1"
    assert QUEUES["oar"].answer(0, OAR_JSON, "")["4"].node == "node2"
    oar = QUEUES["oar"].answer(0, OAR_JSON, "")
    assert oar["8"].blame == "nobody"
    assert oar["9"] == Row("gone", "Error", "node1", "OUTPUT_FILES")
    lsf = QUEUES["lsf"].answer(0, "4|EXIT|8*node2:4*node3|TERM_MEMLIMIT", "")
    assert lsf["4"] == Row("gone", "EXIT", "node2", "TERM_MEMLIMIT", "job")


def test_one_command_asks_about_all_jobs_and_one_cancels_them() -> None:
    slurm = QUEUES["slurm"]
    assert slurm.query_command(["1", "2"])[-1] == "--jobs=1,2"
    assert slurm.cancel_command(["1", "2"]) == ["scancel", "1", "2"]
    oar = QUEUES["oar"].query_command(["1", "2"])
    assert oar[-4:] == ["--job", "1", "--job", "2"]


def test_jobs_that_the_queue_has_forgotten_are_gone_and_a_failure_is_no_answer() -> (
    None
):
    slurm = QUEUES["slurm"]
    error = "slurm_load_jobs error: Invalid job id specified"
    assert slurm.answer(1, "", error) == {}
    with pytest.raises(UnreadableAnswer, match="Unable to contact slurm controller"):
        slurm.answer(1, "", "Unable to contact slurm controller (connect failure)")
    for system, output in (("slurm", "nonsense"), ("sge", "<"), ("oar", "{")):
        with pytest.raises(UnreadableAnswer):
            QUEUES[system].answer(0, output, "")


EMPTY_XML = "<?xml version='1.0'?><job_info><queue_info/><job_info/></job_info>"
#: {batch system: two answers without jobs, two error messages}
NO_JOBS = {
    "slurm": (
        *("", "JOBID|ST|NODELIST|REASON\n"),
        "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
        "squeue: error: Unable to contact cluster other",
    ),
    "sge": (
        *(EMPTY_XML, EMPTY_XML),
        "error: commlib error: got select error (Connection refused)",
        "error: unable to send message to qmaster using port 6444 on host: got send error",
    ),
    "oar": (
        *("", "{}"),
        "DBI connect('database=oar') failed: could not connect to server",
        "/!\\ Cannot read the configuration",
    ),
    "pbs": (
        *("", "Job id  Name  User  Time Use S Queue\n"),
        "Connection refused\nqstat: cannot connect to server head (errno=15010)",
        "qstat: End of File: connection closed",
    ),
    "moab": (*("", ""), "ERROR: lost connection to server", "server is down"),
    "lsf": (
        *("", "JOBID|STAT|EXEC_HOST|EXIT_REASON\n"),
        "LSF is down. Please wait ...",
        "batch system daemon not responding ... still trying",
    ),
    "htcondor": (
        *("", ""),
        "-- Failed to fetch ads from: <10.0.0.1:9618> : head",
        "Error: Couldn't contact the condor_collector on head.",
    ),
}
NOTICES = [
    "*** Welcome to Frontier3, downtime on Monday at 8:00 ***",
    "squeue is deprecated; it will be an error in 2030",
    "bash: warning: setlocale: LC_ALL: cannot change locale (en_US.UTF-8)",
    "perl: warning: Setting locale failed.",
    "ERROR: ld.so: object 'libx.so' from LD_PRELOAD cannot be preloaded: ignored.",
    "mesg: ttyname failed: Inappropriate ioctl for device",
    "In case of an error write to help@site. Please report errors.",
    "Your quota: 80 % are used",
]


@pytest.mark.parametrize("system", QUEUES)
def test_an_empty_answer_with_an_error_message_is_none(system: str) -> None:
    queue = QUEUES[system].of("mine-1")
    *empty, first, second = NO_JOBS[system]
    for output in empty:
        for answer in (queue.search_answer, lambda *said: queue.answer(*said, ["1"])):
            for notice in NOTICES:
                assert answer(0, output, notice) == {}
            for error in (first, second):
                with pytest.raises(UnreadableAnswer, match="none of our jobs and says"):
                    answer(0, output, f"{NOTICES[0]}\n{error}\n")
    if system not in ("sge", "oar"):  # on standard output
        for parsed in (queue.answer, queue.search_answer):
            with pytest.raises(UnreadableAnswer):
                parsed(0, first, "")


def test_only_rows_of_our_jobs_make_an_answer_of_one_with_an_error_message() -> None:
    error = "error: got select error (Connection refused)"
    sge = QUEUES["sge"].of("mine-1")
    assert "7" in sge.answer(0, QSTAT_XML, error, ["7", "99"])
    for answer in (
        lambda: sge.answer(0, QSTAT_XML, error, ["99"]),
        lambda: sge.search_answer(0, QSTAT_XML.replace("<state>", NAMED), error),
    ):
        with pytest.raises(UnreadableAnswer, match="Connection refused"):
            answer()
    # jobs of others may be named like that
    failed = QSTAT_XML.replace("<state>", NAMED)
    assert sge.search_answer(0, failed, "") == {}


NAMED = "<JB_name>error failed</JB_name><state>"


@pytest.mark.parametrize(
    ("system", "error"),
    [
        ("slurm", "slurm_load_jobs error: Invalid job id specified"),
        ("pbs", "qstat: Unknown Job Id Error 12.head"),
        ("lsf", "Job <1> is not found"),
    ],
)
def test_that_jobs_have_ended_is_no_error_whatever_the_code(
    system: str, error: str
) -> None:
    for code in (0, 1):
        assert QUEUES[system].answer(code, "", error, ["1"]) == {}
        with pytest.raises(UnreadableAnswer, match="cannot connect"):
            both = f"{error}\ncannot connect to the other server"
            QUEUES[system].answer(code, "", both, ["1"])


def test_a_cancellation_with_code_0_and_an_error_message_has_failed() -> None:
    slurm = QUEUES["slurm"]
    error = "scancel: error: Unable to contact slurm controller"
    assert slurm.cancel_error(0, "", f"Welcome\n{error}") == error
    assert slurm.cancel_error(1, "", error) == error
    assert slurm.cancel_error(1, "", "") == "scancel ended with code 1"
    assert slurm.cancel_error(0, "", NOTICES[1]) == ""
    for code in (0, 1):
        ended = "scancel: error: Kill job error on job id 1: Job already completing"
        assert slurm.cancel_error(code, "", ended) == ""
    assert (
        QUEUES["oar"].cancel_error(0, "Deleting the job = 1 ...REGISTERED.", "") == ""
    )


def test_nodes_are_excluded_on_top_of_what_the_user_excludes() -> None:
    exclude = QUEUES["slurm"].exclude
    assert exclude is not None
    given = ["--exclude=n9", "--nice", "-x n8"]
    assert exclude(given, ["n1"]) == ["--nice", "--exclude=n9,n8,n1"]
    exclude = QUEUES["oar"].exclude
    assert exclude is not None
    given = ["-t besteffort", "-p \"host='a'\""]
    (kept, condition) = exclude(given, ["n1", "n2"])
    assert kept == "-t besteffort"
    assert shlex.split(condition) == [
        "-p",
        "(host='a') AND network_address NOT IN ('n1','n2')",
    ]


def test_a_command_that_hangs_is_killed_with_what_it_started(tmp_path) -> None:
    script = f"sleep 1000 & echo $! > {tmp_path}/pid; wait"
    begin = time.monotonic()
    with pytest.raises(commands.CommandFailed, match=r"sh took longer than 0.5 s"):
        asyncio.run(commands.run(["sh", "-c", script], 0.5))
    assert time.monotonic() - begin < 60
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 30
    while _lives(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_command_that_fails_says_what_it_said() -> None:
    with pytest.raises(commands.CommandFailed, match=r"code 3: no such partition"):
        asyncio.run(commands.call(["sh", "-c", "echo no such partition >&2; exit 3"]))
    with pytest.raises(commands.CommandFailed, match="cannot be started"):
        asyncio.run(commands.call(["no-such-command-anywhere"]))


def _queue(tmp_path, script: str) -> Queue:
    """A batch system made of a folder: a job is a file in it."""
    program = tmp_path / "queue.py"
    program.write_text(script)
    return Queue(
        query=[sys.executable, str(program), "query"],
        parse=QUEUES["slurm"].parse,
        cancel=[sys.executable, str(program), "cancel"],
    )


FOLDER = """
import pathlib, sys
folder = pathlib.Path(__file__).parent / "jobs"
if sys.argv[1] == "query":
    for job in folder.iterdir():
        print(f"{job.name}|PD||None")
else:
    for job in sys.argv[2:]:
        if job != "stubborn":
            (folder / job).unlink(missing_ok=True)
"""


def test_the_end_of_jobs_is_verified(tmp_path) -> None:
    queue = _queue(tmp_path, FOLDER)
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    for name in ("1", "2", "stubborn"):
        (jobs / name).touch()
    left = asyncio.run(make_sure(queue, ["1", "2", "stubborn"], time.monotonic() + 1))
    assert left == ["stubborn"]
    assert [job.name for job in jobs.iterdir()] == ["stubborn"]


def test_without_an_answer_no_job_is_known_to_be_gone(tmp_path) -> None:
    queue = _queue(tmp_path, "raise SystemExit('the controller is down')")
    assert asyncio.run(make_sure(queue, ["1"], time.monotonic() + 0.5)) == ["1"]

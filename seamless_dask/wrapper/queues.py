"""How each batch system is asked about jobs, and told to cancel them.

Only commands and what their output means; nothing is run here. Imports nothing but the
standard library, since the guard uses it as well.

SLURM, Grid Engine and OAR were tried on the real thing, PBS, LSF and HTCondor are written
after their manuals. Moab is asked with the commands of Torque, which it comes with.
"""

from __future__ import annotations

import json
import re
import shlex
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field


class UnreadableAnswer(ValueError):
    """The output of a query is not what the manual says."""


@dataclass(frozen=True)
class Row:
    """What the queue says of one job."""

    #: "pending", "held", "running", "ending" (told to end) or "gone".
    place: str
    #: The state in the words of the batch system.
    word: str
    node: str = ""
    #: Why it is there, in the words of the batch system.
    reason: str = ""
    #: Who made it go: "nobody" (as asked, or by its walltime), "job" (it took too much),
    #: "" (not known; perhaps the node).
    blame: str = ""


Rows = dict[str, Row]


@dataclass(frozen=True)
class Queue:
    """The commands of one batch system."""

    #: The command that asks about jobs, without their ids.
    query: Sequence[str]
    #: Read its output.
    parse: Callable[[str], Rows]
    #: The command that cancels, without the ids.
    cancel: Sequence[str]
    #: How ids are put behind the query command.
    ids: Callable[[list[str]], list[str]] = list
    #: Says, if it is in the error output of a query, that all is well: jobs have ended.
    ended: str = "(?!)"
    #: Environment variables for the command that submits.
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Says, if it is in the output of a cancellation, that a job had ended before.
    too_late: str = "(?!)"
    #: The directives of a job, and nodes that it should avoid, to all its directives;
    #: None if that cannot be said.
    exclude: Callable[[list[str], list[str]], list[str]] | None = None

    def query_command(self, job_ids: Iterable[str]) -> list[str]:
        """One command that asks about all these jobs."""
        return [*self.query, *self.ids(list(job_ids))]

    def cancel_command(self, job_ids: Iterable[str]) -> list[str]:
        """One command that cancels all these jobs."""
        return [*self.cancel, *job_ids]

    def answer(self, code: int, output: str, errors: str) -> Rows:
        """The rows of a query that has ended. Raises `UnreadableAnswer`."""
        if code and not re.search(self.ended, errors):
            raise UnreadableAnswer(
                f"{self.query[0]} ended with code {code}: {errors.strip()[:500]}"
            )
        return self.parse(output)


def _places(**words: str) -> dict[str, str]:
    """{word of the batch system: place}, from a list of words for each place."""
    return {word: place for place, listed in words.items() for word in listed.split()}


# --- SLURM: squeue(1), "JOB STATE CODES"

_SLURM = _places(
    pending="PD CF RQ",
    held="RH RD SE",
    running="R S ST SI RS",
    ending="CG SO",
    gone="CD CA TO PR DL RV OOM F NF BF",
)
_SLURM_BLAME = {**dict.fromkeys("CD CA TO PR DL RV".split(), "nobody"), "OOM": "job"}


def parse_slurm(text: str) -> Rows:
    """Rows of ``squeue --noheader --format=%i|%t|%N|%r``."""
    rows = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        job_id, word, node, reason = _split(line, "|", 4)
        place = _SLURM.get(word, "running")
        reason = "" if reason == "None" else reason
        if place == "pending" and "held" in reason.lower():
            place = "held"
        rows[job_id] = Row(place, word, node, reason, _SLURM_BLAME.get(word, ""))
    return rows


def _exclude_slurm(given: list[str], nodes: list[str]) -> list[str]:
    """SLURM heeds the last list only, so the user's must be in ours."""
    kept, excluded = [], []
    for directive in given:
        match = re.fullmatch(r"(?:--exclude[= ]|-x ?)(\S+)", directive.strip())
        if match:
            excluded.append(match[1])
        else:
            kept.append(directive)
    return [*kept, f"--exclude={','.join([*excluded, *nodes])}"]


# --- Grid Engine: qstat(1)


def parse_grid_engine(text: str) -> Rows:
    """Rows of ``qstat -xml``; it lists all jobs of the user that have not ended."""
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise UnreadableAnswer(f"the output of qstat is no XML: {error}") from None
    rows = {}
    for job in root.iter("job_list"):
        job_id, word = job.findtext("JB_job_number"), job.findtext("state")
        if job_id is None or word is None:
            raise UnreadableAnswer("qstat lists a job without a number or state")
        place = "running"
        if "d" in word:
            place = "ending"
        elif "h" in word or "E" in word:
            place = "held"
        elif "q" in word:
            place = "pending"
        node = (job.findtext("queue_name") or "").partition("@")[2]
        reason = "error state; qstat -j tells why" if "E" in word else ""
        rows[job_id] = Row(place, word, node, reason)
    return rows


# --- OAR: oarstat(1)

_OAR = _places(
    pending="Waiting toLaunch Launching toAckReservation",
    held="Hold",
    running="Running Suspended Resuming",
    ending="Finishing toError",
    gone="Terminated Error",
)


def parse_oar(text: str) -> Rows:
    """Rows of ``oarstat --json --full --job ID...``; events say why a job ended."""
    if not text.strip():
        return {}
    try:
        jobs = json.loads(text)
    except ValueError as error:
        raise UnreadableAnswer(f"the output of oarstat is no JSON: {error}") from None
    rows = {}
    for job_id, job in jobs.items():
        word = job.get("state", "")
        nodes = job.get("assigned_network_address") or [""]
        events = {event.get("type", "") for event in job.get("events") or ()}
        place = _OAR.get(word, "running")
        reason = blame = ""
        if place == "gone":
            # deleted, or at its walltime, or by itself
            deliberate = any("FRAG" in event or "WALLTIME" in event for event in events)
            blame = "nobody" if deliberate or word == "Terminated" else ""
            reason = ", ".join(sorted(events))
        rows[job_id] = Row(place, word, nodes[0], reason, blame)
    return rows


def _exclude_oar(given: list[str], nodes: list[str]) -> list[str]:
    """OAR heeds the last ``-p`` only, so the user's condition must be in ours."""
    names = ",".join(f"'{node}'" for node in nodes)
    condition = f"network_address NOT IN ({names})"
    kept = []
    for directive in given:
        option, *words = shlex.split(directive)
        if option == "-p" and words:
            condition = f"({words[0]}) AND {condition}"
        else:
            kept.append(directive)
    quoted = shlex.quote(condition) if '"' in condition else f'"{condition}"'
    return [*kept, f"-p {quoted}"]


# --- PBS and Torque: qstat(1), default format

_PBS = _places(pending="Q W T", held="H", running="R S U B", ending="E", gone="C F X M")


def parse_pbs(text: str) -> Rows:
    """Rows of ``qstat ID...``: id, name, user, time, state, queue."""
    rows = {}
    for line in text.splitlines():
        match = re.match(r"(\d+)\S*\s+\S+\s+\S+\s+\S+\s+([A-Z])\s", line + " ")
        if match:
            job_id, word = match.groups()
            rows[job_id] = Row(_PBS.get(word, "running"), word)
    return rows


# --- LSF: bjobs(1)

_LSF = _places(
    pending="PEND WAIT",
    held="PSUSP",
    running="RUN PROV USUSP SSUSP UNKWN",
    gone="DONE EXIT ZOMBI",
)


def parse_lsf(text: str) -> Rows:
    """Rows of ``bjobs -o "jobid stat exec_host exit_reason delimiter='|'"``."""
    rows = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        job_id, word, node, reason = _split(line, "|", 4)
        node = node.partition(":")[0].rpartition("*")[2]
        node, reason = ("" if value == "-" else value for value in (node, reason))
        blame = "nobody" if word == "DONE" else ""
        if word == "EXIT" and "MEMLIMIT" in reason:
            blame = "job"
        rows[job_id] = Row(_LSF.get(word, "running"), word, node, reason, blame)
    return rows


# --- HTCondor: condor_q(1), job ClassAd attribute JobStatus

_CONDOR = {
    "1": ("pending", "idle"),
    "2": ("running", "running"),
    "3": ("ending", "removed"),
    "4": ("gone", "completed"),
    "5": ("held", "held"),
    "6": ("running", "transferring output"),
    "7": ("running", "suspended"),
}


def parse_condor(text: str) -> Rows:
    """Rows of ``condor_q -autoformat:j, JobStatus RemoteHost HoldReason``."""
    rows = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        job_id, status, host, reason = (part.strip() for part in _split(line, ",", 4))
        place, word = _CONDOR.get(status, ("running", status))
        host, reason = (
            "" if value == "undefined" else value for value in (host, reason)
        )
        rows[job_id] = Row(place, word, host.rpartition("@")[2], reason)
    return rows


def _split(line: str, separator: str, count: int) -> list[str]:
    parts = line.split(separator, count - 1)
    if len(parts) != count:
        raise UnreadableAnswer(f"a line of the queue cannot be read: {line!r}")
    return [part.strip() for part in parts]


_PBS_QUEUE = Queue(
    query=["qstat"],
    parse=parse_pbs,
    cancel=["qdel"],
    ended="(?i)unknown job|has finished",
)

#: {name of the batch system in dask_jobqueue: its commands}
QUEUES = {
    "slurm": Queue(
        query=["squeue", "--noheader", "--states=all", "--format=%i|%t|%N|%r"],
        ids=lambda ids: [f"--jobs={','.join(ids)}"],
        parse=parse_slurm,
        cancel=["scancel"],
        ended="Invalid job id",
        exclude=_exclude_slurm,
        # SLURM would start the job of a dead node again after minutes, with the walltime
        # that it had; a new job is there at once
        environment={"SBATCH_NO_REQUEUE": "1"},
    ),
    "sge": Queue(
        query=["qstat", "-xml"],
        ids=lambda ids: [],
        parse=parse_grid_engine,
        cancel=["qdel"],
        too_late="does not exist|already",
        exclude=lambda given, nodes: [*given, f"-l 'h=!({'|'.join(nodes)})'"],
    ),
    "oar": Queue(
        query=["oarstat", "--json", "--full"],
        ids=lambda ids: [part for job_id in ids for part in ("--job", job_id)],
        parse=parse_oar,
        cancel=["oardel"],
        too_late="already killed",
        exclude=_exclude_oar,
    ),
    "pbs": _PBS_QUEUE,
    "moab": Queue(
        query=["qstat"],
        parse=parse_pbs,
        cancel=["canceljob"],
        ended=_PBS_QUEUE.ended,
    ),
    "lsf": Queue(
        query=[
            "bjobs",
            "-a",
            "-noheader",
            "-o",
            "jobid stat exec_host exit_reason delimiter='|'",
        ],
        parse=parse_lsf,
        cancel=["bkill"],
        ended="is not found",
        exclude=lambda given, nodes: [
            *given,
            '-R "select[' + " && ".join(f"hname!='{node}'" for node in nodes) + ']"',
        ],
    ),
    "htcondor": Queue(
        query=["condor_q", "-autoformat:j,", "JobStatus", "RemoteHost", "HoldReason"],
        ids=list,
        parse=parse_condor,
        cancel=["condor_rm"],
    ),
}

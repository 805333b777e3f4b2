"""Reads the answers of batch systems to queries about jobs. Pure.

Imports only the standard library, because the guard uses it as well.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any


class UnreadableAnswer(ValueError):
    """The output of a query is not as in the manual."""


@dataclass(frozen=True)
class Row:
    """The answer of the queue about one job."""

    #: "pending", "held", "running", "ending" (cancelled) or "gone".
    place: str
    #: The batch system's own word for the state.
    word: str
    node: str = ""
    #: The batch system's own reason for the state.
    reason: str = ""
    #: Why it ended: "nobody" (as requested, or at its walltime), "job" (it took too much),
    #: "" (not known; perhaps because of the node).
    blame: str = ""
    #: A person, or a rule of the site, took it out of the queue.
    withdrawn: bool = False
    #: The name of the job; empty if the answer does not have it.
    name: str = ""


Rows = dict[str, Row]


def _places(**words: str) -> dict[str, str]:
    """{word of the batch system: place}, from a list of words for each place."""
    return {word: place for place, listed in words.items() for word in listed.split()}


def lines_of(text: str) -> list[str]:
    """The lines that are not blank, without control sequences for terminals."""
    text = re.sub(r"\x1b(?:\[[0-9;?]*[A-Za-z]|[()][A-Za-z0-9]|[=>78])|\r", "", text)
    return [line for line in text.splitlines() if line.strip()]


#: Words of a line that speaks of an error...
_TROUBLE = re.compile(
    r"(?i)\b(?:error|exception|fatal|fault|unable|fail(?:ed|ure|s)?|denied|refused|rejected|"
    r"aborted|expired|invalid|can(?:no|')t|could(?: not|n't)|timed?[ -]?out|unreachable|"
    r"unavailable|not (?:respond|available|reachable|permitted|authorized|running|connect)"
    r"\w*|no (?:response|reply|answer|route|such file)|command not found|try again|is down|"
    r"lost connection|connection (?:lost|closed|reset))\b"
)
#: ... unless it is a warning, or from a login file or the loader of programs, or says whom
#: to write to.
_HARMLESS = re.compile(
    r"(?i)\bwarning\b|deprecated|\blocale\b|\bld\.so\b|\bioctl\b|\breport\b|\bin case of\b|"
    r"\bif you\b"
)


def trouble(text: str, expected: str = "(?!)") -> str:
    """The lines of an output that speak of an error, as one line; "" if there is none.

    Parameters
    ----------
    text
        What a command has written beside its answer.
    expected
        A pattern of lines that are no error.
    """
    said = [
        line.strip()
        for line in lines_of(text)
        if _TROUBLE.search(line)
        and not _HARMLESS.search(line)
        and not re.search(expected, line)
    ]
    return " ".join(said)[:500]


def _or_noise(rows: Rows, noise: list[str], *, headed: bool = False) -> Rows:
    """Ignore lines of a greeting, but refuse an answer that has nothing else.

    With a header, an empty list is an answer.
    """
    if noise and not rows and not headed:
        raise UnreadableAnswer(f"a line of the queue cannot be read: {noise[0]!r}")
    return rows


# --- SLURM: squeue(1), "JOB STATE CODES"

_SLURM = _places(
    pending="PD CF RQ",
    held="RH RD SE",
    running="R S ST SI RS",
    ending="CG SO",
    gone="CD CA TO PR DL RV OOM F NF BF",
)
_SLURM_BLAME = {**dict.fromkeys("CD CA TO PR DL RV".split(), "nobody"), "OOM": "job"}
_SLURM_WITHDRAWN = ("CA", "PR", "DL", "RV")
#: An array is one job to us: 1000_3, 1000_[1-2], 1000+0 (a heterogeneous job)
_SLURM_ID = re.compile(r"(\w+?)(?:_(?:\d+|\[[^\]|]*\])|\+\d+)?")


def parse_slurm(text: str) -> Rows:
    """Rows of ``squeue --format=%i|%t|%N|%r``; a fifth field is the name."""
    rows: Rows = {}
    noise = []
    headed = False
    for line in lines_of(text):
        parts = [part.strip() for part in line.split("|")]
        if parts[:2] == ["JOBID", "ST"]:
            headed = True
            continue
        match = _SLURM_ID.fullmatch(parts[0])
        if match is None or len(parts) < 4 or not parts[1].isupper():
            if not line.startswith("CLUSTER:"):
                noise.append(line)
            continue
        word, node, reason = parts[1:4]
        name = parts[4] if len(parts) > 4 else ""
        place = _SLURM.get(word, "running")
        reason = "" if reason == "None" else reason
        if place == "pending" and "held" in reason.lower():
            place = "held"
        row = Row(place, word, node, reason, _SLURM_BLAME.get(word, ""), name=name)
        row = replace(row, withdrawn=word in _SLURM_WITHDRAWN)
        rows[match[1]] = _livelier([row, *filter(None, [rows.get(match[1])])])
    return _or_noise(rows, noise, headed=headed)


def _livelier(rows: Iterable[Row]) -> Row:
    """The row of the array task that will be the last to end."""
    order = ("running", "pending", "held", "ending", "gone")
    return min(rows, key=lambda row: order.index(row.place))


# --- Grid Engine: qstat(1)


def parse_grid_engine(text: str) -> Rows:
    """Rows of ``qstat -xml``; it lists all jobs of the user that have not ended."""
    # a greeting may stand before the document, and something behind it
    start, end = text.find("<?xml"), text.rfind("</job_info>")
    if start >= 0 and end >= 0:
        text = text[start : end + len("</job_info>")]
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise UnreadableAnswer(f"the output of qstat is no XML: {error}") from None
    rows: Rows = {}
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
        row = Row(place, word, node, reason, name=job.findtext("JB_name") or "")
        rows[job_id] = _livelier([row, *filter(None, [rows.get(job_id)])])
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
    rows = {}
    for job_id, job in _jobs_of_oar(text).items():
        word = job["state"]
        place = _OAR.get(word, "running")
        nodes = [*map(str, _list_of(job.get("assigned_network_address"))), ""]
        events = {
            str(event.get("type", ""))
            for event in _list_of(job.get("events"))
            if isinstance(event, dict)
        }
        blame = reason = ""
        deleted = False
        if place == "gone":
            # it was deleted, ended at its walltime, or ended by itself
            overdue = any("WALLTIME" in event for event in events)
            deleted = not overdue and any("FRAG" in event for event in events)
            asked = overdue or deleted or word == "Terminated"
            blame = "nobody" if asked else ""
            reason = ", ".join(sorted(events))
        name = str(job.get("name") or "")
        rows[job_id] = Row(place, word, nodes[0], reason, blame, deleted, name)
    return rows


def _jobs_of_oar(text: str) -> dict[str, dict[str, Any]]:
    """Return the JSON object with the jobs; a greeting before it may contain braces."""
    decoder = json.JSONDecoder()
    problem = "the output of oarstat is no JSON object"
    for brace in re.finditer("{", text):
        try:
            jobs, _ = decoder.raw_decode(text, brace.start())
        except (ValueError, RecursionError):
            continue
        lost = [
            job_id
            for job_id, job in jobs.items()
            if not (isinstance(job, dict) and isinstance(job.get("state"), str))
        ]
        if not lost:
            return dict(jobs)
        problem = f"oarstat says nothing about job {lost[0]}"
    raise UnreadableAnswer(problem)


def _list_of(value: Any) -> list[Any]:
    """Return a list as it is, the values of an object, and nothing of anything else."""
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


# --- PBS and Torque: qstat(1), default format

_PBS = _places(pending="Q W T", held="H", running="R S U B", ending="E", gone="C F X M")


def parse_pbs(text: str) -> Rows:
    """Rows of ``qstat ID...``: id, name, user, time, state, queue."""
    rows = {}
    for line in lines_of(text):
        match = re.match(
            r"(\d+)(?:\[\d*\])?\.\S+\s+\S+\s+\S+\s+\S+\s+([A-Z])\s",
            line + " ",
            re.ASCII,
        )
        if match:
            job_id, word = match.groups()
            rows[job_id] = Row(_PBS.get(word, "running"), word)
    return rows


def parse_qselect(text: str) -> Rows:
    """Rows of ``qselect -N NAME``: ids of jobs that have not ended, and no more."""
    pattern = re.compile(r"\s*(\d+)(?:\[\])?\.[A-Za-z][\w.-]*\s*", re.ASCII)
    found = (pattern.fullmatch(line) for line in lines_of(text))
    return {match[1]: Row("pending", "found") for match in found if match}


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
    noise = []
    headed = False
    for line in lines_of(text):
        parts = [part.strip() for part in line.split("|", 3)]
        if parts[:2] == ["JOBID", "STAT"]:
            headed = True
            continue
        if len(parts) != 4 or not parts[0].isdigit():
            noise.append(line)
            continue
        job_id, word, node, reason = parts
        node = node.partition(":")[0].rpartition("*")[2]
        node, reason = ("" if value == "-" else value for value in (node, reason))
        blame = "nobody" if word == "DONE" else ""
        if word == "EXIT" and "MEMLIMIT" in reason:
            blame = "job"
        withdrawn = bool(re.match("TERM_(OWNER|ADMIN|PREEMPT|FORCE)", reason))
        place = _LSF.get(word, "running")
        rows[job_id] = Row(place, word, node, reason, blame, withdrawn)
    return _or_noise(rows, noise, headed=headed)


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
    noise = []
    for line in lines_of(text):
        parts = [part.strip() for part in line.split(",", 3)]
        if len(parts) != 4 or not re.fullmatch(r"\d+\.\d+", parts[0]):
            noise.append(line)
            continue
        job_id, status, host, reason = parts
        place, word = _CONDOR.get(status, ("running", status))
        host, reason = (
            "" if value == "undefined" else value for value in (host, reason)
        )
        rows[job_id] = Row(place, word, host.rpartition("@")[2], reason)
    return _or_noise(rows, noise)

"""Finds the id of the job in the output of a command that submits.

Sites print greetings, warnings and statistics before and after the answer. A wrong id
would leave a job in the queue, and might cancel another job of the user. So an answer that
is not certain is not used: the queue is then searched for the job by its name. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .queue_answers import lines_of

#: What is behind a number that stands alone; "12é34" or "12-34" are not job 12.
_ALONE = r"(?=[.:;!)]*(?:\s|$))"
#: {batch system: patterns of a line, the most certain first}; some contain the cluster
_PATTERNS: dict[str, tuple[str, ...]] = {
    "slurm": (
        r"^\s*Submitted batch job (?P<id>\d+)(?: on cluster (?P<cluster>[\w.-]+))?\s*$",
        rf"\bSubmitted batch job (?P<id>\d+){_ALONE}(?: on cluster (?P<cluster>[\w.-]+))?",
    ),
    "sge": (
        r'\bYour job(?:-array)? (?P<id>\d+)(?:\.\S*)? \(".*"\) has been submitted',
    ),
    "oar": (
        r"^\s*OAR_JOB_ID\s*=\s*(?P<id>\d+)\s*$",
        rf"\bOAR_JOB_ID\s*=\s*(?P<id>\d+){_ALONE}",
    ),
    "pbs": (r"^\s*(?P<id>\d+)(?:\[\])?\.[A-Za-z][\w.-]*\s*$",),
    "moab": (r"^\s*(?P<id>\d+)(?:\[\])?\.[A-Za-z][\w.-]*\s*$",),
    "lsf": (
        r"^\s*Job <(?P<id>\d+)> is submitted to .*queue",
        r"\bJob <(?P<id>\d+)> is submitted\b",
    ),
    "htcondor": (
        r"^\s*\d+ job\(s\) submitted to cluster (?P<id>\d+)\.?\s*$",
        rf"\bsubmitted to cluster (?P<id>\d+){_ALONE}",
        # -terse
        r"^\s*(?P<id>\d+)\.0 - \d+\.\d+\s*$",
    ),
}
#: Patterns of lines that are only a number
_BARE: dict[str, str] = {
    # --parsable
    "slurm": r"^\s*(?P<id>\d+)(?:;(?P<cluster>[\w.-]+))?\s*$",
    # -terse
    "sge": r"^\s*(?P<id>\d+)(?:\.\d+-\d+:\d+)?\s*$",
    "pbs": r"^\s*(?P<id>\d+)(?:\[\])?\s*$",
    "moab": r"^\s*(?:[A-Za-z][\w-]*\.)?(?P<id>\d+)\s*$",
}
#: Batch systems that always answer with such a line
_BARE_BY_ITSELF = ("pbs", "moab")
#: The suffix of job ids, after the number in the answer
_SUFFIX = {"htcondor": ".0"}

#: Words in the output of a submission that failed, but may have been accepted: the batch
#: system was reached and did not answer, or not in time.
_DOUBTFUL = (
    r"(?i)time.?out|timed.out|too long|zero bytes|connect|communicat|transmi|socket|"
    r"unexpected|broken pipe|reset by peer|unable to contact|no (?:response|answer|reply)|"
    r"not respond|got read error|commlib|end of file|premature|lost|interrupted|"
    r"try(?:ing)? again|internal error|unknown error|database|i/o error"
)
#: Words in that output if the batch system was not reached at all.
_CERTAIN = r"(?i)connect failure|connection refused|cannot be started|not found in PATH"


def is_doubtful(said: str) -> bool:
    """Whether a submission that failed with this output may have been accepted."""
    return bool(re.search(_DOUBTFUL, said)) and not re.search(_CERTAIN, said)


@dataclass(frozen=True)
class Accepted:
    """The batch system has accepted a job."""

    id: str
    #: The cluster, if there are several; empty if the answer does not name it.
    cluster: str = ""


def is_terse(script: str) -> bool:
    """Whether a job script, or a command, asks for an answer that is only a number."""
    return re.search(r"(?<![\w-])-(?:-parsable|terse)(?![\w-])", script) is not None


def read_answer(
    system: str, output: str, errors: str = "", *, terse: bool = False
) -> Accepted | None:
    """The job that was accepted, or None if the answer is not certain.

    Parameters
    ----------
    system
        The batch system.
    output, errors
        The output of the command that submits; the former counts more.
    terse
        Whether the command was asked to answer with a number only. Otherwise the words
        around the number may be in another language, and a line that is a number may
        mean something else: it counts only if no other line has a digit.
    """
    for text in (output, errors):
        lines = lines_of(text)
        for pattern in _PATTERNS.get(system, ()):
            found = _matches(pattern, lines)
            if len(found) == 1:
                return _accepted(system, found)
            if found:
                return None
        if not (terse or system in _BARE_BY_ITSELF):
            lines = [line for line in lines if re.search(r"\d", line)]
            if len(lines) != 1:
                continue
        found = _matches(_BARE[system], lines) if system in _BARE else {}
        if found:
            return _accepted(system, found) if len(found) == 1 else None
    return None


def _matches(pattern: str, lines: list[str]) -> dict[str, str]:
    """{id: cluster} of the matches of a pattern."""
    return {
        match["id"]: match.groupdict().get("cluster") or ""
        for line in lines
        for match in re.finditer(pattern, line, re.ASCII)
    }


def is_id(job_id: str) -> bool:
    """Whether a job can have this id: batch systems count from 1."""
    return bool(job_id.strip("0."))


def _accepted(system: str, found: dict[str, str]) -> Accepted | None:
    ((job_id, cluster),) = found.items()
    if not is_id(job_id):
        return None
    return Accepted(job_id + _SUFFIX.get(system, ""), cluster)

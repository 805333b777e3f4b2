"""Asks the batch system about a job, without submitting one."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass

from ...command.spelling import question
from ..jobs import commands
from ..jobs.queues import QUEUES, Queue
from ..jobs.surroundings import for_commands, for_submission
from .findings import Findings

#: Longest time for one question, in seconds.
SECONDS = 10.0
_SUBMIT = {
    **{"slurm": "sbatch", "sge": "qsub", "oar": "oarsub", "pbs": "qsub"},
    **{"moab": "msub", "lsf": "bsub", "htcondor": "condor_submit"},
}
_USABLE = ("idle", "mixed", "allocated", "completing", "mix", "alloc", "comp")


@dataclass(frozen=True)
class Job:
    """What is known of a job; the script is empty if the parameters are wrong."""

    system: str
    script: str
    partition: str | None
    #: Options for all commands, such as ``--clusters=other``.
    options: tuple[str, ...] = ()


def look_at_commands(findings: Findings, system: str) -> bool:
    """Report commands that are missing; return whether the batch system can be asked."""
    queue: Queue = QUEUES[system]
    search = queue.search("NAME") if queue.search else []
    wanted = [
        (_SUBMIT[system], "submits jobs"),
        (queue.query[0], "tells their states"),
        (queue.cancel[0], "cancels them"),
        *([(search[0], "finds them by their name")] if search else []),
    ]
    merged: dict[str, list[str]] = {}
    for command, purpose in wanted:
        merged.setdefault(command, []).append(purpose)
    missing = {
        name: what for name, what in merged.items() if shutil.which(name) is None
    }
    for name, what in missing.items():
        findings.problem(
            f"{name}, which {' and '.join(what)}: is not on PATH = "
            f"{os.environ.get('PATH', '')!r}; wanted is the folder of the commands of "
            f"{system}"
        )
    return not missing


def ask(findings: Findings, job: Job) -> None:
    """Ask about partition and job, each question with a time limit."""
    if job.system == "slurm":
        usable = _ask_sinfo(findings, job)
        if job.script and usable is not None:
            _test(findings, job, ["sbatch", "--test-only"], certain=usable)
    elif job.system == "sge":
        if job.script:
            _test(findings, job, ["qsub", "-w", "v"], certain=False)
    elif job.system == "oar":
        _ask_oarnodes(findings)
    else:
        findings.facts.append(
            f"The batch system was not asked: no command of {job.system} is known that "
            "answers without a submission"
        )


def _run(
    findings: Findings, command: list[str], environment: dict[str, str]
) -> commands.Result | None:
    try:
        return asyncio.run(commands.run(command, SECONDS, environment=environment))
    except commands.CommandFailed as error:
        findings.warnings.append(f"The batch system has not answered: {error}")
        return None


def _ask_sinfo(findings: Findings, job: Job) -> bool | None:
    """Whether all nodes of the partition can be used; None if a job is hopeless."""
    command = ["sinfo", *job.options, "--noheader", "--format=%R|%a|%T|%l|%c|%m|%D|%P"]
    result = _run(findings, command, for_commands("slurm", os.environ))
    if result is None:
        return None
    if result.code:
        findings.warnings.append(f"sinfo answered: {_text(result)}")
        return None
    rows = [line.split("|") for line in result.output.splitlines()]
    rows = [row for row in rows if len(row) == 8]
    known = sorted({row[0] for row in rows})
    wanted = job.partition.split(",") if job.partition else []
    unknown = [name for name in wanted if name not in known]
    if unknown:
        findings.problem(
            f"partition = {job.partition!r}: SLURM has no {', '.join(unknown)}"
            f"{question(unknown[0], known)}; allowed is one of {', '.join(known)}"
        )
        return None
    if wanted:
        rows = [row for row in rows if row[0] in wanted]
    else:
        rows = [row for row in rows if row[7].endswith("*")]
    for name, up, state, limit, cores, memory, count, _ in rows:
        findings.facts.append(
            f"sinfo: partition {name} ({up}, time limit {limit}) has {count} nodes "
            f"{state}, with {cores} cores and {memory} MB"
        )
    return bool(rows) and all(row[1] == "up" and row[2] in _USABLE for row in rows)


def _test(findings: Findings, job: Job, command: list[str], *, certain: bool) -> None:
    """Hand in the script for a test; `certain` says that a refusal will not pass by."""
    environment = for_submission(job.system, os.environ, job.script)
    with tempfile.NamedTemporaryFile(
        "w", suffix=".sh", errors="surrogateescape"
    ) as file:
        file.write(job.script)
        file.flush()
        result = _run(findings, [*command, file.name], environment)
    if result is None:
        return
    shown = " ".join(command)
    if not result.code:
        findings.facts.append(f"{shown}: {_text(result)}")
    elif certain or "nvalid" in _text(result):
        findings.problem(f"{shown} refuses the job script: {_text(result)}")
    else:
        findings.warnings.append(
            f"{shown} refuses the job script now, which may pass when other nodes are "
            f"there: {_text(result)}"
        )


def _ask_oarnodes(findings: Findings) -> None:
    result = _run(findings, ["oarnodes", "-J"], for_commands("oar", os.environ))
    if result is None:
        return
    try:
        if result.code:
            raise ValueError(f"code {result.code}")
        resources = json.loads(result.output)
        if isinstance(resources, dict):
            resources = list(resources.values())
        states = Counter(each["state"] for each in resources)
        nodes = {each["network_address"] for each in resources}
    except (ValueError, KeyError, TypeError) as error:
        findings.warnings.append(f"oarnodes answered ({error}): {_text(result)}")
        return
    counted = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    findings.facts.append(f"oarnodes: {len(nodes)} nodes, their resources: {counted}")
    if not states["Alive"]:
        findings.warnings.append("oarnodes: no resource is Alive, so jobs would wait")


def _text(result: commands.Result) -> str:
    said = " / ".join(
        line.strip()
        for text in (result.output, result.errors)
        for line in text.splitlines()
        if line.strip()
    )
    return said[:500] or "nothing"

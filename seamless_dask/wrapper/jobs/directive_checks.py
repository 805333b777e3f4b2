"""Checks directives and prologue lines as people copy them from job scripts.

A directive with its mark (``#SBATCH --gres=gpu:1``) would become a comment: the job would
silently get no GPU. So the mark is removed, or the directive refused. Pure.
"""

from __future__ import annotations

import re

#: The mark of the lines in a job script that the batch system reads.
MARKS = {
    "slurm": "#SBATCH",
    "sge": "#$",
    "oar": "#OAR",
    "pbs": "#PBS",
    "lsf": "#BSUB",
    "moab": "#MSUB",
}
#: Moab also reads lines with the mark of PBS.
_ALSO = {"moab": "#PBS"}
_ANY_MARK = re.compile(r"\s*#\s*(?:SBATCH|PBS|OAR|BSUB|MSUB|COBALT|PJM|\$)(?=\s|-|$)")
#: Options that turn one job into several, on systems where we cannot track that.
_ARRAYS = {
    "sge": r"-t\b",
    "oar": r"--array(?:-param-file)?\b",
    "pbs": r"-[Jt]\b",
    "moab": r"-t\b",
    "lsf": r"-J\s*\S*\[",
}
#: Options with which the command that submits does not return, or submits no job.
_USELESS = {
    "slurm": r"--wait(?![\w-])|-W\b|--test-only\b",
    "sge": r"-sync\s+y|-now\s+y|-verify\b|-w\s+[vp]\b",
    "oar": r"-I\b|--interactive\b|-C\b|--connect\b",
    "pbs": r"-I\b|-W\s*block=true",
    "moab": r"-I\b",
    "lsf": r"-K\b|-I[ps]?\b",
}


def unmarked(directive: str, system: str) -> str:
    """The directive without the mark of its own batch system, and without margins."""
    text = directive.strip()
    for mark in filter(None, (MARKS.get(system), _ALSO.get(system))):
        match = re.match(re.escape(mark) + r"(?:\s+|(?=-))", text)
        if match:
            return text[match.end() :].strip()
    return text


def directive_problems(directives: list[str], system: str, field: str) -> list[str]:
    """Problems with directives for the head of a job script.

    Parameters
    ----------
    directives
        As the user wrote them.
    system
        The batch system.
    field
        The name of the setting that has them.
    """
    problems = []
    cleaned = [unmarked(item, system) for item in directives]
    after_condition = False
    for written, item in zip(directives, cleaned, strict=True):
        reason = "" if after_condition else _reason(item, system)
        if reason:
            problems.append(f"{field} = {written!r}: {reason}")
        after_condition = system == "oar" and item == "-p" and not after_condition
    if after_condition:
        problems.append(f"{field} = '-p': needs a condition behind it")
    return problems


def _reason(item: str, system: str) -> str:
    if not item or item == MARKS.get(system):
        return "is empty"
    if item.startswith("#"):
        own = MARKS.get(system)
        if _ANY_MARK.match(item):
            return f"is marked for another batch system, this one is {system}"
        hint = f"leave out what is before the option (the mark {own} may stay)"
        return f"would be a comment; {hint if own else 'leave it out'}"
    if system == "htcondor":
        if not re.fullmatch(r"[+\w.]+\s*=.*", item):
            return "allowed is NAME = VALUE"
        return ""
    if not item.startswith("-"):
        return "allowed is an option that begins with -"
    if re.match(_ARRAYS.get(system, "(?!)"), item):
        return "makes several jobs of one; maximum_jobs says how many jobs there are"
    if re.match(_USELESS.get(system, "(?!)"), item):
        return "is not possible here: the wrapper needs the id of the job at once"
    return ""


def prologue_problems(lines: list[str], system: str, field: str) -> list[str]:
    """Problems with shell lines that are to run before the worker."""
    problems = []
    for line in lines:
        if _ANY_MARK.match(line):
            problems.append(
                f"{field} = {line!r}: is read by nobody there; write it into "
                "job_extra_directives"
            )
        elif system == "htcondor" and re.search(r"(?:^|\s)#", line):
            problems.append(
                f"{field} = {line!r}: HTCondor has all lines in one, so a comment would "
                "swallow what follows"
            )
    return problems


def option_problem(value: str | None, field: str, system: str) -> list[str]:
    """Problems with a value that is written after one of our options."""
    if value is None or not re.match(r"\s*[-#]|.*\s-", value):
        return []
    return [f"{field} = {value!r}: allowed is the value alone, without its option"]

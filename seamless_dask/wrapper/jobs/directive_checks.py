"""Checks directives and prologue lines as people copy them from job scripts.

A directive with its mark (``#SBATCH --gres=gpu:1``) would become a comment: the job would
silently get no GPU. So the mark is removed, or the directive refused. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .options import Option, options
from .prologue_checks import is_data

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
_ANYTHING = re.compile("")
#: Options that turn one job into several, on systems where we cannot track that, with a
#: pattern that is found in such values.
_ARRAYS: dict[str, dict[str, re.Pattern[str]]] = {
    "sge": {"-t": _ANYTHING},
    "oar": {"--array": _ANYTHING, "--array-param-file": _ANYTHING},
    "pbs": {"-J": _ANYTHING, "-t": _ANYTHING},
    "moab": {"-t": _ANYTHING},
    "lsf": {"-J": re.compile(r"\[")},
}
_BLOCK = re.compile(r"(?i)(?:^|[,\s])(?:block|interactive)\s*=\s*[\"']?(?:t|y|1)")
_YES = re.compile(r"(?i)^[^n]")
#: Options with which the command that submits does not return, submits no job, or does
#: not say its id.
_USELESS: dict[str, dict[str, re.Pattern[str]]] = {
    "slurm": dict.fromkeys(
        ("--wait", "--test-only", "--quiet", "--help", "--usage", "--version"),
        _ANYTHING,
    ),
    "sge": {
        **{"-sync": _YES, "-now": _YES, "-w": re.compile(r"^[vp]")},
        **dict.fromkeys(("-verify", "-help"), _ANYTHING),
    },
    "oar": dict.fromkeys(
        ("--interactive", "--connect", "--resubmit", "--help", "--version"), _ANYTHING
    ),
    "pbs": {**dict.fromkeys(("-I", "-G", "-z"), _ANYTHING), "-W": _BLOCK},
    "moab": {**dict.fromkeys(("-I", "-K", "-z"), _ANYTHING), "-W": _BLOCK},
    "lsf": dict.fromkeys(
        ("-K", "-I", "-Ip", "-Is", "-IS", "-ISp", "-ISs", "-IX", "-h", "-V"), _ANYTHING
    ),
}
#: Options with which jobs are held in the queue until a person releases them.
_HOLDS: dict[str, dict[str, re.Pattern[str]]] = {
    "slurm": {"--hold": _ANYTHING, "--priority": re.compile(r"^0+$")},
    "sge": {"-h": _ANYTHING},
    "oar": {"--hold": _ANYTHING},
    "pbs": {"-h": _ANYTHING},
    "moab": {"-h": _ANYTHING},
    "lsf": {"-H": _ANYTHING},
}
_HOLD_OF_CONDOR = re.compile(r"(?i)hold\s*=\s*[\"']?(?:t|y|1)")
_HELD = (
    "would hold every job in the queue: none would start, and each would be replaced"
)


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
        after_condition = not after_condition and needs_condition(item, system)
    if after_condition:
        problems.append(f"{field} = {written!r}: needs a condition behind it")
    return problems


def needs_condition(item: str, system: str) -> bool:
    """Whether the next directive is the condition of this one, as OAR allows it."""
    found = options(item, system)[-1:] if system == "oar" else []
    return [(option.names, option.value) for option in found] == [(("--property",), "")]


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
        return _HELD if _HOLD_OF_CONDOR.match(item) else ""
    if not item.startswith("-"):
        return "allowed is an option that begins with -"
    found = options(item, system)
    if _has(found, _ARRAYS.get(system, {})):
        return "makes several jobs of one; maximum_jobs says how many jobs there are"
    if _has(found, _USELESS.get(system, {})):
        return "is not possible here: the wrapper needs the id of the job at once"
    if _has(found, _HOLDS.get(system, {})):
        return _HELD
    return ""


def _has(found: list[Option], refused: Mapping[str, re.Pattern[str]]) -> bool:
    return any(
        name in refused and refused[name].search(option.value)
        for option in found
        for name in option.names
    )


def prologue_problems(lines: list[str], system: str, field: str) -> list[str]:
    """Problems with shell lines that are to run before the worker."""
    problems = []
    for index, line in enumerate(lines):
        if _ANY_MARK.match(line) and not is_data(lines, index):
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

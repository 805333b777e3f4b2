"""Finds a prologue that would swallow the worker's command, or end the job before it.

bash reads the lines, without running them, and its messages are passed on. Without bash
there is no check.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import shutil
import subprocess

logger = logging.getLogger(__name__)

#: How long bash may take to read a prologue, in seconds.
PATIENCE = 10.0
#: A line like this ends the shell: ``exit`` alone, or with a number; ``exec`` with a
#: command. In a pipeline, or in the background, they end only a part of it.
_ENDS = re.compile(
    r"""[ \t]*(?:
        exit (?:[ \t]+["']?[\w$?]+["']?)? [ \t]* (?:;(?!;).*|[ \t]\#.*)? (?:\n|$)
        | exec [ \t]+ (?:-[cl]+[ \t]+|-a[ \t]+\S+[ \t]+)*
          (?!\d*[<>]) [\w./~] (?:[^|&\\\n(]|[<>]&|&>)* (?:\n|$)
    )""",
    re.VERBOSE,
)
#: Here these words may mean something else, or ``exec`` may go on after a failure.
_CHANGED = re.compile(
    r"\b(?:exit|exec)[ \t]*\(|\bfunction[ \t]+(?:exit|exec)\b|"
    r"\balias[ \t].*\b(?:exit|exec)=|\bexecfail\b"
)
#: A word that is an error at the beginning of a command, and nothing special elsewhere.
_SENTINEL = "}"
_FILE = "/dev/stdin"


def shell_problems(
    lines: list[str], system: str, field: str, shebang: str
) -> list[str]:
    """Reasons why a command after these lines would not be run.

    Parameters
    ----------
    lines
        Shell lines.
    system
        The batch system.
    field
        The name of the setting that has these lines.
    shebang
        The first line of job scripts; lines for other shells are not checked.
    """
    ours = system == "htcondor" or re.search(r"[/ ](?:ba|da)?sh\b", shebang)
    if not lines or not ours:
        return []
    # HTCondor has all lines in one
    text = "; ".join(lines) if system == "htcondor" else "\n".join(lines)
    complaint = _complaint(text)
    if complaint:
        number, said = complaint
        line = _line(lines, number) if system != "htcondor" else text
        return [
            f"{field} = {line!r}: the worker would not start behind it; bash says "
            f"(line {number}): {said}"
        ]
    if system == "htcondor":
        return []
    if _CHANGED.search(text):
        return []
    for index, line in enumerate(lines):
        # inside an "if" or a function, the lines before it are not complete
        if _ENDS.match(line) and _is_complete("\n".join(lines[:index])):
            return [
                f"{field} = {line!r}: ends the job before its worker starts; only under "
                "a condition, as in [ -d /data ] || exit 1, is it possible"
            ]
    return []


def _line(lines: list[str], number: int) -> str:
    """The item that has a line of the text; the last one if it ended too early."""
    behind = 0
    for item in lines:
        behind += item.count("\n") + 1
        if number <= behind:
            return item
    return lines[-1]


def _is_complete(text: str) -> bool:
    return not text or _complaint(text) is None


@functools.lru_cache(maxsize=64)
def _complaint(text: str) -> tuple[int, str] | None:
    """The number of a line, and its problem; None if a command may follow the text."""
    said = _bash(text)
    if said:
        return said
    last = text.splitlines()[-1] if text.strip() else ""
    trailing = len(last) - len(last.rstrip("\\"))
    if trailing % 2 and _bash(f"{text}\n{_SENTINEL}") is None:
        return text.count("\n") + 1, "the backslash at the end joins the next line"
    return None


def _bash(text: str) -> tuple[int, str] | None:
    """The first error of bash in a script: the number of a line and a sentence, or None."""
    program = shutil.which("bash")
    if program is None:
        return None
    try:
        done = subprocess.run(
            # patterns that "shopt -s extglob" allows, which is not run here
            [program, "--norc", "--noprofile", "-O", "extglob", "-n", _FILE],
            input=f"{text}\n".encode(errors="replace"),
            capture_output=True,
            timeout=PATIENCE,
            # without the user's variables, such as BASH_ENV, and warnings about locales
            env={"PATH": os.defpath, "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("The prologue of jobs could not be checked: %s", error)
        return None
    errors = done.stderr.decode(errors="replace")
    lines = errors.splitlines()
    # for a here document without an end, bash only warns
    if not lines or not (done.returncode or "here-document" in errors):
        return None
    match = re.match(r".*?: line (\d+): (.*)", lines[0])
    number, sentence = (int(match[1]), match[2]) if match else (1, lines[0])
    begin = re.search(r"here-document at line (\d+)", sentence)
    if begin:
        number = int(begin[1])
    return number, "".join(c if c.isprintable() else "?" for c in sentence)

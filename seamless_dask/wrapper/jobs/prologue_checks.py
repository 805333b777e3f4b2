"""Finds a prologue that would swallow the worker's command, or end the job before it.

bash reads the lines, without running them, and its messages are passed on. It also writes
them anew, one command per line, so that an `exit` is found that is always executed. One
under a condition or in a function may be meant: if it ends the job, the log says that
the job has ended without a worker. Without bash there is no check.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)

#: How long bash may take to read a prologue, in seconds.
PATIENCE = 10.0
#: What may stand before a command and changes nothing of that.
_BEFORE = (
    r"(?:(?:!|command|builtin|time(?:\ -p)?"
    r"""|[A-Za-z_]\w*\+?=(?:"[^"]*"|'[^']*'|[^\s"'`;&|<>()]*))\ )*"""
)
#: A command as bash writes it that ends the shell: ``exit``, ``exec`` with a command, or a
#: signal to itself. In a pipeline or in the background it ends something else; behind ||
#: and && it may not be executed.
_ENDS = re.compile(
    _BEFORE
    + r"""(?:
        exit (?:\ (?:[^|&]|[<>]&)*)?
        | exec (?:\ -[cl]+|\ -a\ \S+)* \ (?!\d*[<>&{]) [^-\s](?:[^|&(]|[<>]&|&>)*
        | kill\ (?:-(?:s\ )?(?:9|15|(?:SIG)?(?:KILL|TERM))\ )?"?\$\$"?
    )""",
    re.VERBOSE,
)
#: ``set -n``, after which bash only reads
_READS_ONLY = re.compile(
    r"(?:(?:command|builtin) )*set (?:[-+][A-Za-z]*o \w+ |[-+][A-Za-z]+ )*"
    r"(?:-[A-Za-z]*n[A-Za-z]*|-[A-Za-z]*o noexec)(?: [^|&]*)?"
)
#: A text in quotes that bash executes in this shell, at once or before the next command
_TEXT = r"""(?:'([^']*)'|"([^"$`\\]*)")"""
_EXECUTES = re.compile(rf"eval {_TEXT}|trap (?:-- )?{_TEXT}(?: \w+)* DEBUG(?: \w+)*")
#: The first command of a condition, and loops whose body is executed at least once
_CONDITION = re.compile(r"(?:if|while|until) (?P<command>.*); (?:then|do)")
_ALWAYS = ("while :; do", "while true; do", "until false; do")
_FOR = re.compile(r"for \w+ in(?: [\w./:-]+)+;")
_LEAVES_LOOP = re.compile(r"\b(?:break|continue|return)\b")
_ENDS_COMPOUND = re.compile(r"(?:fi|done)(?:[^|&]|[<>]&)*")
#: Texts without these words need no closer look.
_WORTH_A_LOOK = re.compile(r"\b(?:exit|exec|noexec|kill)\b|\bset\b.*[ \t]-\w*n")
_BEGINS_GROUP = "{"
_ENDS_GROUP = re.compile(r"\}(?:[^|&]|[<>]&)*")
#: Here these words may mean something else, or ``exec`` may go on after a failure.
_CHANGED = re.compile(
    r"\b(?:exit|exec|eval|kill|set|trap)[ \t]*\(|"
    r"\bfunction[ \t]+(?:exit|exec|eval|kill|set|trap)\b|"
    r"\balias[ \t].*\b(?:exit|exec|eval|kill|set|trap)=|\bexecfail\b"
)
#: In place of the worker's command: one that is right, and one that is an error at the
#: beginning of a command, and nothing special elsewhere.
_COMMAND = "worker"
_SENTINEL = "}"
_FILE = "/dev/stdin"
_BACKSLASH = "the backslash at the end joins the next line"


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
    if system == "htcondor":  # has all lines in one
        lines = ["; ".join(lines)]
    problems = []
    left = list(lines)
    while left and (complaint := _complaint("\n".join(left))):
        number, said = complaint
        index = _index(left, number)
        problems.append(
            f"{field} = {left[index]!r}: the worker would not start behind it; bash says "
            f"(line {number}): {said}"
        )
        if "end of file" in said or "here-document" in said:
            left = left[:index]  # the cause is anywhere before
            break
        if said == _BACKSLASH:
            left[index] = left[index].rstrip()[:-1]
        else:
            del left[index]
    if not _complaint("\n".join(left)):
        problems += [
            f"{field} = {line!r}: {reason}" for line, reason in _ending(left).items()
        ]
    return problems


def is_data(lines: list[str], index: int) -> bool:
    """Whether a line is the text of a here document, or in quotes; False without bash."""
    marked = [*lines[:index], f"{_SENTINEL} {lines[index]}", *lines[index + 1 :]]
    return shutil.which("bash") is not None and not _bash("\n".join(marked))


def _ending(lines: list[str]) -> dict[str, str]:
    """The lines after which certainly nothing is executed, and why."""
    text = "\n".join(lines)
    if not _WORTH_A_LOOK.search(text) or _CHANGED.search(text):
        return {}
    caught = "trap" in text  # a signal may be meant for it
    found: dict[str, str] = {}
    for command in _commands(_written_anew(text)):
        if reason := _reason(command):
            if not (caught and command.startswith("kill ")):
                found[_line_of(command, lines)] = reason
    return found


def _reason(command: str) -> str:
    """Why nothing is executed behind a command; empty if it may be."""
    if _READS_ONLY.fullmatch(command):
        return "bash executes nothing behind it, so the worker would not start"
    first = re.split(r" (?:&&|\|\|) ", command)[0]
    # "a && b & c" is one line for bash
    background = re.search(r"(?<![&<>|])&(?![&>])", command[len(first) :])
    executed = _EXECUTES.fullmatch(command)
    inner = next(filter(None, executed.groups()), "") if executed else ""
    if (_ENDS.fullmatch(first) and not background) or _ending(inner.splitlines()):
        return (
            "ends the job before its worker starts; only under a condition, as in "
            "[ -d /data ] || exit 1, is it possible"
        )
    return ""


def _written_anew(text: str) -> list[str]:
    """A complete text as bash writes it, one command per line."""
    # The text is right by itself, so no bracket in it can end this function.
    function = f"f() {{\n{text}\n}}\ndeclare -f f"
    done = _run(function, "-O", "extglob")
    # "f () ", "{ ", ..., "}"
    return done.stdout.decode(errors="replace").splitlines()[2:-1] if done else []


def _commands(lines: list[str]) -> Iterator[str]:
    """The commands that are always executed if no one before them ends the shell."""
    begin = 0
    for end in range(1, len(lines) + 1):
        # a command with several lines, such as "if", or with a here document
        if _complaint("\n".join(lines[begin:end])):
            continue
        first, last = lines[begin].strip(), lines[end - 1].strip()
        if end - begin == 1:
            yield first.rstrip(";")
        elif first == _BEGINS_GROUP and _ENDS_GROUP.fullmatch(last):
            yield from _commands(lines[begin + 1 : end - 1])
        elif _ENDS_COMPOUND.fullmatch(last):
            yield from _inside(lines[begin:end])
        begin = end


def _inside(lines: list[str]) -> Iterator[str]:
    """The commands of an ``if`` or a loop that are executed in any case."""
    first = lines[0].strip()
    condition = _CONDITION.fullmatch(first)
    if condition:
        yield condition["command"]
    body = lines[2:-1] if _FOR.fullmatch(first) else lines[1:-1]
    always = first in _ALWAYS or _FOR.fullmatch(first)
    if always and not _LEAVES_LOOP.search("\n".join(body)):
        yield from _commands(body)


def _line_of(command: str, lines: list[str]) -> str:
    """The line that most probably has a command."""
    plain = [" ".join(line.split()) for line in lines]
    behind = re.compile(rf"(?:^|[;{{]) ?{re.escape(command)}(?! ?[|&])(?=\W|$)")
    similar = re.compile(r"(?:^|[;{]) ?(?:(?:!|command|builtin) )*ex(?:it|ec)\b")
    within = re.compile(
        rf"\b(?:if|while|until|do|then) {re.escape(command)}(?! ?[|&])(?=\W|$)"
    )
    tests: list[Callable[[str], object]] = [
        command.__eq__,
        behind.search,
        within.search,
        similar.search,
    ]
    for test in tests:
        for line, words in zip(lines, plain, strict=True):
            if test(words):
                return line
    return command


def _index(lines: list[str], number: int) -> int:
    """Which item has a line of the text; the last one if it ended too early."""
    behind = 0
    for index, item in enumerate(lines):
        behind += item.count("\n") + 1
        if number <= behind:
            return index
    return len(lines) - 1


@functools.lru_cache(maxsize=256)
def _complaint(text: str) -> tuple[int, str] | None:
    """The number of a line, and its problem; None if a command may follow the text."""
    if not text.strip() or shutil.which("bash") is None:
        return None
    if said := _bash(text):
        return said
    last = text.count("\n") + 1
    line = text.splitlines()[-1]
    backslash = (len(line) - len(line.rstrip("\\"))) % 2
    if said := _bash(f"{text}\n{_COMMAND}"):
        return (last, _BACKSLASH) if backslash else said
    done = _run(f"{text}\n{_SENTINEL}", "-n", "-O", "extglob")
    if done is None or done.returncode:
        return None  # it begins a command there
    return (last, _BACKSLASH) if backslash else _sentence(done)


def _bash(text: str) -> tuple[int, str] | None:
    """The first error of bash in a script: the number of a line and a sentence, or None."""
    done = _run(text, "-n", "-O", "extglob")
    return _sentence(done) if done is not None and done.returncode else None


def _run(text: str, *options: str) -> subprocess.CompletedProcess[bytes] | None:
    """Have bash read a text; None if that is not possible."""
    program = shutil.which("bash")
    if program is None:
        return None
    try:
        return subprocess.run(
            # patterns that "shopt -s extglob" allows, which is not run here
            [program, "--norc", "--noprofile", *options, _FILE],
            input=f"{text}\n".encode(errors="replace"),
            capture_output=True,
            timeout=PATIENCE,
            # without the user's variables, such as BASH_ENV, and warnings about locales
            env={"PATH": os.defpath, "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("The prologue of jobs could not be checked: %s", error)
        return None


def _sentence(done: subprocess.CompletedProcess[bytes]) -> tuple[int, str]:
    """The number of a line, and what bash says about it first."""
    lines = done.stderr.decode(errors="replace").splitlines()
    first = lines[0] if lines else "it takes the worker's command for something else"
    match = re.match(r".*?: line (\d+): (.*)", first)
    number, sentence = (int(match[1]), match[2]) if match else (1, first)
    begin = re.search(r"here-document at line (\d+)", sentence)
    if begin:
        number = int(begin[1])
    return number, "".join(c if c.isprintable() else "?" for c in sentence)

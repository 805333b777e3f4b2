"""How the command can end: its exit codes and the errors that lead to them."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Any


class ExitCode(IntEnum):
    """Exit codes of ``seamless-dask-wrapper``; shown by ``--help``."""

    CLEAN = 0
    NO_STATUS_FILE = 1
    USAGE = 2
    BAD_STATUS_FILE = 3
    BAD_CLUSTER_STRING = 4
    NO_FREE_PORT = 5
    START_FAILED = 6
    LOST = 7
    FORCED = 8
    JOBS_LEFT = 9
    NO_OUTPUT = 10


MEANINGS: dict[ExitCode, str] = {
    ExitCode.CLEAN: "ended as asked: a signal, the inactivity timeout, or a client "
    "that shut the scheduler down",
    ExitCode.NO_STATUS_FILE: "the status file did not appear in time",
    ExitCode.USAGE: "the command line is wrong",
    ExitCode.BAD_STATUS_FILE: "the status file, clusters.yaml or the parameters cannot be "
    "used",
    ExitCode.BAD_CLUSTER_STRING: "the cluster string names no usable cluster class",
    ExitCode.NO_FREE_PORT: "--host or --port-range offers no free port",
    ExitCode.START_FAILED: "the cluster could not be started",
    ExitCode.LOST: "another process removed or took over the status file, or the cluster "
    "broke down; everything was ended",
    ExitCode.FORCED: "a second signal arrived before everything had ended, or a "
    "process could not be ended",
    ExitCode.JOBS_LEFT: "the batch system did not confirm that all jobs have gone; the "
    "log names the jobs that may be left",
    ExitCode.NO_OUTPUT: "what --dry-run or another option prints cannot be written",
}


class WrapperError(Exception):
    """An error that is shown to the user as a sentence, without traceback."""

    exit_code = ExitCode.START_FAILED


class StatusFileMissing(WrapperError):
    """The caller wrote no status file for us."""

    exit_code = ExitCode.NO_STATUS_FILE


class StatusFileUnusable(WrapperError):
    """The status file is there, but cannot be understood."""

    exit_code = ExitCode.BAD_STATUS_FILE


class StatusFileLost(WrapperError):
    """The status file was removed, or now belongs to another process."""

    exit_code = ExitCode.LOST


class ParametersError(WrapperError):
    """Some parameters are missing or wrong; the message lists all of them.

    Parameters
    ----------
    problems
        A sentence for each.
    wrong
        Names of the parameters whose values are not allowed.
    rest
        The `Parameters` without these; None if they need no further check.
    """

    exit_code = ExitCode.BAD_STATUS_FILE

    def __init__(
        self, problems: list[str], wrong: Iterable[str] = (), rest: Any = None
    ):
        self.problems = problems
        self.wrong = frozenset(wrong)
        self.rest = rest
        super().__init__(_listed("The parameters have", problems))


def _listed(who: str, problems: list[str]) -> str:
    count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
    lines = "\n".join(f"- {problem}" for problem in problems)
    return f"{who} {count}:\n{lines}"


class ClustersFileError(WrapperError):
    """``clusters.yaml`` does not describe the cluster; the message lists all problems."""

    exit_code = ExitCode.BAD_STATUS_FILE

    def __init__(self, problems: list[str]):
        self.problems = problems
        super().__init__(_listed("The configuration has", problems))


class ClusterStringError(WrapperError):
    """The cluster string names no cluster class that the wrapper can start."""

    exit_code = ExitCode.BAD_CLUSTER_STRING


class NoFreePort(WrapperError):
    """No port to listen on."""

    exit_code = ExitCode.NO_FREE_PORT


class StartFailed(WrapperError):
    """The cluster could not be started."""

    exit_code = ExitCode.START_FAILED

"""Finds resources of a waiting job because of which no other job can use its process.

Another job would see, end or take over the resources of the whole process: child
processes, locks of files, the state of foreign code. Runs inside each Seamless process.
"""

from __future__ import annotations

import logging
import os

from .state.process import ProcessState

logger = logging.getLogger(__name__)

LOCKS = "/proc/locks"


class JobState(ProcessState):
    """The global state of a Seamless process, and whether another job may use it."""

    def is_held(self) -> bool:
        """Say whether the waiting job holds a resource that cannot be saved."""
        return bool(self.foreign_code()) or has_children() or has_locks()


def has_children() -> bool:
    """Say whether this process has child processes, ended ones included."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def has_locks() -> bool:
    """Say whether this process has locked files. Linux only; elsewhere it says no."""
    mine = str(os.getpid()).encode()
    try:
        with open(LOCKS, "rb") as file:
            # 1: POSIX  ADVISORY  WRITE 1234 08:01:56 0 EOF
            return any(line.split()[4:5] == [mine] for line in file)
    except OSError as error:
        logger.debug("File locks are not known: %r", error)
        return False

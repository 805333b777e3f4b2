"""What a job that waits holds in its process, so that no other one can execute there.

A guest would see, end or take over what belongs to the process as a whole: child
processes, locks of files, the state of foreign code. Runs inside each Seamless process.
"""

from __future__ import annotations

import logging
import os

from .state.process import ProcessState

logger = logging.getLogger(__name__)

LOCKS = "/proc/locks"


class JobState(ProcessState):
    """What is global in a Seamless process, and whether it can be lent."""

    def is_held(self) -> bool:
        """Say whether the job that waits holds something that cannot be put aside."""
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
        logger.debug("Nobody tells of locks: %r", error)
        return False

"""The CPU time and memory that a Seamless process uses."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Collection
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import NamedTuple

import psutil

logger = logging.getLogger(__name__)


class Usage(NamedTuple):
    """The resources that this process has used so far.

    Attributes
    ----------
    cpu_user, cpu_system
        Seconds, with those of child processes that have ended.
    memory_peak
        Peak memory since `forget_memory_peak`, in bytes; None: the system does not
        provide it.
    child_peak
        Peak memory of the largest child process that has ended, ever, in bytes.
    """

    cpu_user: float
    cpu_system: float
    memory_peak: int | None
    child_peak: int


def now() -> Usage:
    """Return the resources that this process has used so far."""
    own, children = getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN)
    return Usage(
        own.ru_utime + children.ru_utime,
        own.ru_stime + children.ru_stime,
        # On other systems it is the peak of the whole life of the process.
        own.ru_maxrss * 1024 if sys.platform == "linux" else None,
        children.ru_maxrss * 1024,
    )


def forget_memory_peak() -> None:
    """Reset the peak memory of this process in the system. Linux only."""
    try:
        descriptor = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, b"5")
        finally:
            os.close(descriptor)
    except OSError as error:
        logger.debug("The peak of memory stays that of all jobs: %r", error)


def cpu_without(threads: Collection[int]) -> float:
    """Return the seconds of CPU time of this process without those of some threads.

    Parameters
    ----------
    threads
        Their native ids. CPU time of threads that have ended stays included.
    """
    used = now()
    theirs = sum(
        thread.user_time + thread.system_time
        for thread in psutil.Process().threads()
        if thread.id in threads
    )
    return used.cpu_user + used.cpu_system - theirs

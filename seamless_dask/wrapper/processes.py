"""Finds and ends the processes below this one.

The operating system does not always say what runs, for instance if this process has too
many open files. That is no reason to give up the rest of the end: a process of which
nothing is known counts as running.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

import psutil

from ..cluster.process_state import has_ended

logger = logging.getLogger(__name__)


def descendants() -> set[psutil.Process]:
    """All processes below this one that run; none if the system does not say."""
    try:
        found = psutil.Process().children(recursive=True)
    except OSError as error:
        logger.error("The processes below the wrapper cannot be listed: %s", error)
        return set()
    return alive(found)


def alive(processes: Iterable[psutil.Process]) -> set[psutil.Process]:
    """The processes that still run. A process is identified by pid and start time.

    The resource tracker of multiprocessing is left out: it cleans up after the others
    and ends with the last of them.
    """
    left = set()
    for process in processes:
        try:
            if not has_ended(process) and not _is_resource_tracker(process):
                left.add(process)
        except psutil.NoSuchProcess:
            continue
        except psutil.AccessDenied:
            left.add(process)
        except OSError as error:
            logger.debug("Process %d cannot be looked at: %s", process.pid, error)
            left.add(process)
    return left


def kill(processes: Iterable[psutil.Process], seconds: float) -> set[psutil.Process]:
    """Kill processes and wait for their end; return those that still run."""
    targets = set(processes)
    for process in targets:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
        except psutil.AccessDenied as error:
            logger.error("May not kill process %d: %s", process.pid, error)
        except OSError as error:
            logger.error("Could not kill process %d: %s", process.pid, error)
    deadline = time.monotonic() + seconds
    # not psutil.wait_procs: it waits for zombies that no parent collects
    while (left := alive(targets)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def _is_resource_tracker(process: psutil.Process) -> bool:
    return any("multiprocessing.resource_tracker" in part for part in process.cmdline())

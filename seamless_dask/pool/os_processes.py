"""Operating system functions for processes: how they end, and their descendants.

Knows nothing of Seamless. On Linux, a file descriptor of the process (a pidfd) signals
its end; elsewhere, multiprocessing's sentinel does, which may be late if the process has
forked.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Iterable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import psutil

from ..cluster.environment import MARKER_ENV
from ..cluster.process_state import has_ended

logger = logging.getLogger(__name__)

#: passes of `kill_marked`: descendants may start while others are being killed
SWEEPS = 5
#: seconds that one pass waits for the killed processes to end
SWEEP_SECONDS = 0.1

_EXPLANATIONS = {
    signal.SIGKILL: "by the kernel because memory was short, or by hand",
    signal.SIGSEGV: "segmentation fault",
    signal.SIGBUS: "bus error",
    signal.SIGFPE: "arithmetic error in compiled code",
    signal.SIGILL: "illegal instruction",
    signal.SIGABRT: "compiled code gave up",
}


class Sentinel:
    """A file descriptor that becomes readable when a process ends.

    Parameters
    ----------
    process
        A child of this process that has been started.
    """

    def __init__(self, process: BaseProcess) -> None:
        self._own = False
        self.fd: int = process.sentinel
        if hasattr(os, "pidfd_open") and process.pid is not None:
            try:
                self.fd = os.pidfd_open(process.pid)
            except OSError as error:
                logger.debug("No descriptor of process %s: %r", process.pid, error)
            else:
                self._own = True

    def close(self) -> None:
        """Give the descriptor back."""
        if self._own:
            self._own = False
            os.close(self.fd)


def describe_exit(code: int | None) -> str:
    """Describe in words how a process ended.

    Parameters
    ----------
    code
        As in `multiprocessing.Process.exitcode`; None if it is not known.
    """
    if code is None:
        return "ended"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        number = signal.Signals(-code)
    except ValueError:
        return f"was killed by signal {-code}"
    explanation = _EXPLANATIONS.get(number)
    suffix = f" ({explanation})" if explanation else ""
    return f"was killed by {number.name}{suffix}"


def hang_up(connection: Connection) -> None:
    """Shut down both ends of a pipe, even if other processes have inherited them.

    A thread of ours that is blocked in reading or writing is woken; data that has been
    received already can still be read.
    """
    try:
        with socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)
    except OSError as error:
        # Closed already, here or there.
        logger.debug("Hanging up: %r", error)


def tree(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants; empty if it is gone."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def remaining(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return the processes that have not ended; collect the exit codes of children."""
    _, there = psutil.wait_procs(list(processes), timeout=0)
    return [process for process in there if not has_ended(process)]


def kill(processes: Iterable[psutil.Process]) -> None:
    """Send SIGKILL to the processes that still exist."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def kill_tree(pid: int, marker: str) -> None:
    """Kill a process and its descendants; may take some 10 ms."""
    kill(tree(pid))
    kill_marked(marker)


def kill_marked(marker: str) -> None:
    """Kill all processes, also orphans, whose marker begins with `marker`."""
    for _ in range(SWEEPS):
        found = _marked(marker)
        if not found:
            return
        kill(found)
        deadline = time.monotonic() + SWEEP_SECONDS
        while remaining(found) and time.monotonic() < deadline:
            time.sleep(0.005)
    logger.warning("Processes that a transformation has started do not end: %s", found)


def _marked(marker: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if has_ended(process):
                continue
            if process.environ().get(MARKER_ENV, "").startswith(marker):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        except OSError as error:
            # Some systems refuse to show the environment with another exception.
            logger.debug("Environment of process %s: %r", process.pid, error)
    return found

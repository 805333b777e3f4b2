"""Finds threads and processes that a job leaves running when it ends.

Threads cannot be ended, so their Seamless process gets no other job. Processes are
killed. Helper processes that libraries keep for later are ended without a warning.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from multiprocessing import forkserver
from time import monotonic, sleep
from typing import Any

import psutil

from ..cluster.process_state import has_ended
from .holdings import has_children
from .job_identity import OWN_THREADS

#: seconds that threads have to end by themselves, and between two checks
THREADS_GRACE = 0.05
THREADS_PAUSE = 0.005
#: seconds to wait for the end of killed processes
PROCESSES_GRACE = 1.0
#: modules with a process that removes resources which other processes leave behind
TRACKERS = (
    "joblib.externals.loky.backend.resource_tracker",
    "loky.backend.resource_tracker",
)
#: prefix of the names of threads of event loops, ours included: a job's loop ends its own
LOOP_THREADS = "asyncio_"


class Leftovers:
    """Finds the threads that a job leaves running; made before the first job."""

    def __init__(self) -> None:
        self._threads = frozenset(sys._current_frames())

    def threads(
        self, own: Iterable[threading.Thread], others: Iterable[threading.Thread]
    ) -> list[str]:
        """Return a description of the threads that a job leaves running.

        Parameters
        ----------
        own
            Threads that its code is known to have started. There may be others.
        others
            Threads of jobs that wait in this process.
        """
        deadline = monotonic() + THREADS_GRACE
        excused = {thread.ident for thread in others}
        started = {thread.ident for thread in own}
        while True:
            names = self._running(excused, started)
            # A thread that is just being started has no frame yet.
            names += [t.name for t in own if t.ident is None]
            if not names:
                return []
            if monotonic() > deadline:
                return [f"threads: {', '.join(sorted(names))}"]
            sleep(THREADS_PAUSE)

    def _running(self, excused: set[int | None], started: set[int | None]) -> list[str]:
        names = []
        mine = threading.get_ident()
        for ident in sys._current_frames().keys() - self._threads - excused - {mine}:
            thread = threading._active.get(ident)  # type: ignore[attr-defined]
            if thread is None:
                names.append("one without a name")
            elif thread.name.startswith(LOOP_THREADS) and ident not in started:
                continue
            # The monitor of tqdm only watches progress bars, of which none is left.
            elif type(thread).__name__ != "TMonitor" and not is_ours(thread.name):
                names.append(thread.name)
        return names


def is_ours(name: str) -> bool:
    """Say whether a thread runs no code of users, by its name."""
    return name.startswith(OWN_THREADS)


def end_processes() -> list[str]:
    """Kill the descendants that a job leaves running; return their description."""
    if not has_children():
        return []
    server: Any = forkserver._forkserver
    trackers: list[Any] = [
        tracker
        for name in TRACKERS
        if (tracker := getattr(sys.modules.get(name), "_resource_tracker", None))
    ]
    kept = {tracker._pid for tracker in trackers}
    helpers = {server._forkserver_pid, *kept}
    names = []
    ended = []
    for process in psutil.Process().children(recursive=True):
        if process.pid in kept:
            continue
        ended.append(process)
        try:
            if not has_ended(process):
                if process.pid not in helpers:
                    names.append(f"{process.name()} ({process.pid})")
                process.kill()
        except psutil.NoSuchProcess:
            continue
    # This also collects their exit codes.
    psutil.wait_procs(ended, timeout=PROCESSES_GRACE)
    # Make these forget the ids of their processes.
    for helper in (server, *trackers):
        helper._stop()
    return [f"processes: {', '.join(names)}"] if names else []

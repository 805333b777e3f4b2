"""Ends the cluster, its jobs and all processes, in a limited time.

Processes that do not end by themselves are killed; jobs of a batch system that may be
left are named in the log.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from queue import Empty, SimpleQueue

import psutil

from . import processes
from .events import Event, Launched, News, SignalArrived, Started
from .guard import Guard, marked

logger = logging.getLogger(__name__)

#: remote-http-launcher waits 5 s after SIGINT before it uses more force; on a busy
#: machine the steps after this one also take time. Worker plugins need up to 2 s.
CLOSE_SECONDS = 2.5
KILL_SECONDS = 1.0
#: Time for a batch system to end its jobs: without a signal, and after one.
JOBS_SECONDS = 30.0
HURRIED_JOBS_SECONDS = 4.0
#: The part of this time that is for the cluster itself.
CLUSTER_SECONDS = 1.0
#: Time for processes to notice that their parent is gone.
NOTICE_SECONDS = 1.0
#: Time for the cluster to notice that its workers were killed.
FAREWELL_SECONDS = 0.3


class Closing:
    """Ends everything that the wrapper has started. `run` is called once.

    `events` is the queue of the main thread, `launched` the cluster if it has started,
    `starting` the thread that starts it, `news` the jobs that may be in the queue of a
    batch system; `hurried` says that a user or caller waits for the end.
    """

    def __init__(
        self,
        events: SimpleQueue[Event],
        *,
        guard: Guard | None,
        starting: threading.Thread | None,
        launched: Launched | None,
        news: News,
        hurried: bool,
    ):
        #: Jobs that may be left.
        self.news = news
        self._events = events
        self._guard = guard
        self._starting = starting
        self._launched = launched
        self._hurried = hurried
        #: The cluster was still starting when there was no time left.
        self.still_starting = False
        #: Another signal arrived while everything was ending.
        self._impatient = False

    def run(self) -> bool:
        """End the cluster and all processes.

        Returns False if that took a second signal, or if processes are left.
        """
        deadline = time.monotonic() + self._seconds()
        known = self._below()
        closer = self._close_in_time(deadline)
        known |= self._below()
        left = processes.alive(known)
        if closer is not None and not closer.is_alive():
            # the remaining processes were not asked to end: they must notice by themselves
            deadline = min(deadline, time.monotonic() + NOTICE_SECONDS)
        while left and not self._impatient and time.monotonic() < deadline:
            self._pass_time()
            left = processes.alive(left)
        if left:
            logger.warning(
                "Killing processes that did not end in time: %s.", _pids(left)
            )
        # repeatedly, because a process may have been starting another one
        deadline = time.monotonic() + KILL_SECONDS
        while left and time.monotonic() < deadline:
            left = processes.kill(left, KILL_SECONDS / 4) | self._below()
        if left:
            logger.error("Processes that could not be ended: %s.", _pids(left))
        if closer is not None:
            closer.join(FAREWELL_SECONDS)
        return not left and not self._impatient

    def _seconds(self) -> float:
        if not self.news.jobs and not self.news.doubtful:
            return CLOSE_SECONDS
        return HURRIED_JOBS_SECONDS if self._hurried else JOBS_SECONDS

    def _below(self) -> set[psutil.Process]:
        """All processes that this one has started, directly or not, except the guard."""
        found = processes.descendants()
        if self._guard is None:
            return found
        if self._guard.mark:
            found |= processes.alive(marked(self._guard.mark))
        return {process for process in found if process.pid != self._guard.pid}

    def _close_in_time(self, deadline: float) -> threading.Thread | None:
        """Close the cluster in a thread, which is returned, and wait for it."""
        while self._starting is not None and self._launched is None:
            # a cluster that is about to start is closed in good order afterwards
            if not self._starting.is_alive() and self._events.empty():
                break
            if self._impatient or time.monotonic() > deadline:
                self.still_starting = True
                logger.warning("The cluster was still starting: no orderly end.")
                break
            self._pass_time()
        if self._launched is None:
            return None
        closer = threading.Thread(
            target=self._close,
            args=(self._launched, deadline),
            name="cluster end",
            daemon=True,
        )
        closer.start()
        while closer.is_alive() and not self._impatient:
            if time.monotonic() > deadline:
                break
            self._pass_time()
        while not self._events.empty():  # its last news
            self._pass_time()
        return closer

    def _pass_time(self) -> None:
        """Wait a moment, and notice a cluster that started or another signal."""
        try:
            event = self._events.get(timeout=0.05)
        except Empty:
            return
        if isinstance(event, Started):
            self._launched = event.launched
        elif isinstance(event, News):
            self.news = event
        elif isinstance(event, SignalArrived):
            self._impatient = True
            logger.warning(
                "Received %s as well: no more waiting.",
                signal.Signals(event.number).name,
            )

    def _close(self, launched: Launched, deadline: float) -> None:
        try:
            if launched.jobs is not None:
                seconds = deadline - time.monotonic() - CLUSTER_SECONDS
                left = launched.cluster.sync(launched.jobs.end, max(seconds, 0.5))
                self._events.put(left)
            launched.cluster.close()
        except Exception:  # processes that are left are killed afterwards
            logger.exception("The cluster could not be closed in an orderly way")


def _pids(found: set[psutil.Process]) -> str:
    return ", ".join(str(process.pid) for process in found)

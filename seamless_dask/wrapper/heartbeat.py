"""The one thread that reads and writes the status file, once the wrapper has taken it.

The file may be in a file system that hangs, so the main thread, which has to answer
signals, only says what should be done. And it has to be touched in time whatever keeps
the other threads busy, such as imports and batch systems.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import NamedTuple

from .exit_codes import StatusFileLost, StatusFileUnusable
from .status_file import StatusFile

logger = logging.getLogger(__name__)

#: The launcher gives up on a file that has not been touched for 60 seconds.
TOUCH_SECONDS = 2.0
#: While running; also how long a removed file may go unnoticed.
RELAXED_TOUCH_SECONDS = 5.0
#: Time between two attempts at the end.
RETRY_SECONDS = 0.2

#: What is raised if something may work later.
Obstacle = OSError | StatusFileUnusable


class _Step(NamedTuple):
    take: Callable[[], None]
    complain: Callable[[Obstacle], None]


class Heartbeat:
    """Touches a status file, writes into it, and reports when it is lost.

    Each kind of step is tried again until it works, and complained of once until then.

    Parameters
    ----------
    status_file
        The file. Its process is written into it first.
    on_lost
        Called once, in the thread of the heartbeat, when the file is no longer ours.
    seconds
        Time between two touches, and between two attempts.
    """

    def __init__(
        self,
        status_file: StatusFile,
        on_lost: Callable[[StatusFileLost], None],
        seconds: float = TOUCH_SECONDS,
    ):
        self._status_file = status_file
        self._on_lost = on_lost
        self._seconds = seconds
        #: Guards the steps, and tells the thread of new ones. Never held during input or
        #: output.
        self._changed = threading.Condition()
        #: By kind, in the order in which they are taken.
        self._steps = {"claim": _Step(status_file.claim, _cannot_write)}
        #: Whether there is a step that was not tried yet.
        self._new = True
        self._last_step: Callable[[], None] | None = None
        self._given_up = False
        #: The kinds of steps that failed the last time.
        self._failing: set[str] = set()
        #: Set after the last step, and after the last attempt if it was given up.
        self.ended = threading.Event()
        #: Why the last step has not worked yet.
        self.obstacle: Obstacle | None = None
        self._thread = threading.Thread(
            target=self._run, name="status file heartbeat", daemon=True
        )

    def start(self) -> None:
        """Start touching."""
        self._thread.start()

    def relax(self) -> None:
        """Touch less often: the caller does not wait any more."""
        self._seconds = max(self._seconds, RELAXED_TOUCH_SECONDS)

    def want(
        self, kind: str, take: Callable[[], None], complain: Callable[[Obstacle], None]
    ) -> None:
        """Take a step soon, in place of one of the same kind that was not possible yet.

        `take` and `complain` are called in the thread of the heartbeat.
        """
        with self._changed:
            self._steps[kind] = _Step(take, complain)
            self._new = True
            self._changed.notify()

    def end(self, last_step: Callable[[], None]) -> None:
        """Take a last step, and no other one from now on; `ended` is set afterwards."""
        with self._changed:
            self._last_step = last_step
            self._changed.notify()

    def give_up(self) -> None:
        """Do not try the last step again."""
        with self._changed:
            self._given_up = True
            self._changed.notify()

    def _run(self) -> None:
        try:
            while self._last_step is None:
                self._beat()
                with self._changed:
                    self._changed.wait_for(
                        lambda: self._new or self._last_step is not None, self._seconds
                    )
        except StatusFileLost as error:
            self._on_lost(error)
        with self._changed:
            self._changed.wait_for(lambda: self._last_step is not None)
        self._end()

    def _beat(self) -> None:
        with self._changed:
            self._new = False
            steps = dict(self._steps)
        for kind, step in steps.items():
            if self._last_step is not None:
                return
            if self._attempt(kind, step):
                with self._changed:
                    if self._steps[kind] is step:
                        del self._steps[kind]
        if self._last_step is None:
            self._attempt("touch", _Step(self._status_file.touch, _cannot_touch))

    def _attempt(self, kind: str, step: _Step) -> bool:
        try:
            step.take()
        except (OSError, StatusFileUnusable) as error:
            if kind not in self._failing:
                step.complain(error)
            self._failing.add(kind)
            return False
        if kind in self._failing:
            self._failing.remove(kind)
            if not self._failing:
                logger.info("The status file can be read and written again.")
        return True

    def _end(self) -> None:
        assert self._last_step is not None
        while not self._given_up:
            try:
                self._last_step()
                break
            except StatusFileLost as error:
                logger.info("The status file is left alone: %s", error)
                break
            except (OSError, StatusFileUnusable) as error:
                self.obstacle = error
            with self._changed:
                self._changed.wait_for(lambda: self._given_up, RETRY_SECONDS)
        self.ended.set()


def _cannot_write(error: Obstacle) -> None:
    logger.warning("Could not write the status file: %s", error)


def _cannot_touch(error: Obstacle) -> None:
    logger.warning("Could not touch the status file: %s", error)

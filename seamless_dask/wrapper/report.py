"""What the wrapper tells its caller: the status file, kept until the end.

Nothing here waits for the file, except the end, which waits for a limited time.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .events import Event, Launched, News, SignalArrived
from .exit_codes import StatusFileLost
from .heartbeat import TOUCH_SECONDS, Heartbeat, Obstacle
from .status_file import StatusFile

logger = logging.getLogger(__name__)

#: How long the end waits for the file. More than `status_file.UNREADABLE_SECONDS`, and
#: less than the launcher waits between two signals.
END_SECONDS = 3.0


class Report:
    """The status file of this process, touched from now on.

    Parameters
    ----------
    status_file
        The file.
    on_lost
        Called in another thread when it is no longer ours.
    seconds
        Time between two touches.
    """

    def __init__(
        self,
        status_file: StatusFile,
        on_lost: Callable[[StatusFileLost], None],
        seconds: float = TOUCH_SECONDS,
    ) -> None:
        self._status_file = status_file
        self._heartbeat = Heartbeat(status_file, on_lost, seconds)
        #: Whether it says that the cluster runs; set by the thread of the heartbeat.
        self.announced = False
        self._news = News((), "")
        foreign = status_file.foreign_pid()
        if foreign is not None:
            logger.warning(
                "The status file names process %s, but this is process %d: signals to "
                "the former will not reach the wrapper.",
                foreign,
                os.getpid(),
            )
        self._heartbeat.start()

    @property
    def path(self) -> Path:
        """Path of the status file."""
        return self._status_file.path

    @property
    def parameters(self) -> dict[str, Any]:
        """The raw parameters.

        Raises
        ------
        StatusFileUnusable
            If there are none.
        """
        return self._status_file.parameters

    def announce(self, launched: Launched) -> None:
        """Say that the cluster runs, as soon as that can be written."""

        def step() -> None:
            self._status_file.running(
                port=launched.port, dashboard_port=launched.dashboard_port
            )
            self.announced = True
            self._heartbeat.relax()
            if self._news.jobs or self._news.submission_error:  # came before
                self._want_news()

        self._heartbeat.want("status", step, self._cannot_announce)

    def _cannot_announce(self, error: Obstacle) -> None:
        logger.error(
            "The cluster runs, but the status file %s cannot say so: %s. Trying again.",
            self.path,
            error,
        )

    def tell(self, news: News) -> None:
        """Say which jobs there are, once the cluster runs."""
        self._news = news
        self._want_news()

    def _want_news(self) -> None:
        self._heartbeat.want("jobs", self._write_news, _cannot_tell)

    def _write_news(self) -> None:
        news = self._news
        if self.announced:
            self._status_file.news(
                jobs=list(news.jobs), submission_error=news.submission_error
            )

    def end(self, failure: str, next_event: Callable[[float], Event | None]) -> None:
        """Say why the wrapper has failed, or delete the file if `failure` is empty.

        Parameters
        ----------
        failure
            A sentence.
        next_event
            Waits so many seconds for an event; a signal ends the wait for the file.
        """
        if failure:
            self._heartbeat.end(lambda: self._status_file.failed(failure))
        else:
            self._heartbeat.end(self._status_file.remove)
        deadline = time.monotonic() + END_SECONDS
        while not self._heartbeat.ended.wait(0.02):
            in_time = time.monotonic() < deadline
            if in_time and not isinstance(next_event(0), SignalArrived):
                continue
            self._heartbeat.give_up()
            logger.error(
                "What the status file %s says may be untrue, because it could not be %s: "
                "%s.",
                self.path,
                "written" if failure else "deleted",
                self._heartbeat.obstacle or "its file system does not answer",
            )
            return


def _cannot_tell(error: Obstacle) -> None:
    logger.warning("Could not write the jobs into the status file: %s", error)

"""What the wrapper tells its caller: the status file, kept until the end."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .events import Launched, News
from .exit_codes import StatusFileLost
from .status_file import Heartbeat, StatusFile

logger = logging.getLogger(__name__)


class Report:
    """The status file of this process, touched from now on.

    Parameters
    ----------
    status_file
        The file.
    on_lost
        Called in another thread when it is no longer ours.
    """

    def __init__(
        self, status_file: StatusFile, on_lost: Callable[[StatusFileLost], None]
    ) -> None:
        self._status_file = status_file
        self._heartbeat = Heartbeat(status_file, on_lost)
        #: Whether it says that the cluster runs.
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
        """Say that the cluster runs; if `announced` stays False, try again later."""
        try:
            with self._heartbeat.lock:
                self._status_file.running(
                    port=launched.port, dashboard_port=launched.dashboard_port
                )
        except OSError as error:
            logger.error(
                "The cluster runs, but the status file %s cannot say so: %s. Trying "
                "again.",
                self.path,
                error,
            )
            return
        self.announced = True
        self._heartbeat.relax()
        if self._news.jobs:
            self._write_news()

    def tell(self, news: News) -> None:
        """Say which jobs there are, once the cluster runs."""
        self._news = news
        if self.announced:
            self._write_news()

    def _write_news(self) -> None:
        try:
            with self._heartbeat.lock:
                self._status_file.news(
                    jobs=list(self._news.jobs),
                    submission_error=self._news.submission_error,
                )
        except OSError as error:  # a network file system may come back
            logger.warning("Could not write the status file: %s", error)

    def end(self, failure: str) -> None:
        """Say why the wrapper has failed, or delete the file if `failure` is empty."""
        self._heartbeat.stop()
        try:
            with self._heartbeat.lock:
                if failure:
                    self._status_file.failed(failure)
                else:
                    self._status_file.remove()
        except StatusFileLost as error:
            logger.info("The status file is left alone: %s", error)
        except OSError as error:
            logger.error("Could not write the status file: %s", error)

"""What the wrapper does while its status file cannot be read, or does not answer."""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.polling import wait_until

from seamless_dask.wrapper import heartbeat, status_file
from seamless_dask.wrapper.events import Event, Launched, News, SignalArrived
from seamless_dask.wrapper.exit_codes import StatusFileLost
from seamless_dask.wrapper.report import Report
from seamless_dask.wrapper.status_file import StatusFile

FIELDS = {"status": "starting", "parameters": {"cores": 1}, "pid": os.getpid()}
RUNNING = Launched(None, None, port=1, dashboard_port=2)


class Counted(StatusFile):
    """Counts how often it was read."""

    checks = 0

    def check(self) -> None:
        try:
            super().check()
        finally:
            self.checks += 1


class Taken:
    """A status file that was taken, and its report."""

    def __init__(self, path: Path):
        self.path = path
        path.write_text(json.dumps(FIELDS))
        self.file = Counted.wait(path)
        assert isinstance(self.file, Counted)
        self.lost: queue.SimpleQueue[StatusFileLost] = queue.SimpleQueue()
        self.report = Report(self.file, self.lost.put, 0.01)
        self._aside = path.with_suffix(".aside")

    def says(self) -> dict[str, Any]:
        return json.loads(self.path.read_text())

    def replace_by(self, make: Callable[[Path], object]) -> None:
        """Put something else in its place, without a moment in which it is not there."""
        wait_until(lambda: "start_time" in self.says(), "it is claimed")
        os.link(self.path, self._aside)
        other = self.path.with_suffix(".other")
        make(other)
        other.replace(self.path)

    def fail(self) -> None:
        """Let every use of it fail with an error of the system."""
        self.replace_by(lambda other: other.symlink_to(self.path))

    def hang(self) -> None:
        """Let every use of it hang."""
        self.replace_by(os.mkfifo)

    def mend(self) -> None:
        """Put it back, and wake who hangs."""
        hanging = self.path.is_fifo()
        descriptor = os.open(self.path, os.O_RDWR) if hanging else None
        self._aside.replace(self.path)
        if descriptor is not None:
            os.close(descriptor)

    def beats(self, number: int = 5) -> None:
        """Wait for some more beats."""
        enough = self.file.checks + number
        wait_until(lambda: self.file.checks >= enough, "beats")

    def end(self, failure: str = "", event: Event | None = None) -> None:
        self.report.end(failure, lambda seconds: event)


@pytest.fixture
def taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[Taken]:
    for name in ("RELAXED_TOUCH_SECONDS", "RETRY_SECONDS"):
        monkeypatch.setattr(heartbeat, name, 0.01)
    caplog.set_level(logging.INFO)
    found = Taken(tmp_path / "key.json")
    yield found
    if found.path.is_fifo():
        found.mend()
    found.end()


def said(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """The messages of this level, and above."""
    return [each.getMessage() for each in caplog.records if each.levelno >= level]


def test_a_read_error_is_no_loss(
    taken: Taken, caplog: pytest.LogCaptureFixture
) -> None:
    """It is mentioned once, until the file can be read again."""
    for outage in (1, 2):
        taken.fail()
        taken.beats()
        (*_, warning) = warnings = said(caplog, logging.WARNING)
        assert len(warnings) == outage
        assert "Could not touch the status file: [Errno 40]" in warning
        taken.mend()
        os.utime(taken.path, (0, 0))
        wait_until(lambda: taken.path.stat().st_mtime > 0, "it is touched")
        assert taken.lost.empty()


def test_content_that_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a file is no loss, unless it stays so."""
    path = tmp_path / "key.json"
    path.write_text(json.dumps(FIELDS))
    file = StatusFile.wait(path)
    for _ in range(2):
        path.write_text("{")
        with pytest.raises(status_file.StatusFileUnusable, match="not valid JSON"):
            file.check()
        path.write_text(json.dumps(FIELDS))
        file.check()
    path.write_text("{")
    with pytest.raises(status_file.StatusFileUnusable):
        file.check()
    monkeypatch.setattr(status_file, "UNREADABLE_SECONDS", 0)
    with pytest.raises(StatusFileLost, match="Somebody else changed it"):
        file.check()


@pytest.mark.parametrize("failure", ["", "no luck"])
def test_the_end_tries_again(
    taken: Taken, failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The last word is said although the file could not be read at first."""
    taken.fail()

    def mend(seconds: float) -> None:
        if taken.path.is_symlink() and taken.report._heartbeat.obstacle:
            taken.mend()

    taken.report.end(failure, mend)
    if failure:
        assert (taken.says()["status"], taken.says()["error"]) == ("failed", failure)
    else:
        assert not os.path.lexists(taken.path)
    assert not said(caplog, logging.ERROR)


def test_an_end_that_is_not_possible(
    taken: Taken, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log says that the file may be untrue, and why."""
    monkeypatch.setattr("seamless_dask.wrapper.report.END_SECONDS", 0.5)
    taken.fail()
    taken.end("no luck")
    (error,) = said(caplog, logging.ERROR)
    assert "may be untrue, because it could not be written: [Errno 40]" in error
    taken.mend()


def test_nobody_waits_for_a_file_system_that_hangs(
    taken: Taken, caplog: pytest.LogCaptureFixture
) -> None:
    """All is written when it answers again, in order."""
    taken.hang()
    taken.report.tell(News(("1",), ""))
    taken.report.announce(RUNNING)
    taken.report.tell(News(("1", "2"), "too many"))
    assert not taken.report.announced
    taken.mend()
    wait_until(lambda: "jobs" in taken.says(), "the jobs are written")
    assert taken.report.announced
    says = taken.says()
    assert (says["status"], says["port"], says["dashboard_port"]) == ("running", 1, 2)
    assert (says["jobs"], says["submission_error"]) == (["1", "2"], "too many")


@pytest.mark.parametrize("asked", [False, True])
def test_the_end_does_not_wait_for_ever(
    taken: Taken,
    asked: bool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It waits some seconds, or until a signal arrives."""
    patience = 600.0 if asked else 0.5
    monkeypatch.setattr("seamless_dask.wrapper.report.END_SECONDS", patience)
    taken.hang()
    taken.end(event=SignalArrived(signal.SIGTERM) if asked else None)
    (error,) = said(caplog, logging.ERROR)
    assert "could not be deleted: its file system does not answer" in error


def test_jobs_before_the_cluster_runs(taken: Taken) -> None:
    """They are not written before the status says that it runs."""
    taken.report.tell(News(("1",), "too many"))
    taken.beats()
    assert "jobs" not in taken.says()
    assert "submission_error" not in taken.says()
    taken.report.announce(RUNNING)
    wait_until(lambda: "jobs" in taken.says(), "the jobs are written")
    assert taken.says()["submission_error"] == "too many"


def test_nothing_follows_the_end(taken: Taken) -> None:
    """Not even what was wanted before, or is wanted afterwards."""
    taken.hang()
    taken.report.announce(RUNNING)

    def mend(seconds: float) -> None:
        if taken.path.is_fifo():
            taken.mend()

    taken.report.end("no luck", mend)
    taken.report.tell(News(("1",), ""))
    taken.report._heartbeat._thread.join(60)
    assert not taken.report._heartbeat._thread.is_alive()
    assert taken.says()["status"] == "failed"
    assert not {"port", "jobs"} & taken.says().keys()


def test_a_lost_file_is_left_alone_at_the_end(
    taken: Taken, caplog: pytest.LogCaptureFixture
) -> None:
    """The loss is reported once; the end does not write into the file."""
    taken.replace_by(lambda other: other.write_text(json.dumps({"pid": 1})))
    assert "belongs to process 1" in str(taken.lost.get(timeout=60))
    taken.report.announce(RUNNING)
    taken.end("no luck")
    assert taken.says() == {"pid": 1}
    assert taken.lost.empty()
    assert "left alone" in said(caplog, logging.INFO)[-1]

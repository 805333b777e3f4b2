"""The terminal of a driver script, whose streams may not be writable."""

from __future__ import annotations

import errno
import io
import sys

from scheduler_ext.outputs import Event
from seamless_dask.output.terminal import Terminal


class NoReader(io.StringIO):
    """As after ``| head``."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def show(terminal: Terminal, text: str) -> None:
    pieces = ((1, f"out {text}\n", 0), (2, f"err {text}\n", 0))
    terminal.show(Event("key", None, "f", 1, pieces, ended=False))
    terminal.flush()


def test_a_stream_that_cannot_be_written_does_not_concern_the_other(
    monkeypatch,
) -> None:
    terminal, errors = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", NoReader())
    monkeypatch.setattr(sys, "stderr", errors)
    show(terminal, "one")
    show(terminal, "two")
    assert errors.getvalue() == "f | err one\nf | err two\n"


def test_a_stream_that_was_closed_for_some_time_is_used_again(monkeypatch) -> None:
    terminal, output, closed = Terminal(), io.StringIO(), io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    show(terminal, "lost")
    monkeypatch.setattr(sys, "stdout", output)
    show(terminal, "shown")
    assert output.getvalue() == "f | out shown\n"

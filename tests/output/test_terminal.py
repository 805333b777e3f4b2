"""The terminal of a driver script, whose streams may not be writable."""

from __future__ import annotations

import errno
import io
import subprocess
import sys
import threading
import time

import pytest

from scheduler_ext.outputs import Event
from seamless_dask.output import terminal as terminal_module
from seamless_dask.output.terminal import Terminal

GUARD = 60


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


class Slow(io.StringIO):
    """A terminal that takes its time."""

    def write(self, text: str) -> int:
        time.sleep(0.4)
        return super().write(text)


def test_all_is_printed_however_slow_the_terminal_is(monkeypatch) -> None:
    """The end of a transformation waits as long as something is printed."""
    terminal, slow = Terminal(), Slow()
    monkeypatch.setattr(sys, "stdout", slow)
    for number in range(8):
        pieces = ((1, f"{number}\n", 0),)
        terminal.show(Event("key", None, "f", 1, pieces, ended=False))
    terminal.flush()
    assert slow.getvalue().endswith("f | 7\n")


class Gated(io.StringIO):
    """A terminal that takes nothing until its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.waits = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.waits.set()
        assert self.gate.wait(GUARD)
        return super().write(text)


@pytest.mark.parametrize(
    ("limit", "value", "size"), [("MAX_WAITING", 10, 1), ("MAX_TEXT", 1000, 99)]
)
def test_what_is_left_out_is_said_once_in_a_while(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    limit: str,
    value: int,
    size: int,
) -> None:
    """The oldest are, if there are too many or too much text; not a warning for each."""
    monkeypatch.setattr(terminal_module, limit, value)
    terminal, gated = Terminal(), Gated()
    monkeypatch.setattr(sys, "stdout", gated)

    def overflow(kept: int) -> None:
        gated.gate.clear()
        gated.waits.clear()
        for number in range(31):
            pieces = ((1, f"{number}".ljust(size) + "\n", 0),)
            terminal.show(Event(f"{number}", None, "f", 0, pieces, ended=True))
            if not number:
                assert gated.waits.wait(GUARD)
        before = gated.getvalue().count("\n")
        gated.gate.set()
        terminal.flush(GUARD)
        printed = gated.getvalue()[:-1].split("\n")[before:]
        assert printed[-1].rstrip() == "f | 30"
        assert len(printed) == 1 + kept

    for _ in range(3):
        overflow(10)
    terminal._at_exit()
    numbers = [record.args for record in caplog.records if "faster" in record.msg]
    assert numbers == [(20,), (40,)]


def test_what_is_not_printed_at_the_end_is_said() -> None:
    """Nobody reads until then; the process ends well nevertheless."""
    program = """if True:
        from scheduler_ext.outputs import Event
        from seamless_dask.output.terminal import Terminal
        terminal = Terminal()
        for number in range(100):
            pieces = ((1, "x" * 8000, 0), (1, chr(10), 0))
            terminal.show(Event("key", None, "f", 1, pieces, ended=False))
    """
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        guard = threading.Timer(GUARD, process.kill)
        guard.start()
        said = process.stderr.readline()
        left = int(said.split()[-5])
        assert said.endswith(f"is printed: {left} messages are left out\n")
        printed = process.stdout.read().count("\n")
        assert process.wait(GUARD) == 0
        guard.cancel()
    assert (left > 0, left + printed) == (True, 100)

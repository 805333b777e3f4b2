"""Lines of a terminal that change, and what else the process writes meanwhile."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import pytest
from helpers.terminal import screen, set_size
from rich.cells import cell_len

from seamless_dask.output.printer import Printer
from seamless_dask.output.region import Region, changes


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch) -> Any:
    """Let both streams of the process be one terminal; pytest sets them before a test."""
    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_other_output_removes_the_lines_and_they_come_back(monkeypatch) -> None:
    terminal = on_terminal(monkeypatch)
    region = Region()
    kept = sys.stderr  # as a handler of logging keeps it
    region.draw(["one", "two"])
    assert terminal.getvalue() == "one\ntwo"
    print("said", file=kept)
    assert terminal.getvalue() == "one\ntwo\r\x1b[K\x1b[1A\x1b[Ksaid\n"
    terminal.seek(0)
    terminal.truncate()
    region.draw(["three"])
    region.close()
    assert terminal.getvalue() == "three\r\x1b[K"
    assert "write" not in vars(terminal)


@pytest.mark.parametrize("kind", ["dumb", "unknown"])
def test_a_terminal_that_cannot_move_the_cursor(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    terminal = on_terminal(monkeypatch)
    monkeypatch.setenv("TERM", kind)
    region = Region()
    region.guard()
    region.draw(["one", "two"])
    region.print("a line\n", sys.stdout)
    print("said")
    region.draw(["three"])
    region.close()
    assert terminal.getvalue() == "a line\nsaid\n"


def test_a_bar_of_the_script_stays_where_it_is(monkeypatch) -> None:
    """Lines of ours are below it, and what is printed is above it."""
    terminal = on_terminal(monkeypatch)
    region = Region()
    region.guard()
    terminal.write("\rbar 10%")
    region.draw(["ours"])
    region.print("a line\n", sys.stdout)
    region.draw(["ours"])
    terminal.write("\rbar 20%")
    region.draw(["ours"])
    assert shown(terminal) == ["a line", "bar 20%", "ours"]
    terminal.write("\n")
    region.draw(["ours", "again"])
    assert shown(terminal) == ["a line", "bar 20%", "ours", "again"]
    terminal.write("\x1b[31mnot ")
    region.draw(["hidden"])
    assert shown(terminal)[-1] == "not"
    terminal.write("known\n")
    region.draw(["ours"])
    assert shown(terminal) == ["a line", "bar 20%", "not known", "ours"]
    region.close()


def shown(terminal: Any) -> list[str]:
    return screen(terminal.getvalue().replace("\n", "\r\n"))


def test_lines_fit_the_terminal(monkeypatch) -> None:
    terminal = on_terminal(monkeypatch)
    region = Region()
    region.draw([f"{n} " + "x" * 100 for n in range(50)])
    lines = terminal.getvalue().split("\n")
    assert len(lines) == 8 and all(len(line) == 39 for line in lines)
    assert lines[-1].startswith("49 ")
    region.close()


def test_tabs_and_wide_characters_take_their_columns(monkeypatch) -> None:
    terminal = on_terminal(monkeypatch)
    region = Region()
    region.draw(["a\tb\tc\td\te\tf\tg", "計算中" * 20])
    first, second = terminal.getvalue().split("\n")
    assert "\t" not in first and len(first) == 39
    assert first.startswith("a       b       c ")
    assert cell_len(second) == 39 and second.startswith("計算中")
    region.close()


def test_the_size_is_that_of_the_terminal_with_the_lines(monkeypatch) -> None:
    """The standard output may be a file, and COLUMNS may be out of date."""
    ours, theirs = os.openpty()
    set_size(theirs, 30, rows=4)
    on_terminal(monkeypatch)
    monkeypatch.setenv("COLUMNS", "200")
    with open(theirs, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        region = Region()
        region.draw([f"{n} " + "x" * 100 for n in range(10)])
        lines = os.read(ours, 4096).decode().split("\r\n")
        region.close()
    os.close(ours)
    assert [len(line) for line in lines] == [29] * 3


def test_a_pipe_has_no_lines_that_change(monkeypatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    assert not changes(stream) and not changes(None)
    Region().draw(["one"])
    assert stream.getvalue() == ""


def test_a_stream_that_cannot_encode_a_line_gets_a_question_mark(monkeypatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    Printer(Region().print).show("k", "näme", [(1, "täxt\n", 0)])
    assert raw.getvalue() == b"n?me | t?xt\n"


def test_the_printer_keeps_streams_apart_and_cleans_what_it_gets(capsys) -> None:
    printer = Printer(Region().print)
    pieces = [(1, "out\x1b[2J\n", 7), (2, "\r 1%\r 2%", 0), (3, "raw\n", 0)]
    printer.show("k", "f", pieces, begins=True)
    assert printer.unfinished() == ["f |  2%"]
    printer.show("k", "f", [(2, "\r 3%", 0)], ended=True)
    said = capsys.readouterr()
    assert said.out == "f | [... 7 bytes left out ...]\nf | out\nf | raw\n"
    assert said.err == "f |  3%\n"
    assert printer.unfinished() == []

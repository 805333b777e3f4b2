"""Errors say which transformation failed first; the scheduler keeps little of them."""

from __future__ import annotations

import pytest
from distributed.protocol import dumps, loads
from helpers.schedulers import A, B
from hypothesis import given
from hypothesis import strategies as st

from scheduler_ext import reports
from scheduler_ext.error_texts import (
    MAX_BYTES,
    beginning,
    last_line,
    origin,
    with_pointer,
)

TRACEBACK = (
    "Traceback (most recent call last):\n"
    '  File "transformer-in-process-12", line 3, in score\n'
    "ValueError: bad\n"
)
STARS = "*" * 49
PRINTED = f"\n{STARS}\n* Standard output\n{STARS}\nValueError: printed\n\n{STARS}\n"
POINTER = (
    "[transformation score failed; for more: "
    "python -m seamless_dask.status why aaaaaaaaaaaa]"
)
anything = st.text(st.characters(codec=None))


@pytest.mark.parametrize("text", [TRACEBACK, TRACEBACK + PRINTED, "lost", ""])
def test_the_last_line_says_what_to_ask_for(text: str) -> None:
    """The error comes before it, unchanged, and what was printed on lines of its own."""
    said = with_pointer(text, "score", A)
    assert said.startswith(text.rstrip())
    before = {TRACEBACK: "ValueError: bad ", "lost": "lost "}.get(text, "")
    assert said.splitlines()[-1] == before + POINTER
    assert origin(said) == "score aaaaaaaaaaaa" and origin(text) is None


@pytest.mark.parametrize("around", ["{}", "RuntimeError: {}" + PRINTED, "x\n{}y\n{}"])
def test_each_level_of_calls_keeps_the_line_of_the_first(around: str) -> None:
    """It is not repeated, and stays the last one."""
    inner = with_pointer(TRACEBACK, "score", A)
    outer = with_pointer(around.replace("{}", inner, 1), "dock", B)
    assert outer.count(POINTER) == outer.count("[transformation ") == 1
    assert outer.splitlines()[-1].endswith(POINTER)
    assert "ValueError: bad\n" in outer or f"ValueError: bad {POINTER}" in outer
    assert with_pointer(outer, "simulate", B) == outer


def test_a_name_cannot_break_the_line() -> None:
    """Whatever the function is called."""
    for name in ("a]\nb", "x" * 500, "why aaaaaaaaaaaa]", "\x1b\ud800"):
        said = with_pointer(TRACEBACK, name, A)
        found = origin(said)
        assert found is not None and found.endswith(" aaaaaaaaaaaa")
        assert with_pointer(said, "dock", B) == said


def test_the_line_that_says_most() -> None:
    """Neither what was printed, nor the pointer, nor a frame of stars."""
    inner = with_pointer(TRACEBACK + PRINTED, "score", A)
    for text in (TRACEBACK, TRACEBACK + PRINTED, inner, f"{TRACEBACK}\n***\n\n"):
        assert last_line(text) == "ValueError: bad"
    bash = (
        f"Bash transformer exception\n====\nError: Return code 1\n{STARS}\n* Command\n"
    )
    assert last_line(bash) == "Error: Return code 1"
    assert last_line("") == last_line("***\n") == ""
    assert last_line("\x1b[31mred\ud800") == "[31mred"


@given(anything | st.none(), st.integers(0, 50))
def test_the_beginning_can_be_sent_and_shown(text: str | None, limit: int) -> None:
    """It is short in bytes, not only in characters."""
    said = beginning(text, limit)
    assert len(said.encode()) <= limit
    assert all(c.isprintable() or c in "\n\t" for c in said)


@given(anything, st.none() | anything)
def test_what_a_worker_reports_comes_back(text: str, source: str | None) -> None:
    """Over the wire, whatever the error says."""
    report = reports.report("failed", 0, begun=1, resume_wait=None, error=text)
    metadata = loads(dumps({reports.REPORT: report}))
    details = reports.parse_report(metadata)
    assert details is not None
    line, begin, first = reports.parse_failure(details)
    assert (line, begin) == (last_line(text), beginning(text))
    assert len(begin.encode()) <= MAX_BYTES and first is None


@pytest.mark.parametrize("error", [None, 7, {}, {"line": 3, "text": b"x", "origin": 1}])
def test_reports_that_make_no_sense(error: object) -> None:
    """They are as good as none."""
    assert reports.parse_failure({"error": error}) == ("", "", None)

"""What is made of the output of user code: pieces that fit, lines and bars."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st
from tqdm import tqdm

from seamless_dask.output.pieces import LIMIT, WINDOW, piece_of
from seamless_dask.output.screen import MAX_LINE, MAX_ROWS, Screen

plain = st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=200)


def lines_of(raw: bytes, *cuts: int) -> list[str]:
    """All lines of a stream that is sent in pieces, and what remains at its end."""
    screen = Screen()
    lines, begin = [], 0
    for cut in [*sorted(cuts), len(raw)]:
        piece = piece_of(raw[begin:cut], final=cut == len(raw))
        begin += piece.consumed
        lines += screen.feed(piece.text)
    return lines + screen.end()


@given(st.binary(max_size=3 * LIMIT), st.integers(0, 10**9), st.booleans())
def test_any_bytes_become_a_piece_that_can_be_sent(raw, skipped, final) -> None:
    piece = piece_of(raw, skipped, final=final)
    assert len(piece.text.encode("utf-8")) <= LIMIT
    assert "\0" not in piece.text and "\x07" not in piece.text
    assert skipped <= piece.dropped
    assert len(raw) - 3 <= piece.consumed <= len(raw)
    assert not final or piece.consumed == len(raw)


@given(st.lists(plain, max_size=20), st.lists(st.integers(0, 2000), max_size=5))
def test_lines_arrive_however_they_are_cut(texts, cuts) -> None:
    """Also in the middle of a character."""
    raw = "".join(f"{text}\n" for text in texts).encode()
    cuts = [cut for cut in cuts if cut <= len(raw)]
    assert lines_of(raw, *cuts) == [text.rstrip() for text in texts]


@given(st.integers(1, 400_000), st.integers(0, 99))
def test_the_newest_lines_win_and_the_others_are_counted(number, skipped) -> None:
    raw = b"".join(b"line %d\n" % n for n in range(min(number, 50_000)))
    piece = piece_of(raw, skipped)
    assert raw.endswith(piece.text.encode())
    assert piece.dropped == skipped + len(raw) - len(piece.text)
    assert piece.text.startswith("line ")


@given(st.text(max_size=500), st.lists(st.integers(0, 500), max_size=3))
def test_a_screen_is_bounded(text, cuts) -> None:
    screen = Screen()
    for cut in [*sorted(cuts), len(text)]:
        for line in screen.feed(text[:cut] * 10):
            assert len(line) <= MAX_LINE
            assert "\n" not in line and "\r" not in line
        assert len(screen.unfinished()) <= MAX_ROWS


def test_a_bar_is_one_line(tmp_path) -> None:
    stream = io.StringIO()
    for _ in tqdm(range(3000), file=stream, mininterval=0, miniters=1):
        continue
    raw = stream.getvalue().encode()
    assert raw.count(b"\r") > 1000
    piece = piece_of(raw[: len(raw) // 2])
    assert piece.dropped == 0 and len(piece.text) < 400
    (line,) = lines_of(raw, *range(1000, len(raw), 10_000))
    assert "3000/3000" in line


def test_nested_bars_are_a_few_lines() -> None:
    stream = io.StringIO()
    for _ in tqdm(range(5), "outer", file=stream, mininterval=0, position=0):
        for _ in tqdm(
            range(200), "inner", file=stream, mininterval=0, position=1, leave=False
        ):
            continue
    raw = stream.getvalue().encode()
    assert raw.count(b"\x1b[A") > 500
    lines = lines_of(raw, *range(5000, len(raw), 5000))
    assert 1 <= len(lines) < 25
    assert any("outer" in line and "5/5" in line for line in lines)


def test_codes_of_terminals_are_left_out() -> None:
    raw = b"\x1b[31mred\x1b[0m \x1b]0;title\x07end\x1b[2J\x1bc\x1b[1A\0\x9b\n"
    assert piece_of(raw).text == "red end\x1b[1A\ufffd\n"


def test_windows_lines_and_bars_without_an_end() -> None:
    assert lines_of(b"one\r\ntwo\r\n") == ["one", "two"]
    assert lines_of(b"10%\r20%\r") == ["20%"]
    assert lines_of(b"10%\r20%\r", 4) == ["20%"]
    assert lines_of(b"no end") == ["no end"]


def test_a_long_bar_in_a_long_window_is_not_reported_as_dropped() -> None:
    raw = b"first\n" + b"\r 1%" * 20_000 + b"\r99%"
    assert len(raw) < WINDOW
    assert piece_of(raw)[:2] == ("first\n\r99%", 0)

"""What the scheduler keeps of the output of transformations, and which events it takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_ext import outputs
from scheduler_ext.fields import InvalidMessage
from scheduler_ext.outputs import Outputs

A = "a" * 64


def event(
    key: str, text: str, number: int = 1, *, ended: bool = False
) -> outputs.Event:
    return outputs.parse_event(
        outputs.event(key, A, "score", number, [(1, text, 0)], ended)
    )


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdefgh"), st.text(max_size=40), st.integers(0, 2))
    )
)
def test_what_is_kept_is_bounded(steps) -> None:
    """In all, of each transformation, and in their number; the newest text wins."""
    kept = Outputs(total=200, each=60, keys=4)
    for key, text, number in steps:
        kept.add(event(key, text, number))
        found = kept.since(0, "abcdefgh")
        sizes = {
            k: sum(len(e.pieces[0][1]) for _, e in found if e.key == k)
            for k in {e.key for _, e in found}
        }
        assert sum(sizes.values()) == kept.size <= 200
        assert len(sizes) <= 4
        assert all(size <= 60 for size in sizes.values())
        assert kept.last(key) == event(key, text, number)
        assert [n for n, _ in found] == sorted({n for n, _ in found})


def test_a_transformation_that_begins_again_has_new_output() -> None:
    kept = Outputs()
    kept.add(event("k", "old", 0))
    kept.add(event("k", "more", 1))
    kept.add(event("k", "new", 0))
    assert [e.pieces[0][1] for _, e in kept.since(0, ["k"])] == ["new"]
    assert kept.since(3, ["k"]) == []
    assert kept.of_checksum("aaaa") == ["k"] and kept.of_checksum("b") == []


def test_many_silent_pieces_are_bounded_as_well() -> None:
    kept = Outputs()
    for number in range(10_000):
        kept.add(event("k", "", number + 1))
    assert len(kept.since(0, ["k"])) <= outputs.MAX_KEPT_PIECES


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"pieces": [[5, "x", 0]]}, "1 to 4"),
        ({"pieces": [[1, b"x", 0]]}, "1 to 4"),
        ({"pieces": [[1, "x", -1]]}, "whole number"),
        ({"pieces": "text"}, "list"),
        ({"number": True}, "whole number"),
        ({"ended": 1}, "true or false"),
        ({"checksum": "short"}, "64"),
        ({"more": 1}, "unknown"),
    ],
)
def test_events_are_checked(change, problem) -> None:
    message = outputs.event("k", A, "score", 0, [(1, "x", 0)], False)
    assert outputs.parse_event({**message, "worker": "tcp://1"}).pieces == (
        (1, "x", 0),
    )
    with pytest.raises(InvalidMessage, match=problem):
        outputs.parse_event({**message, **change})
    with pytest.raises(InvalidMessage, match="dictionary"):
        outputs.parse_event(b"bytes")


def test_a_long_text_is_cut() -> None:
    assert len(event("k", "x" * 100_000).pieces[0][1]) == outputs.MAX_TEXT


def test_questions_and_answers_are_checked() -> None:
    question = outputs.question("ABCDEF", since=2**40, follow=True)
    assert outputs.parse_question(question) == ("abcdef", "ABCDEF", 2**40, True)
    assert outputs.parse_question(outputs.question("name", since=None, follow=False))
    with pytest.raises(InvalidMessage, match="since"):
        outputs.parse_question({**question, "since": -1})
    with pytest.raises(InvalidMessage, match="keys"):
        outputs.parse_request({"keys": [1], "stream": True})
    answer = {"status": "ok", "outputs": {"k": [[1, "x", 0]]}}
    assert outputs.parse_answer(answer) == {"k": ((1, "x", 0),)}
    for wrong in (None, {}, {"status": "ok", "outputs": {"k": [[9, "x", 0]]}}):
        with pytest.raises(InvalidMessage):
            outputs.parse_answer(wrong)

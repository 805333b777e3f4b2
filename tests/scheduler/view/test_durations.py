"""Where the time went: sketches, timelines and waits, compared with plain lists."""

from __future__ import annotations

import json
import math

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from scheduler_ext.view import report_page
from scheduler_ext.view.durations import (
    MAX_HISTOGRAMS,
    OTHER,
    REASONS,
    Durations,
    Sketch,
    Timeline,
    Usage,
    Waits,
)

SECONDS = st.floats(0.001, 1e6)


@given(st.lists(SECONDS, min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 1.0]))
@example([0.001], 0.5)
@example([1e6] * 3, 0.95)
def test_quantiles_are_those_of_the_list(seconds: list[float], share: float) -> None:
    """To 2.5 %; count, total and the longest are exact."""
    sketch = Sketch()
    for each in seconds:
        sketch.add(each)
    exact = sorted(seconds)[max(1, math.ceil(share * len(seconds))) - 1]
    assert sketch.quantile(share) == pytest.approx(exact, rel=0.0253)
    assert sketch.longest == max(seconds)
    assert sketch.count == len(seconds)
    assert sketch.total == pytest.approx(sum(seconds))


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=0))
def test_a_sketch_takes_any_duration(seconds: float) -> None:
    """And stays small, whatever a worker reports."""
    sketch = Sketch()
    sketch.add(seconds)
    middle = sketch.quantile(0.5)
    assert middle is not None and 0 <= middle <= max(seconds, 0.001)


def test_a_sketch_without_durations() -> None:
    """There is no median of nothing."""
    assert Sketch().quantile(0.5) is None


@given(
    st.lists(
        st.tuples(st.floats(0, 5000), st.integers(0, 9), st.integers(0, 20)),
        max_size=60,
    ),
    st.integers(2, 8),
)
def test_a_timeline_keeps_the_means(
    steps: list[tuple[float, int, int]], limit: int
) -> None:
    """Each interval has the mean of its samples, and there are never too many."""
    line, now = Timeline(100.0, limit), 100.0
    samples = []
    for wait, used, capacity in steps:
        now += wait
        line.add(now, used, capacity)
        samples.append((now - 100.0, used, capacity))
    answer = line.answer()
    assert len(answer["used"]) == len(answer["capacity"]) <= limit
    for place, used in enumerate(answer["used"]):
        inside = [u for at, u, _ in samples if int(at / answer["interval"]) == place]
        expected = round(sum(inside) / len(inside), 2) if inside else None
        assert used == (pytest.approx(expected, abs=0.011) if inside else None)


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["waiting", "no-worker", "queued", "processing"]),
        st.floats(0, 100),
    ),
    min_size=1,
    max_size=10,
)


@given(MOVES, st.floats(0, 50), st.none() | st.floats(0, 500))
def test_each_second_of_waiting_has_one_reason(
    moves: list[tuple[str, float]], leased: float, slots_at: float | None
) -> None:
    """The reasons sum up to the time without a worker, and that for the lease."""
    waits, now, expected = Waits(), 0.0, leased
    for number, (state, seconds) in enumerate(moves):
        if slots_at is not None and now >= slots_at:
            waits.capacity(4, now)
        waits.moved("k", state, now, leased if number == 0 else 0.0)
        assert [s for s, keys in waits.by_state.items() if "k" in keys] == [state]
        now += seconds
        expected += seconds if state != "processing" else 0.0
    found = waits.ended("k", now)
    assert set(found) <= set(REASONS)
    assert all(seconds >= 0 for seconds in found.values())
    assert sum(found.values()) == pytest.approx(expected)
    assert waits.ended("k", now) == {}, "it is forgotten"
    assert not any(waits.by_state.values())


def test_waiting_for_workers_and_then_for_a_slot() -> None:
    """The first worker divides the time; without any, all of it is for a worker."""
    waits = Waits()
    waits.capacity(0, 0.0)
    waits.moved("a", "no-worker", 10.0)
    waits.moved("b", "no-worker", 10.0)
    assert waits.ended("b", 15.0) == {"worker": 5.0, "slot": 0.0}
    waits.capacity(2, 30.0)
    waits.capacity(6, 35.0)
    assert waits.ended("a", 42.0) == {"worker": 20.0, "slot": 12.0}


def test_what_ends_is_counted_under_its_name() -> None:
    """A cached one has run nowhere; a failed one has."""
    durations = Durations(0.0, 0.0)
    usage = Usage(wall=4.0, cpu=3.0, memory=1000, resume_wait=1.0)
    durations.ended("score", "stored", 5.0, {"slot": 2.0}, usage)
    durations.ended("score", "cached", 0.1, {}, Usage())
    durations.ended("score", "failed", 2.0, {}, Usage(2.0, 1.0, 5000, None))
    durations.ended("dock", "dropped", None, {"inputs": 7.0}, Usage())
    answer = durations.answer(10.0)
    score, dock = answer["names"]
    assert score["name"] == "score"
    figures = ("count", "computed", "cached", "failed", "otherwise")
    assert [score[each] for each in figures] == [3, 1, 1, 1, 0]
    assert (score["total"], score["longest"], score["cpu"]) == (6.0, 4.0, 4.0)
    assert score["memory"] == 5000
    assert score["waits"] == {
        **dict.fromkeys(REASONS, 0.0),
        "slot": 2.0,
        "process": 1.0,
        "around": 1.0,
    }
    assert (dock["median"], dock["otherwise"], dock["memory"]) == (None, 1, None)
    assert dock["waits"]["inputs"] == 7.0


@given(st.integers(1, 400), st.integers(1, 60))
def test_the_number_of_names_is_bounded(names: int, limit: int) -> None:
    """Names that come too late share one; none is lost."""
    durations = Durations(0.0, 0.0, names=limit)
    for number in range(names):
        durations.ended(f"f{number}", "stored", 1.0, {}, Usage(wall=1.0))
    answer = durations.answer(1.0)
    assert sum(row["count"] for row in answer["names"]) == answer["total"] == names
    assert len(answer["names"]) == min(names, limit + 1)
    assert (OTHER in {row["name"] for row in answer["names"]}) == (names > limit)
    assert len(durations.histograms()) == min(names, MAX_HISTOGRAMS + 1)


@given(st.text(max_size=40))
def test_the_page_of_the_report_escapes_names(name: str) -> None:
    """Names come from the code of users. The page refers to nothing outside."""
    durations = Durations(0.0, 0.0)
    durations.timeline.add(0.0, 1, 2)
    durations.ended(name + "<script>", "stored", 1.0, {}, Usage(wall=1.0))
    answer = {
        "cluster": {"project": name, "cluster": "<b>"},
        "nested_cache_hits": 0,
        **durations.answer(10.0),
    }
    json.dumps(answer, allow_nan=False)
    page = report_page.report(answer)
    assert "<script" not in page and "<b>" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page.replace(name, "")

"""What the operators' page remembers, against models that are obviously right."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_ext.activity import UNFINISHED
from scheduler_ext.permission.event_log import WAIT_BOUNDS, WaitTimes
from scheduler_ext.view import history
from scheduler_ext.view.history import History, Journal, Sample

STATES = [*UNFINISHED, "memory", "erred", "released", "forgotten"]


def sample(number: int) -> Sample:
    return Sample(float(number), *[number] * (len(Sample._fields) - 1))


@given(length=st.integers(1, 20), added=st.integers(0, 50), number=st.integers(0, 60))
def test_history_gives_each_sample_once(length: int, added: int, number: int) -> None:
    """Whoever asks for what is new misses nothing that is still remembered."""
    remembered = History(length)
    for i in range(added):
        remembered.add(sample(i))
    expected = list(range(added))[-length:]
    assert [s.capacity for s in remembered.since(0)] == expected
    new = [i for i in expected if i >= number]
    assert [s.capacity for s in remembered.since(number)] == new
    assert remembered.added == added


@given(st.lists(st.floats(0, 10_000, allow_nan=False)))
def test_wait_times_are_a_cumulative_histogram(seconds: list[float]) -> None:
    """Each class counts what waited no longer than its bound."""
    waits = WaitTimes()
    for each in seconds:
        waits.add(each)
    for bound, number in waits.cumulative():
        assert number == sum(each <= bound for each in seconds)
    assert [bound for bound, _ in waits.cumulative()] == [*WAIT_BOUNDS, float("inf")]
    # sum() adds floats more exactly from Python 3.12 on
    assert waits.sum == pytest.approx(sum(seconds))
    assert bisect_left(WAIT_BOUNDS, WAIT_BOUNDS[3]) == 3


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from(STATES), st.booleans()),
        max_size=60,
    )
)
def test_journal_knows_who_is_unfinished(moves: list[tuple[int, str, bool]]) -> None:
    """Since when each is unfinished and with a worker, and how many ended how."""
    journal = Journal()
    since: dict[str, float] = {}
    started: dict[str, float] = {}
    ended: Counter[str] = Counter()
    for now, (number, finish, again) in enumerate(moves):
        key = f"key-{number}"
        journal.moved(key, finish, float(now), again=again)
        before = started.pop(key, None)
        if finish in UNFINISHED or (again and key in since):
            since.setdefault(key, now)
            if finish == "processing":
                started[key] = now
        elif key in since:
            del since[key]
            ended[{"memory": "finished", "erred": "erred"}.get(finish, "dropped")] += 1
            end = journal.ended(key)
            assert end is not None
            assert end.at == now
            assert end.seconds == (None if before is None else now - before)
    assert journal.waiting == {k: since[k] for k in since.keys() - started.keys()}
    assert journal.with_worker == {k: (since[k], started[k]) for k in started}
    assert Counter(journal.endings) == ended


def end(journal: Journal, key: str, finish: str, **details: Any) -> None:
    """Have a worker run a task to its end."""
    journal.moved(key, "processing", 0.0)
    journal.moved(key, finish, 1.0, **details)


def test_journal_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest end is forgotten first; one checksum has one end."""
    monkeypatch.setattr(history, "MAX_ENDINGS", 2)
    journal = Journal()
    for number, checksum in enumerate("abac"):
        end(journal, f"key-{number}", "memory", checksum=checksum)
    ends = {checksum: journal.ended(checksum) for checksum in "abc"}
    assert ends["b"] is None
    assert ends["a"] is not None and ends["a"].key == "key-2"
    assert ends["c"] is not None


def test_journal_believes_only_what_workers_may_report() -> None:
    """What comes with a result is checked: it was sent by somebody else."""
    journal = Journal()
    reports: list[Any] = [
        {"ending": "stored", "cache_hits": 3, "begun": 3, "resume_wait": 2.5},
        {"ending": "cancelled", "cache_hits": -5, "begun": 0, "resume_wait": -1.0},
        {"ending": ["stored"], "cache_hits": "many", "begun": "x", "resume_wait": []},
        {"ending": "x", "begun": 1, "resume_wait": float("nan")},
        {"ending": None},
        None,
    ]
    for number, report in enumerate(reports):
        end(journal, f"key-{number}", "memory", report=report)
    assert journal.endings["stored"] == 1
    assert journal.endings["finished"] == 5
    assert journal.nested_cache_hits == 3
    assert journal.begun_again == 2
    assert (journal.resume_waits.sum, sum(journal.resume_waits.counts)) == (2.5, 1)


def test_journal_tells_cancelled_from_dropped() -> None:
    """Both leave no result."""
    journal = Journal()
    end(journal, "a", "released", cancelled=True)
    end(journal, "b", "forgotten")
    assert journal.endings["cancelled"] == journal.endings["dropped"] == 1

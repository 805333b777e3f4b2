"""What the operators' page remembers, against models that are obviously right."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from scheduler_ext import history
from scheduler_ext.activity import UNFINISHED
from scheduler_ext.history import WAIT_BOUNDS, History, Journal, Sample, WaitTimes

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
    assert waits.sum == sum(seconds)
    assert bisect_left(WAIT_BOUNDS, WAIT_BOUNDS[3]) == 3


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(STATES)), max_size=60))
def test_journal_knows_who_is_unfinished(moves: list[tuple[int, str]]) -> None:
    """Since when each is unfinished and with a worker, and how many ended how."""
    journal = Journal()
    state: dict[str, str] = {}
    since: dict[str, float] = {}
    started: dict[str, float] = {}
    ended: Counter[str] = Counter()
    for now, (number, finish) in enumerate(moves):
        key = f"key-{number}"
        start = state.get(key, "released")
        journal.moved(key, start, finish, float(now))
        state[key] = finish
        if finish in UNFINISHED:
            if start not in UNFINISHED:
                since[key] = now
            if finish == "processing":
                started[key] = now
        elif start in UNFINISHED:
            ended[{"memory": "finished", "erred": "erred"}.get(finish, "dropped")] += 1
            end = journal.ended(key)
            assert end is not None
            assert end.at == now
            assert end.seconds == (
                now - started[key] if start == "processing" else None
            )
    unfinished = {key for key, where in state.items() if where in UNFINISHED}
    given_out = {key for key in unfinished if state[key] == "processing"}
    assert journal.waiting == {key: since[key] for key in unfinished - given_out}
    assert journal.with_worker == {key: (since[key], started[key]) for key in given_out}
    assert Counter(journal.endings) == ended


def test_journal_is_bounded(monkeypatch) -> None:
    """The oldest end is forgotten first; one checksum has one end."""
    monkeypatch.setattr(history, "MAX_ENDINGS", 2)
    journal = Journal()
    for number, checksum in enumerate("abac"):
        key = f"key-{number}"
        journal.moved(key, "processing", "memory", 1.0, checksum=checksum)
    assert [journal.ended(c) is not None for c in "abc"] == [True, False, True]
    assert journal.ended("a").key == "key-2"


def test_journal_believes_only_what_workers_may_report() -> None:
    """What comes with a result is checked: it was sent by somebody else."""
    journal = Journal()
    reports = [
        {"ending": "stored", "cache_hits": 3},
        {"ending": "cancelled", "cache_hits": -5},
        {"ending": ["stored"], "cache_hits": "many"},
        {"ending": None},
        None,
    ]
    for number, report in enumerate(reports):
        journal.moved(f"key-{number}", "processing", "memory", 1.0, report=report)
    assert journal.endings["stored"] == 1
    assert journal.endings["finished"] == 4
    assert journal.nested_cache_hits == 3


def test_journal_tells_cancelled_from_dropped() -> None:
    """Both leave no result."""
    journal = Journal()
    journal.moved("a", "processing", "released", 1.0, cancelled=True)
    journal.moved("b", "waiting", "forgotten", 1.0)
    assert journal.endings["cancelled"] == journal.endings["dropped"] == 1

"""One job at a time has the turn in a process, and finds its own state."""

from __future__ import annotations

import threading

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from seamless_dask.child import turn_keeper
from seamless_dask.child.state.part import CannotPutBack
from seamless_dask.child.turn_keeper import TurnKeeper
from seamless_dask.child.turns import JobTurn, Turns

FRESH = "fresh"
#: a guard against hanging
SOON = 30.0
#: seconds that count as long
PATIENCE = 0.3


class OneValue:
    """The state of a process that has one global variable."""

    def __init__(self) -> None:
        self.value = FRESH
        self.foreign = False

    def save(self) -> str:
        return self.value

    def restore(self, saved: str) -> None:
        self.value = saved

    def reset(self) -> list[str]:
        self.value = FRESH
        return ["has foreign code"] if self.foreign else []

    def is_held(self) -> bool:
        return self.foreign


class TurnsMachine(RuleBasedStateMachine):
    """Jobs of one process with a few threads each, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.state = OneValue()
        self.turns = Turns(self.state)
        self.counter = 0
        #: what each job has left in the global variable
        self.left: dict[JobTurn, str] = {}
        #: threads that are held back until their job has the turn
        self.held: dict[JobTurn, int] = {}
        #: threads that wait for something else
        self.waiting: dict[JobTurn, int] = {}
        self.abandoned: set[JobTurn] = set()
        self.spoiled = False

    def executing(self) -> list[JobTurn]:
        """Jobs with threads that execute, which only the holder may have."""
        return [j for j in self.left if j.executing > self.held[j]]

    def settle(self) -> None:
        """Threads of the job that has the turn go on, as `TurnKeeper` has them."""
        holder = self.turns.holder
        if holder is not None:
            self.held[holder] = 0

    @rule()
    def begin(self) -> None:
        """It begins only where nobody executes or could go on."""
        self.counter += 1
        job = JobTurn(f"job{self.counter}")
        expected = not self.executing() and not self.turns.ready
        expected = expected and not (self.state.foreign and self.turns.holder)
        expected = expected and not self.spoiled
        assert self.turns.begin(job) == expected
        if expected:
            assert self.state.value == FRESH
            self.left[job], self.held[job], self.waiting[job] = FRESH, 0, 0
            self.settle()

    @precondition(lambda self: self.executing())
    @rule(foreign=st.booleans())
    def execute(self, foreign: bool) -> None:
        """The code of the job that has the turn changes the global variable."""
        (job,) = self.executing()
        assert self.state.value == self.left[job]
        self.counter += 1
        self.state.value = self.left[job] = f"{job.id}: {self.counter}"
        self.state.foreign = self.state.foreign or (foreign and self.counter > 20)

    @precondition(lambda self: self.executing())
    @rule()
    def start_thread(self) -> None:
        """A job has more threads."""
        self.executing()[0].executing += 1

    @precondition(lambda self: self.executing())
    @rule()
    def wait(self) -> None:
        """A thread waits for a nested transformation."""
        (job,) = self.executing()
        self.waiting[job] += 1
        self.turns.waits(job)
        self.settle()

    @precondition(lambda self: any(self.waiting.values()))
    @rule(data=st.data())
    def answered(self, data: st.DataObject) -> None:
        """What a thread waited for is there: it goes on, or is held back."""
        able = [job for job, number in self.waiting.items() if number]
        job = data.draw(st.sampled_from(able))
        self.waiting[job] -= 1
        may = self.turns.executes(job)
        assert may == (self.turns.holder is job)
        if job.lost is not None:
            assert not may
        if not may and job not in self.abandoned:
            self.held[job] += 1
        self.settle()

    @precondition(lambda self: self.executing())
    @rule(leaves=st.integers(0, 9))
    def end(self, leaves: int) -> None:
        """The code of a job has ended; what it leaves keeps others from going on."""
        (job,) = self.executing()
        left = ["threads: Thread-1"] if leaves == 9 else []
        assert self.turns.end(job, left) == (
            ["has foreign code"] if self.state.foreign else []
        )
        del self.left[job], self.held[job], self.waiting[job]
        if left or self.state.foreign:
            self.spoiled = True
            assert all(other.lost for other in self.left)
            assert self.turns.holder is None
        self.settle()

    @precondition(lambda self: self.left)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        """A job that has not the turn never goes on; one that has it does."""
        job = data.draw(st.sampled_from(sorted(self.left, key=lambda j: j.id)))
        had_turn = self.turns.holder is job
        assert self.turns.abandon(job) != had_turn
        if not had_turn:
            self.abandoned.add(job)
            del self.left[job], self.held[job]
            self.settle()

    @invariant()
    def one_executes(self) -> None:
        """Only the job that has the turn executes, in the state that it has left."""
        executing = self.executing()
        assert len(executing) <= 1
        if executing:
            assert executing == [self.turns.holder]
            assert self.state.value == self.left[executing[0]]

    @invariant()
    def nobody_waits_for_an_idle_process(self) -> None:
        """Who could go on does so as soon as nobody executes."""
        assert not self.turns.ready or self.executing()

    @invariant()
    def abandoned_ones_are_gone(self) -> None:
        """They neither have the turn nor get it."""
        assert self.turns.holder not in self.abandoned
        assert not self.abandoned.intersection(self.turns.ready + self.turns.jobs)


TurnsMachine.TestCase.settings = settings(stateful_step_count=60)
TestTurns = TurnsMachine.TestCase


def test_a_job_that_waits_lends_its_process_and_gets_it_back() -> None:
    """With real threads: the second job runs while the first one waits."""
    state = OneValue()
    keeper = TurnKeeper(state, lambda job, waited: None, lambda job: None)
    events: list[str] = []
    answer, lent = threading.Event(), threading.Event()

    def first() -> None:
        job = JobTurn("first")
        assert keeper.begin(job)
        state.value = "of the first"
        with keeper.waiting(job):
            lent.set()
            assert answer.wait(SOON)
        events.append(state.value)
        keeper.end(job, [])

    thread = threading.Thread(target=first)
    thread.start()
    assert lent.wait(SOON)
    second = JobTurn("second")
    assert keeper.begin(second)
    assert state.value == FRESH
    state.value = "of the second"
    answer.set()
    assert not keeper.begin(JobTurn("third"))
    events.append(state.value)
    assert keeper.end(second, []) == []
    thread.join(SOON)
    assert events == ["of the second", "of the first"]
    assert state.value == FRESH


def test_a_job_whose_state_cannot_be_put_back_begins_elsewhere() -> None:
    """Its directory is gone, say: it says so at once, and another one has the turn."""

    class Fragile(OneValue):
        def restore(self, saved: str) -> None:
            if saved == "lost":
                raise CannotPutBack("it is gone")
            super().restore(saved)

    state = Fragile()
    turns = Turns(state)
    first, second, third = JobTurn("first"), JobTurn("second"), JobTurn("third")
    assert turns.begin(first)
    state.value = "lost"
    turns.waits(first)
    assert turns.begin(second)
    turns.waits(second)
    assert not turns.executes(first)
    assert first.lost == "it is gone"
    assert turns.holder is None and state.value == FRESH
    assert turns.executes(second)
    assert turns.abandon(first)
    assert turns.end(second, []) == []
    assert turns.begin(third)


def test_no_job_begins_in_a_process_that_is_not_like_a_fresh_one() -> None:
    """A limit that cannot be raised again, say; the job that waits goes on there."""

    class Changed(OneValue):
        def reset(self) -> list[str]:
            return [*super().reset(), "a limit was changed"]

    state = Changed()
    turns = Turns(state)
    first = JobTurn("first")
    assert turns.begin(first)
    state.value = "of the first"
    turns.waits(first)
    assert not turns.begin(JobTurn("second"))
    assert (turns.holder, turns.jobs, state.value) == (first, [first], "of the first")
    assert turns.executes(first)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is long lasts less long."""
    monkeypatch.setattr(turn_keeper, "PATIENCE", PATIENCE)


def test_a_job_that_waits_long_for_its_process_says_so(impatient: None) -> None:
    """Once; it can then be abandoned, and never goes on."""
    waits: dict[str, float] = {}
    told = threading.Event()

    def starved(job: str, waited: float) -> None:
        waits[job] = waited
        told.set()

    keeper = TurnKeeper(OneValue(), starved, lambda job: None)
    lent = threading.Event()
    went_on = threading.Event()

    def first() -> None:
        job = JobTurn("first")
        keeper.begin(job)
        with keeper.waiting(job):
            lent.set()
            while not held.is_set():
                held.wait(SOON)
        went_on.set()

    held = threading.Event()
    threading.Thread(target=first, daemon=True).start()
    assert lent.wait(SOON)
    second = JobTurn("second")
    assert keeper.begin(second)
    held.set()
    assert told.wait(SOON)
    assert list(waits) == ["first"] and waits["first"] >= PATIENCE
    assert keeper.abandon("first")
    assert not keeper.abandon("second")
    keeper.end(second, [])
    third = JobTurn("third")
    assert keeper.begin(third)
    assert not went_on.is_set()


def test_one_that_stands_still_beside_an_abandoned_one_is_told(
    impatient: None,
) -> None:
    """It may wait for a lock which that one holds, and would do so for ever."""
    stuck: list[str] = []
    told, held, lent = threading.Event(), threading.Event(), threading.Event()
    lock = threading.Lock()

    def is_stuck(job: str) -> None:
        stuck.append(job)
        told.set()

    keeper: TurnKeeper
    keeper = TurnKeeper(
        OneValue(), lambda job, waited: keeper.abandon(job) and None, is_stuck
    )

    def first() -> None:
        job = JobTurn("first")
        keeper.begin(job)
        with lock, keeper.waiting(job):
            lent.set()
            held.wait(SOON)

    def second() -> None:
        keeper.begin(JobTurn("second"))
        held.set()
        with lock:
            raise AssertionError("the first one holds it for ever")

    threading.Thread(target=first, daemon=True).start()
    assert lent.wait(SOON)
    threading.Thread(target=second, daemon=True).start()
    assert told.wait(SOON)
    assert stuck == ["second"]


@pytest.mark.parametrize(
    ("foreign", "left"), [(True, []), (False, ["threads: Thread-1"])]
)
def test_nothing_begins_any_more_in_a_process_that_cannot_be_put_right(
    foreign: bool, left: list[str]
) -> None:
    """The Dask worker may not know yet."""
    state = OneValue()
    keeper = TurnKeeper(state, lambda job, waited: None, lambda job: None)
    job = JobTurn("first")
    assert keeper.begin(job)
    state.foreign = foreign
    assert keeper.end(job, left) == (["has foreign code"] if foreign else [])
    assert not keeper.begin(JobTurn("second"))


def test_a_state_that_cannot_be_saved_lets_no_other_job_begin() -> None:
    """The job that waits goes on in it as if nothing had happened."""

    class Unsaved(OneValue):
        def save(self) -> str:
            raise CannotPutBack("it is odd")

    state = Unsaved()
    turns = Turns(state)
    first = JobTurn("first")
    assert turns.begin(first)
    state.value = "of the first"
    turns.waits(first)
    assert not turns.begin(JobTurn("second"))
    assert (turns.holder, turns.jobs, state.value) == (first, [first], "of the first")
    assert turns.executes(first)

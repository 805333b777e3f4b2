"""A batch system that lies, delays, forgets and duplicates, against the pure core.

Whatever it does, there are never more jobs in its queue than allowed, it comes to rest
with the jobs that are wanted, and at the end nothing of ours is left, or is said to be.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from helpers.examples import examples
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from seamless_dask.wrapper.jobs.farewell import Farewell
from seamless_dask.wrapper.jobs.queues import Row, Rows
from seamless_dask.wrapper.scaling.fleet import Fleet, Rules

#: How long an accepted job may be invisible; with a stale answer, less than the rules allow.
INVISIBLE = 18
#: How old an answer from a cache may be.
STALE = 40


@dataclass
class Real:
    """A job as it is."""

    place: str = "pending"
    visible_at: float = 0.0
    #: It was told to end, and so is no longer in the queue but for its last moments.
    told: bool = False
    connected: bool = False
    word: str = ""


@dataclass
class Lies:
    """How the batch system behaves at the moment."""

    submit: str = "honest"
    query: str = "honest"
    search: str = "honest"
    cancel: str = "honest"
    #: Which of the ids that were said before is repeated.
    repeat: int = 0
    #: The worker connects before the submission has answered.
    early: bool = False
    delay: int = 0
    latency: int = 0


@dataclass
class Queue:
    """What is true, and what is said."""

    lies: Lies = field(default_factory=Lies)
    jobs: dict[str, Real] = field(default_factory=dict)
    count: int = 0
    history: list[tuple[float, Rows]] = field(default_factory=list)
    shown_from: float = float("-inf")
    omitted: set[str] = field(default_factory=set)
    said_ids: list[str] = field(default_factory=list)

    def alive(self) -> list[str]:
        return [
            job_id
            for job_id, job in self.jobs.items()
            if job.place != "gone" and not job.told
        ]

    def accept(self, now: float) -> str:
        self.count += 1
        self.jobs[str(self.count)] = Real(visible_at=now + self.lies.delay)
        return str(self.count)

    def rows(self, now: float) -> Rows:
        found = {}
        for job_id, job in self.jobs.items():
            if now < job.visible_at:
                continue
            if job.place == "gone" or job.told:
                # it is shown for some time, or not at all
                if int(job_id) % 2:
                    found[job_id] = Row("gone", job.word or "CA", "n1", blame="nobody")
            else:
                found[job_id] = Row(
                    job.place, "R" if job.place == "running" else "PD", "n1"
                )
        return found

    def remember(self, now: float) -> None:
        self.history.append((now, self.rows(now)))
        del self.history[: -STALE - 1]

    def said(self, lie: str, now: float, search: bool = False) -> Rows | None:
        """An answer: None if there is none."""
        if lie == "silent":
            return None
        if lie != "forgetful" and not search:
            self.omitted = set()
        if lie == "stale":
            # a cache does not go back in time
            past = [entry for entry in self.history if entry[0] >= self.shown_from]
            if past:
                self.shown_from, rows = past[0]
                return dict(rows)
        self.shown_from = max(self.shown_from, now)
        rows = self.rows(now)
        if lie == "forgetful":
            left_out = {job for job in rows if job not in self.omitted}
            left_out = set(sorted(left_out)[:2])
            self.omitted = left_out  # never the same one twice in a row
            return {job: row for job, row in rows.items() if job not in left_out}
        return rows

    def cancel(self, job_ids: list[str]) -> bool:
        """Whether the command has ended without a complaint."""
        if self.lies.cancel == "deaf":
            return False
        for job_id in job_ids:
            if job_id in self.jobs:
                self.jobs[job_id].told = True
                self.jobs[job_id].connected = False
        return all(job_id in self.jobs for job_id in job_ids)


class LyingQueue(RuleBasedStateMachine):
    """The fleet against it, second by second."""

    duplicates = False

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.queue = Queue()
        self.free: list[str] = []
        self.pending: list[tuple[float, str, float, Rows]] = []
        self.notes: list[str] = []

    @initialize(
        maximum=st.integers(1, 4),
        lifetime=st.sampled_from([None, 150.0]),
    )
    def begin(self, maximum: int, lifetime: float | None) -> None:
        rules = Rules(maximum=maximum, lifetime=lifetime)
        self.maximum = maximum
        self.fleet = Fleet(rules, self.notes.append)
        self.fleet.wanted = maximum

    # --- what the batch system does

    @rule(
        submit=st.sampled_from(
            (
                "honest refuses accepts_and_fails fails unreadable duplicates repeats"
            ).split()
        ),
        repeat=st.integers(0, 3),
        early=st.booleans(),
        query=st.sampled_from("honest silent forgetful stale".split()),
        search=st.sampled_from("honest silent stale".split()),
        cancel=st.sampled_from("honest deaf".split()),
        delay=st.integers(0, INVISIBLE),
        latency=st.integers(0, 8),
    )
    def behave(self, **lies: object) -> None:
        if lies["submit"] == "duplicates" and not self.duplicates:
            lies["submit"] = "honest"
        self.queue.lies = Lies(**lies)  # type: ignore[arg-type]

    @rule(number=st.integers(0, 9))
    def start(self, number: int) -> None:
        job = self._job(number)
        if job is not None and job[1].place == "pending":
            job[1].place = "running"

    @rule(number=st.integers(0, 9))
    def connect(self, number: int) -> None:
        job = self._job(number)
        if job is not None and not job[1].told:
            job[1].place, job[1].connected = "running", True
            self.fleet.connected(job[0], f"tcp://{job[0]}", self.now)

    @rule(number=st.integers(0, 9))
    def lose(self, number: int) -> None:
        job = self._job(number)
        if job is not None:
            job[1].connected = False
            self.fleet.disconnected(job[0], f"tcp://{job[0]}", self.now)

    @rule(number=st.integers(0, 9), word=st.sampled_from("CD F CA TO NF".split()))
    def finish(self, number: int, word: str) -> None:
        job = self._job(number)
        if job is not None:
            job[1].place, job[1].word = "gone", word
            self.lose(number)
            self.fleet.disconnected(job[0], f"tcp://{job[0]}", self.now)

    @rule(number=st.integers(0, 9))
    def hold(self, number: int) -> None:
        job = self._job(number)
        if job is not None and job[1].place == "pending":
            job[1].place = "held"

    def _job(self, number: int) -> tuple[str, Real] | None:
        alive = self.queue.alive()
        if not alive:
            return None
        job_id = alive[number % len(alive)]
        return job_id, self.queue.jobs[job_id]

    # --- what is wanted

    @rule(wanted=st.integers(0, 4))
    def want(self, wanted: int) -> None:
        self.fleet.wanted = min(wanted, self.maximum)

    @rule()
    def set_free(self) -> None:
        self.free = list(self.fleet.jobs)

    @rule(number=st.integers(0, 9))
    def show_life(self, number: int) -> None:
        job = self._job(number)
        if job is not None:
            self.fleet.alive(job[0], self.now)

    @rule(seconds=st.integers(1, 100))
    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            self.second()

    # --- what the shell would do

    def second(self) -> None:
        self.now += 1
        queue = self.queue
        queue.remember(self.now)
        for entry in [entry for entry in self.pending if entry[0] <= self.now]:
            self.pending.remove(entry)
            self._deliver(*entry[1:])
        actions = self.fleet.step(
            self.now, [j for j in self.free if j in self.fleet.jobs]
        )
        for number in range(actions.submit):
            if not self._submit():
                self.fleet.withdrawn(actions.submit - number - 1)
                break
            self.bounded()
        if actions.cancel:
            self._cancel(list(actions.cancel))
        for job_id in actions.retire:
            self.fleet.disconnected(job_id, f"tcp://{job_id}", self.now)
            if self.fleet.retired(job_id, self.now):
                self._cancel([job_id])
        for asked, kind, lie in (
            (actions.query, "query", queue.lies.query),
            (actions.search, "search", queue.lies.search),
        ):
            search = kind == "search"
            rows = queue.said(lie, self.now, search) if asked else None
            if rows is not None:
                entry = (self.now + queue.lies.latency, kind, self.now, rows)
                self.pending.append(entry)

    def _deliver(self, kind: str, asked_at: float, rows: Rows) -> None:
        if kind == "query":
            self.fleet.answered(rows, asked_at, self.now)
        else:
            self.fleet.searched(rows, asked_at, self.now)

    def _submit(self) -> bool:
        queue, fleet = self.queue, self.fleet
        if queue.lies.submit == "refuses":
            fleet.refused("no such partition", self.now)
            return False
        if queue.lies.submit == "fails":
            fleet.refused("timed out", self.now, doubtful=True)
            return False
        job_id = queue.accept(self.now)
        if queue.lies.early:
            job = queue.jobs[job_id]
            job.place, job.connected = "running", True
            fleet.connected(job_id, f"tcp://{job_id}", self.now)
        if queue.lies.submit in ("accepts_and_fails", "unreadable"):
            fleet.refused("timed out", self.now, doubtful=True)
            return False
        if queue.lies.submit == "duplicates":
            queue.jobs[queue.accept(self.now)].visible_at = self.now
        if queue.lies.submit == "repeats" and queue.said_ids:
            job_id = queue.said_ids[-1 - queue.lies.repeat % len(queue.said_ids)]
        queue.said_ids.append(job_id)
        return fleet.submitted(job_id, self.now)

    def _cancel(self, job_ids: list[str]) -> None:
        lost = [job_id for job_id in job_ids if job_id in self.queue.jobs]
        if self.queue.lies.cancel == "honest":
            for job_id in lost:
                self.fleet.disconnected(job_id, f"tcp://{job_id}", self.now)
        if not self.queue.cancel(job_ids):
            self.fleet.not_cancelled(job_ids)

    # --- what must hold

    @precondition(lambda self: hasattr(self, "fleet"))
    @invariant()
    def bounded(self) -> None:
        if not self.duplicates:
            assert len(self.queue.alive()) <= self.maximum, self.notes

    def teardown(self) -> None:
        if hasattr(self, "fleet"):
            if self.count_of_rest():
                self.come_to_rest()
            self.end()

    def count_of_rest(self) -> bool:
        """Every other run ends in the middle of everything."""
        return self.queue.count % 2 == 0

    def come_to_rest(self) -> None:
        """The batch system is honest from now on: what is wanted is there, no more."""
        self.queue.lies = Lies()
        self.fleet.rules = replace(self.fleet.rules, lifetime=None)
        self.fleet.wanted = 1
        for _ in range(2000):
            self.second()
            self.free = [
                job.id for job in self.fleet.jobs.values() if job.state == "connected"
            ]
            for job_id in self.queue.alive():
                job = self.queue.jobs[job_id]
                if not job.connected and self.now >= job.visible_at:
                    job.place, job.connected = "running", True
                    self.fleet.connected(job_id, f"tcp://{job_id}", self.now)
        assert len(self.queue.alive()) == 1, (self.notes, self.queue.jobs)
        assert [job.id for job in self.fleet.live(self.now)] == self.queue.alive()

    def end(self) -> None:
        """What is left is named; with time enough nothing is left."""
        farewell = self.fleet.farewell(self.now)
        lies = self.queue.lies
        for turn in range(200):
            self.now += 1
            self.queue.remember(self.now)
            if turn == 100:
                self.queue.lies = lies = Lies()
            self.one_round(farewell, lies)
            if farewell.done:
                break
        assert farewell.done
        assert not self.queue.alive(), (farewell.left, self.notes)

    def one_round(self, farewell: Farewell, lies: Lies) -> None:
        for job_ids in farewell.to_cancel():
            farewell.cancelled(job_ids, self.queue.cancel(job_ids))
        asked = farewell.left
        rows = self.queue.said(lies.query, self.now)
        if rows is not None and asked:
            farewell.answered(rows, asked)
        if farewell.search_due:
            silent = lies.search == "silent" and farewell.doubtful
            rows = None if silent else self.queue.said("honest", self.now, True)
            if rows is None:
                farewell.search_failed()
            else:
                farewell.searched(rows, self.now)


class DuplicatingQueue(LyingQueue):
    """Now and then one submission makes two jobs: noticed late, but noticed."""

    duplicates = True


RUNS = settings(
    max_examples=examples(100),
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow],
    report_multiple_bugs=False,
    phases=[Phase.explicit, Phase.generate],
)
TestLyingQueue = LyingQueue.TestCase
TestLyingQueue.settings = RUNS
TestDuplicatingQueue = DuplicatingQueue.TestCase
TestDuplicatingQueue.settings = RUNS


@pytest.mark.parametrize("accepted", [True, False])
def test_a_job_that_the_queue_never_showed_is_gone_if_the_cancellation_says_so(
    accepted: bool,
) -> None:
    farewell = Farewell({"1": False})
    farewell.cancelled(["1"], accepted=accepted)
    for _ in range(5):
        farewell.answered({}, ["1"])
    farewell.searched({}, 1.0)
    assert farewell.left == ([] if accepted else ["1"])


def test_what_may_still_appear_is_waited_for() -> None:
    farewell = Farewell({}, doubtful_until=100.0)
    farewell.searched({}, 50.0)
    assert not farewell.done and farewell.doubtful
    assert farewell.searched({"7": Row("pending", "PD")}, 60.0) == ["7"]
    assert farewell.to_cancel() == [["7"]]
    farewell.cancelled(["7"], accepted=True)
    farewell.answered({}, ["7"])
    farewell.searched({}, 100.0)
    assert farewell.done

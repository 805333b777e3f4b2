"""The jobs of a batch system: what is wanted, what is there, and what connects."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from helpers.examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from seamless_dask.wrapper.jobs.queues import Row
from seamless_dask.wrapper.scaling.fleet import BURST, Fleet, Rules
from seamless_dask.wrapper.scaling.nodes import EXCLUSION_SECONDS

RULES = Rules()


class BatchSystem:
    """A batch system and a clock, with everything that can go wrong at will."""

    def __init__(self, rules: Rules = RULES):
        self.notes: list[str] = []
        self.fleet = Fleet(rules, self.notes.append)
        self.now = 1000.0
        self.rows: dict[str, Row] = {}
        self.refuses = ""
        self.limit = 10**6
        self.deaf = False
        self.free: list[str] = []
        self.count = 0
        self.queries: list[float] = []
        self.cancelled: list[str] = []

    def step(self, seconds: float = 1.0) -> None:
        """Time goes on, and the fleet does what it wants to."""
        self.now += seconds
        actions = self.fleet.step(self.now, self.free)
        for number in range(actions.submit):
            if self.refuses or len(self.rows) >= self.limit:
                self.fleet.withdrawn(actions.submit - number - 1)
                self.fleet.refused(self.refuses or "limit", self.now)
                break
            self.count += 1
            self.rows[str(self.count)] = Row("pending", "PD")
            self.fleet.submitted(str(self.count), self.now)
        for job_id in actions.cancel:
            self.cancelled.append(job_id)
            if not self.deaf:
                self.rows.pop(job_id, None)
                self.lose(job_id)
        for job_id in actions.retire:
            self.lose(job_id)
            self.rows.pop(job_id, None)
            assert self.fleet.retired(job_id, self.now) == job_id
        if actions.query:
            self.queries.append(self.now)
            self.fleet.answered(dict(self.rows), self.now, self.now)

    def steps(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.step()

    def run(self, job_id: str, node: str = "n1") -> None:
        """The batch system starts a job."""
        self.rows[job_id] = Row("running", "R", node)

    def connect(self, job_id: str) -> None:
        """The worker of a job connects."""
        if self.rows[job_id].place != "running":
            self.run(job_id)
        self.fleet.connected(job_id, f"tcp://{job_id}", self.now)

    def lose(self, job_id: str) -> None:
        """The worker of a job is gone."""
        self.fleet.disconnected(job_id, f"tcp://{job_id}", self.now)

    def states(self) -> dict[str, str]:
        return {job.id: job.state for job in self.fleet.jobs.values()}


@pytest.fixture
def system() -> BatchSystem:
    return BatchSystem()


def test_jobs_that_are_wanted_are_submitted_once(system: BatchSystem) -> None:
    system.fleet.wanted = 3
    system.steps(100)
    assert system.states() == {"1": "pending", "2": "pending", "3": "pending"}
    assert system.count == 3


def test_a_large_number_is_submitted_in_portions(system: BatchSystem) -> None:
    system.fleet.wanted = 3 * BURST
    system.step()
    assert system.count == BURST
    system.steps(2)
    assert system.count == 3 * BURST


def test_no_queue_is_asked_more_than_twice_a_minute(system: BatchSystem) -> None:
    system.fleet.wanted = 50
    system.steps(600)
    pauses = [b - a for a, b in pairwise(system.queries)]
    assert pauses and min(pauses) >= RULES.query


def test_nothing_is_asked_when_all_is_known(system: BatchSystem) -> None:
    system.fleet.wanted = 2
    system.step()
    system.connect("1")
    system.connect("2")
    system.steps(60)
    asked = len(system.queries)
    system.steps(600)
    assert len(system.queries) == asked


def test_a_job_that_is_cancelled_by_hand_is_replaced(system: BatchSystem) -> None:
    system.fleet.wanted = 2
    system.step()
    system.rows["1"] = Row("gone", "CA", blame="nobody")
    system.steps(40)
    assert system.states() == {"2": "pending", "3": "pending"}
    assert not system.fleet.nodes.excluded


def test_refused_submissions_are_tried_again_with_longer_and_longer_pauses(
    system: BatchSystem,
) -> None:
    system.fleet.wanted = 5
    system.refuses = "QOSMaxSubmitJobPerUserLimit"
    system.steps(600)
    refusals = [note for note in system.notes if "QOSMaxSubmit" in note]
    assert 5 <= len(refusals) <= 8
    assert system.fleet.refusals.reason
    system.refuses = ""
    system.steps(RULES.retry_most + 10)
    assert len(system.fleet.jobs) == 5
    assert not system.fleet.refusals.reason


def test_a_limit_on_jobs_does_not_keep_the_ones_that_fit_waiting(
    system: BatchSystem,
) -> None:
    """The batch system takes two jobs at a time and refuses all others."""
    system.fleet.wanted = 4
    system.limit = 2
    for _ in range(900):
        system.step()
        for job_id in list(system.rows):
            if system.rows[job_id].place == "pending":
                system.connect(job_id)
    assert len(system.fleet.live(system.now)) == 2


def test_a_job_that_starts_and_never_connects_is_cancelled_and_replaced(
    system: BatchSystem,
) -> None:
    system.fleet.wanted = 1
    system.step()
    system.run("1", "bad")
    system.steps(RULES.query + RULES.connect + 5)
    assert "1" not in system.rows
    assert system.fleet.misfits.failures == 1
    system.steps(RULES.retry + 2)
    assert "2" in system.rows


def test_jobs_that_end_before_they_connect_are_submitted_ever_more_rarely(
    system: BatchSystem,
) -> None:
    """A broken environment must not fill the log of the batch system."""
    system.fleet.wanted = 10
    for _ in range(3600):
        system.step()
        for job_id in list(system.rows):
            system.rows[job_id] = Row("gone", "F", "", "NonZeroExitCode")
    assert system.count <= BURST + 16


def test_a_node_on_which_two_jobs_fail_in_a_row_gets_none_for_a_while(
    system: BatchSystem,
) -> None:
    system.fleet.wanted = 1
    failures = 0
    while not system.fleet.nodes.excluded:
        system.step()
        for job_id, row in list(system.rows.items()):
            if row.place == "pending":
                failures += 1
                system.rows[job_id] = Row("gone", "F", "bad")
        assert failures < 3
    assert list(system.fleet.nodes.excluded) == ["bad"]
    assert any("node bad gets no new jobs" in note for note in system.notes)
    system.steps(EXCLUSION_SECONDS + 1)
    assert not system.fleet.nodes.excluded


def test_a_node_that_works_in_between_is_not_excluded(system: BatchSystem) -> None:
    nodes = system.fleet.nodes
    nodes.failed("n1", "why", 0.0)
    nodes.worked("n1")
    nodes.failed("n1", "why", 1.0)
    assert not nodes.excluded


def test_a_held_job_is_replaced(system: BatchSystem) -> None:
    system.fleet.wanted = 1
    system.step()
    system.rows["1"] = Row("held", "PD", reason="JobHeldUser")
    system.steps(RULES.query + RULES.held + RULES.retry + 10)
    assert system.cancelled == ["1"]
    assert system.states() == {"2": "pending"}


def test_a_job_that_goes_back_to_the_queue_is_waited_for(system: BatchSystem) -> None:
    """SLURM starts a job again when its node has died."""
    system.fleet.wanted = 1
    system.step()
    system.connect("1")
    system.steps(40)
    system.lose("1")
    system.rows["1"] = Row("pending", "PD", reason="BeginTime")
    system.steps(300)
    assert system.states() == {"1": "pending"}
    system.connect("1")
    assert system.states() == {"1": "connected"}


def test_pending_jobs_are_given_up_before_connected_ones(system: BatchSystem) -> None:
    system.fleet.wanted = 3
    system.step()
    system.connect("2")
    system.free = ["2"]
    system.fleet.wanted = 1
    system.step()
    assert system.cancelled == ["3", "1"]
    assert system.states()["2"] == "connected"


def test_a_job_that_is_not_free_stays(system: BatchSystem) -> None:
    system.fleet.wanted = 2
    system.step()
    system.connect("1")
    system.connect("2")
    system.fleet.wanted = 0
    system.steps(5)
    assert set(system.states().values()) == {"connected"}
    system.free = ["1"]
    system.step()
    assert system.states() == {"1": "ending", "2": "connected"}


def test_a_successor_is_requested_before_the_end_of_a_worker() -> None:
    system = BatchSystem(replace(RULES, lifetime=120.0, lead=30.0))
    system.fleet.wanted = 1
    system.step()
    system.connect("1")
    system.steps(80)
    assert list(system.rows) == ["1"]
    system.steps(15)
    assert list(system.rows) == ["1", "2"]
    assert "1" not in system.cancelled


def test_a_job_that_survives_its_cancellation_is_cancelled_again(
    system: BatchSystem,
) -> None:
    system.fleet.wanted = 1
    system.step()
    system.fleet.wanted = 0
    system.deaf = True
    system.steps(5)
    system.deaf = False
    assert "1" in system.rows
    system.steps(70)
    assert not system.rows
    assert not system.fleet.jobs


def test_a_lost_submission_is_adopted_when_its_worker_connects(
    system: BatchSystem,
) -> None:
    """The command took too long, so nobody knows that there is a job."""
    system.fleet.wanted = 1
    system.refuses = "sbatch took longer than 30 s"
    system.step()
    system.refuses = ""
    system.rows["77"] = Row("running", "R", "n1")
    system.fleet.connected("77", "tcp://77", system.now)
    system.steps(100)
    assert system.states() == {"77": "connected"}


EVENTS = st.sampled_from(
    "start connect lose cancel fail hold release refuse accept want free pause".split()
)


@settings(max_examples=examples(200))
@given(
    st.lists(st.tuples(EVENTS, st.integers(0, 12), st.integers(1, 50)), max_size=60),
    st.sampled_from([None, 200.0]),
)
def test_whatever_happens_it_converges(
    events: list[tuple[str, int, int]], lifetime: float | None
) -> None:
    """After any history: exactly the wanted jobs, in the queue and in the books."""
    system = BatchSystem(replace(RULES, lifetime=lifetime))
    for event, number, seconds in events:
        jobs = list(system.rows)
        job_id = jobs[number % len(jobs)] if jobs else None
        row = system.rows.get(job_id or "")
        if event == "want":
            system.fleet.wanted = number
        elif event == "refuse":
            system.refuses = "no"
        elif event == "accept":
            system.refuses = ""
        elif job_id is None or row is None or row.place == "gone":
            system.steps(seconds)
        elif event == "start":
            system.run(job_id, f"n{number}")
        elif event == "connect":
            system.connect(job_id)
        elif event == "lose":
            system.lose(job_id)
        elif event in ("cancel", "fail"):
            system.rows[job_id] = replace(
                row, place="gone", blame="nobody" if event == "cancel" else ""
            )
            system.lose(job_id)
        elif event == "hold":
            if row.place == "pending":
                system.rows[job_id] = replace(row, place="held")
        elif event == "release":
            if row.place == "held":
                system.rows[job_id] = replace(row, place="pending")
        elif event == "free":
            system.free = [job for job in jobs if job in system.fleet.jobs]
        system.step()
        assert len(system.fleet.live(system.now)) <= max(
            system.fleet.wanted, len(system.rows)
        )

    # the trouble is over: whatever the batch system has, runs
    system.refuses = ""
    system.fleet.wanted = min(system.fleet.wanted, 5)
    system.fleet.rules = replace(system.fleet.rules, lifetime=None)
    for _ in range(1500):
        system.free = [
            job.id for job in system.fleet.jobs.values() if job.state == "connected"
        ]
        system.step()
        for job_id, row in list(system.rows.items()):
            if row.place == "gone":
                del system.rows[job_id]
            elif row.place in ("pending", "running"):
                job = system.fleet.jobs.get(job_id)
                if job is not None and not job.workers and not job.cancelled:
                    system.connect(job_id)
    assert len(system.fleet.live(system.now)) == system.fleet.wanted
    assert set(system.rows) == {job.id for job in system.fleet.live(system.now)}

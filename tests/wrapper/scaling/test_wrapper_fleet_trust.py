"""How far the fleet believes the batch system, and for how long."""

from __future__ import annotations

from dataclasses import replace

import pytest

from seamless_dask.wrapper.jobs.queues import Row, Rows
from seamless_dask.wrapper.scaling.fleet import Actions, Fleet, Rules
from seamless_dask.wrapper.scaling.nodes import EXCLUSION_SECONDS

RULES = Rules(maximum=2, death_timeout_key="jobqueue.slurm.death-timeout")
PENDING, RUNNING = Row("pending", "PD"), Row("running", "R", "n1")


class Story:
    """A fleet and a clock."""

    def __init__(self, rules: Rules = RULES, wanted: int = 1):
        self.notes: list[str] = []
        self.fleet = Fleet(rules, self.notes.append)
        self.fleet.wanted = wanted
        self.now = 1000.0

    def step(self, seconds: float = 1.0) -> Actions:
        self.now += seconds
        return self.fleet.step(self.now)

    def submit(self, *job_ids: str, avoids: tuple[str, ...] = ()) -> None:
        """Jobs that the fleet wants are taken."""
        assert self.step().submit == len(job_ids)
        for job_id in job_ids:
            self.fleet.submitted(job_id, self.now, avoids)
        self.now += 1

    def answer(self, rows: Rows) -> list[str]:
        """The queue answers at once; return the jobs that are gone."""
        self.now += 1
        gone = self.fleet.answered(rows, self.now, self.now)
        return [each.job.id for each in gone]

    def search(self, rows: Rows) -> list[str]:
        self.now += 1
        return self.fleet.searched(rows, self.now, self.now)

    def until_cancelled(self, seconds: int = 1000) -> str:
        """Wait until a job is cancelled; return why."""
        for _ in range(seconds):
            actions = self.step()
            for why in actions.cancel.values():
                return why
        raise AssertionError(self.notes)


def test_a_job_that_the_queue_never_showed_is_not_gone() -> None:
    story = Story()
    story.submit("1")
    for _ in range(30):
        assert story.answer({}) == []
        assert story.step().submit == 0
    why = story.until_cancelled()
    assert "the queue has not shown it for 120 s" in why and "--clusters" in why
    assert story.fleet.misfits.failures == 1
    assert "the queue has not shown job 1 for 6" in story.notes[0]


def test_a_job_that_is_given_up_unseen_is_cancelled_again_at_the_end() -> None:
    story = Story()
    story.submit("1")
    story.answer({})
    story.until_cancelled()
    story.now += RULES.dying
    assert story.answer({}) == [] and story.answer({}) == ["1"]
    assert story.fleet.unseen() == ["1"]
    farewell = story.fleet.farewell(story.now)
    assert farewell.to_cancel() == [["1"]]


@pytest.mark.parametrize("gone", [False, True])
def test_the_id_of_an_earlier_job_is_no_id(gone: bool) -> None:
    """The job is searched, and nothing else is submitted until it is found."""
    story = Story(replace(RULES, maximum=3), wanted=2)
    story.submit("7", "8")
    if gone:
        story.answer({"7": Row("gone", "CD"), "8": RUNNING})
        story.fleet.connected("8", "tcp://8", story.now)
    else:
        story.fleet.wanted = 3
    assert story.step().submit == 1
    assert not story.fleet.submitted("7", story.now)
    assert "holds the id of an earlier job, 7" in story.notes[-1]
    assert "its queue is searched first" in story.notes[-1]
    actions = story.step(RULES.retry + 1)
    assert actions.search and not actions.submit
    assert story.search({"8": RUNNING, "9": PENDING}) == ["9"]
    assert "9" in story.fleet.jobs and not story.step().submit


@pytest.mark.parametrize("answers", [False, True])
def test_a_worker_that_connects_before_the_answer(answers: bool) -> None:
    """Its id is taken from one answer, not from a second one."""
    story = Story()
    assert story.step().submit == 1
    story.fleet.connected("7", "tcp://7", story.now)
    if answers:
        assert story.fleet.submitted("7", story.now)
    else:
        story.fleet.refused("timed out", story.now, doubtful=True)
        story.now += RULES.hidden
        assert story.search({"7": RUNNING}) == []
    assert [job.id for job in story.fleet.live(story.now)] == ["7"]
    story.fleet.wanted = 2
    assert story.step().submit == 1
    assert not story.fleet.submitted("7", story.now)


def test_why_jobs_do_not_start_is_known_as_long_as_they_wait() -> None:
    """In the words of the batch system."""
    story = Story(wanted=2)
    story.submit("1", "2")
    assert story.fleet.pending_reasons() == {}
    waits = replace(PENDING, reason="Priority")
    story.answer({"1": waits, "2": replace(RUNNING, reason="")})
    assert story.fleet.pending_reasons() == {"Priority": 1}
    story.answer({"1": RUNNING, "2": RUNNING})
    assert story.fleet.pending_reasons() == {}


@pytest.mark.parametrize("refuses", [True, False])
def test_a_job_that_was_never_shown_and_refuses_to_end_is_not_gone(
    refuses: bool,
) -> None:
    """Its place is not given to another one as long as the queue may not show it."""
    story = Story()
    story.submit("1")
    submitted = story.now
    story.fleet.wanted = 0
    assert "1" in story.step().cancel
    if refuses:
        story.fleet.not_cancelled(["1"])
    story.now += RULES.dying
    assert story.answer({}) == []
    assert story.answer({}) == ([] if refuses else ["1"])
    story.now = submitted + RULES.unseen
    assert story.answer({}) == (["1"] if refuses else [])


def test_one_answer_without_a_job_is_not_enough() -> None:
    story = Story()
    story.submit("1")
    story.answer({"1": PENDING})
    assert story.answer({}) == []
    assert story.answer({"1": PENDING}) == []
    assert story.answer({}) == []
    assert story.answer({}) == ["1"]


def test_a_failed_submission_is_searched_for_before_the_next() -> None:
    story = Story()
    assert story.step().submit == 1
    story.fleet.refused("Socket timed out", story.now, doubtful=True)
    actions = story.step()
    assert actions.search and not actions.submit
    assert story.search({}) == []
    for _ in range(50):
        assert story.step().submit == 0
    assert story.search({"7": PENDING}) == ["7"]
    assert not story.fleet.refusals.failures
    assert list(story.fleet.jobs) == ["7"] and story.step().submit == 0


def test_a_submission_that_was_really_lost_is_made_again() -> None:
    story = Story()
    story.step()
    story.fleet.refused("Socket timed out", story.now, doubtful=True)
    submitted = 0
    for _ in range(int(RULES.hidden) + 40):
        actions = story.step()
        submitted += actions.submit
        if actions.search:
            story.fleet.searched({}, story.now, story.now)
    assert submitted == 1


def test_a_silent_queue_does_not_stop_everything_for_ever() -> None:
    story = Story()
    story.step()
    story.fleet.refused("Socket timed out", story.now, doubtful=True)
    assert any(story.step().submit for _ in range(700))


def test_a_job_that_was_taken_for_gone_is_cancelled_when_it_shows_up() -> None:
    story = Story()
    story.submit("1")
    story.answer({"1": PENDING})
    story.answer({})
    assert story.answer({}) == ["1"]
    story.search({"1": PENDING})
    assert "1" in story.step().cancel


def test_jobs_nobody_knew_are_cancelled_if_they_are_too_many() -> None:
    """The batch system has made two jobs of one submission."""
    story = Story()
    story.submit("1")
    assert story.search({"1": PENDING, "2": PENDING, "3": Row("gone", "CD")}) == ["2"]
    assert list(story.step().cancel) == ["2"]


def test_a_job_that_is_just_being_submitted_is_nothing_unknown() -> None:
    """The queue may show it before the command that submits it has ended."""
    story = Story()
    assert story.step().submit == 1
    assert story.search({"1": PENDING}) == []
    assert not story.step().cancel
    story.fleet.submitted("1", story.now)
    assert list(story.fleet.jobs) == ["1"] and not story.step().cancel


def test_never_more_jobs_than_allowed_also_while_others_end() -> None:
    story = Story(wanted=2)
    story.submit("1", "2")
    story.answer({"1": Row("held", "PD"), "2": Row("held", "PD")})
    story.now += RULES.held
    assert set(story.step().cancel) == {"1", "2"}
    for _ in range(40):
        assert story.step().submit == 0  # they are still there
    story.answer({"1": Row("ending", "CG"), "2": Row("held", "PD")})
    assert sum(story.step().submit for _ in range(20)) == 1


def test_one_job_more_takes_over_the_results_of_all_that_leave() -> None:
    story = Story(wanted=2)
    story.submit("1", "2")
    for job_id in ("1", "2"):
        story.fleet.connected(job_id, job_id, story.now)
    story.answer({"1": RUNNING, "2": RUNNING})
    story.fleet.leave(lambda address: address == "1")
    assert story.step().submit == 0  # the other one is there
    story.fleet.leave(lambda address: True)
    assert story.step().submit == 1
    story.fleet.submitted("3", story.now)
    assert story.step().submit == 0


@pytest.mark.parametrize("word", ["CD", "F", "TO"])
def test_a_job_without_a_worker_has_failed_whatever_its_code(word: str) -> None:
    story = Story()
    story.submit("1")
    blame = "" if word == "F" else "nobody"
    assert story.answer({"1": Row("gone", word, "n1", blame=blame)}) == ["1"]
    assert story.fleet.misfits.failures == 1 and story.fleet.troubled
    assert f"on n1 ({word})" in story.fleet.misfits.reason
    assert story.step().submit == 0


def test_somebody_may_cancel_a_job_but_a_rule_of_the_site_is_a_failure() -> None:
    story = Story()
    cancelled = Row("gone", "CA", blame="nobody", withdrawn=True)
    story.submit("1")
    story.answer({"1": cancelled})
    assert not story.fleet.misfits.failures
    story.submit("2")
    story.answer({"2": cancelled})
    assert story.fleet.misfits.failures == 1
    assert not story.fleet.nodes.excluded


def test_a_node_where_no_worker_connects_is_excluded() -> None:
    story = Story()
    for job_id in ("1", "2"):
        while not story.fleet.step(story.now).submit:
            story.now += 1
        story.fleet.submitted(job_id, story.now)
        story.answer({job_id: RUNNING})
        assert "without a worker" in story.until_cancelled()
        assert story.answer({job_id: Row("gone", "CA", "n1", blame="nobody")}) == [
            job_id
        ]
    assert list(story.fleet.nodes.excluded) == ["n1"]


def test_the_sentence_names_the_limit_and_the_key() -> None:
    story = Story()
    story.submit("1")
    story.answer({"1": RUNNING})
    why = story.until_cancelled()
    assert "it ran on n1 for 75 s without a worker" in why
    assert "the limit is 75 s, jobqueue.slurm.death-timeout (60 s) plus 15 s" in why


def test_a_script_that_shows_life_gets_more_time_but_not_for_ever() -> None:
    story = Story()
    story.submit("1")
    story.answer({"1": RUNNING})
    begin = story.now
    for _ in range(70 * 9):
        assert not story.step().cancel
        story.fleet.alive("1", story.now)
    assert story.now - begin > 8 * RULES.connect
    for _ in range(1000):
        if story.step().cancel:
            break
        story.fleet.alive("1", story.now)
    assert 9 * RULES.connect < story.now - begin < 11 * RULES.connect


def test_nodes_that_are_given_up_are_not_excluded_again_at_once() -> None:
    story = Story()
    nodes = story.fleet.nodes
    nodes.failed("n1", "why", story.now)
    nodes.failed("n1", "why", story.now)
    assert list(nodes.excluded) == ["n1"]
    nodes.give_up("no job is taken", story.now)
    assert not nodes.excluded and "no job is taken" in story.notes[-1]
    nodes.failed("n1", "why", story.now + 10)
    assert not nodes.excluded
    nodes.failed("n1", "why", story.now + EXCLUSION_SECONDS + 1)
    assert list(nodes.excluded) == ["n1"]


def test_a_job_that_waits_only_because_of_what_it_avoids_is_replaced() -> None:
    """Its directives cannot be changed any more."""
    story = Story()
    nodes = story.fleet.nodes
    for _ in range(2):
        nodes.failed("n1", "why", story.now)
    story.submit("1", avoids=("n1",))
    story.answer({"1": replace(PENDING, reason="Priority")})
    for _ in range(500):
        assert not story.step().cancel
    why = story.until_cancelled()
    assert "it avoids n1, which may get jobs again" in why
    assert not story.fleet.misfits.failures


def test_excluded_nodes_are_given_up_if_there_are_no_others() -> None:
    story = Story()
    nodes = story.fleet.nodes
    for _ in range(2):
        nodes.failed("n1", "why", story.now)
    story.submit("1", avoids=("n1",))
    reason = "ReqNodeNotAvail, UnavailableNodes:n2"
    story.answer({"1": replace(PENDING, reason=reason)})
    assert reason in story.until_cancelled(100)
    assert not nodes.excluded

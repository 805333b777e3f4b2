"""The records about the jobs of a batch system: events, and conclusions. Pure.

If the queue does not show a job, the job may still be there: the queue may show it later,
or have left it out. And a submission that has failed may have been accepted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from ..jobs.queue_answers import Row, Rows
from .backoff import Backoff
from .fleet_job import Gone, Job, Rules
from .nodes import Nodes
from .suspicion import Suspicion

#: Most ended jobs that are remembered.
MOST_PAST = 1000
#: Answers in a row without a job that mean that it has gone.
ABSENCES = 2


class Books:
    """All jobs of one cluster.

    Parameters
    ----------
    rules
        The time limits.
    note
        Called with sentences for the log.
    """

    def __init__(self, rules: Rules, note: Callable[[str], None]):
        self.rules = rules
        self.nodes = Nodes(note)
        self.jobs: dict[str, Job] = {}
        #: How many jobs there should be.
        self.wanted = 0
        #: Submissions that are under way.
        self.submitting = 0
        #: Submissions that failed in a row.
        self.refusals = Backoff(rules.retry, rules.retry_most)
        #: Whether the queue may have a job that is not recorded here.
        self.suspicion = Suspicion(rules.hidden, rules.retry)
        #: Jobs that were given up and that the queue has never shown.
        self.unproved: dict[str, None] = {}
        #: When a job was last submitted or found; minus infinity: never.
        self.adopted_at = float("-inf")
        #: Whether any job or submission has failed.
        self.troubled = False
        #: Jobs that failed in a row before their worker connected.
        self.misfits = Backoff(rules.retry, rules.retry_most)
        #: Number of jobs in a row that others took out of the queue.
        self._withdrawals = 0
        #: Jobs that have left the queue.
        self._past: dict[str, None] = {}
        self._told_of_unseen = False
        self._note = note
        self._asked_at = float("-inf")

    # --- questions

    def counts(self) -> dict[str, int]:
        """The number of jobs by state; held ones count as pending, ending ones not."""
        counts = dict.fromkeys(("pending", "starting", "connected", "draining"), 0)
        for job in self.jobs.values():
            state = "pending" if job.state == "held" else job.state
            if state in counts:
                counts[state] += 1
        return counts

    def pending_reasons(self) -> dict[str, int]:
        """Why jobs do not start, as the batch system says; the number of jobs for each."""
        reasons = [
            job.reason for job in self.jobs.values() if job.state in ("pending", "held")
        ]
        return dict(Counter(filter(None, reasons)))

    def unseen(self) -> list[str]:
        """Jobs that the queue has never shown, including those that were given up."""
        never_shown = [job.id for job in self.jobs.values() if not job.shown]
        return [*self.unproved, *never_shown]

    def live(self, now: float) -> list[Job]:
        """Jobs that do the work or soon will, in the order of their submission."""
        return [job for job in self.jobs.values() if self._counts(job, now)]

    def _counts(self, job: Job, now: float) -> bool:
        return (
            job.state in ("pending", "held", "starting", "connected")
            and not job.retiring
            and not self._near_its_end(job, now)
        )

    def _near_its_end(self, job: Job, now: float) -> bool:
        if self.rules.lifetime is None or job.connected_at is None:
            return False
        return now >= job.connected_at + self.rules.lifetime - self.rules.lead

    # --- events

    def submitted(self, job_id: str, now: float, avoids: Iterable[str] = ()) -> bool:
        """The batch system took a job, which will not start on the nodes it avoids.

        Returns False if the id is that of an earlier job: then the id of this one is not
        known, and the submission counts as one that failed, but may have been accepted.
        """
        known = self.jobs.get(job_id)
        if job_id in self._past or (known is not None and known.claimed):
            why = f"the answer holds the id of an earlier job, {job_id}"
            self.refused(why, now, doubtful=True)
            return False
        self._submission_ended()
        self.refusals.worked()
        job = self._adopt(job_id, now)
        job.claimed, job.avoids = True, tuple(avoids)
        return True

    def refused(self, reason: str, now: float, *, doubtful: bool = False) -> None:
        """A submission failed; `doubtful` says that it may have been accepted."""
        self._submission_ended()
        self.suspicion.arise(now, doubtful=doubtful)
        what = f"the batch system took no job: {reason}"
        if doubtful:
            what += " (it may have taken it all the same: its queue is searched first)"
        self._failed(self.refusals, what, now)

    def _submission_ended(self, count: int = 1) -> None:
        self.submitting = max(0, self.submitting - count)
        if not self.submitting:  # nothing will answer with their ids
            for job in self.jobs.values():
                job.claimed = True

    def alive(self, job_id: str, now: float) -> None:
        """The script of a job has shown a sign of life."""
        job = self.jobs.get(job_id)
        if job is not None:
            job.alive_at = now

    def leave(self, leaving: Callable[[str], bool]) -> None:
        """Note which jobs have only workers that take no more tasks."""
        for job in self.jobs.values():
            job.leaving = bool(job.workers) and all(map(leaving, job.workers))

    def withdrawn(self, count: int) -> None:
        """Planned submissions are dropped, because one before them failed."""
        self._submission_ended(count)

    def connected(self, job_id: str, address: str, now: float) -> None:
        """A worker of a job has connected."""
        job = self.jobs.get(job_id)
        if job is None:
            # its submission was reported as a failure, or the queue was wrong
            self._note(f"job {job_id} is ours, but was not known: it is now")
            job = self._adopt(job_id, now)
            job.claimed = not self.submitting
            self.suspicion.confirmed()
        if job.connected_at is None:
            job.connected_at = now
        job.place = "running" if job.place in ("pending", "held") else job.place
        job.workers.add(address)
        job.alone_since = job.held_since = None
        job.absences, job.failed = 0, False
        self.misfits.worked()
        self._withdrawals = 0

    def disconnected(self, job_id: str, address: str, now: float) -> None:
        """A worker has gone."""
        job = self.jobs.get(job_id)
        if job is None or address not in job.workers:
            return
        job.workers.discard(address)
        if not job.retiring and not job.cancelled:
            job.lost.append(address)
        if not job.workers:
            job.alone_since = now

    def answered(
        self, rows: Mapping[str, Row], asked_at: float, now: float
    ) -> list[Gone]:
        """The queue has answered; return the jobs that are gone.

        A job is gone if the queue has shown it before and two answers in a row do not, or
        if it was cancelled and the queue does not show it; but not while its workers are
        connected.
        """
        gone = []
        for job in list(self.jobs.values()):
            row = rows.get(job.id)
            if row is not None and row.place != "gone":
                self._placed(job, row, now)
            elif job.workers:
                continue
            elif row is not None or self._has_left(job, asked_at):
                del self.jobs[job.id]
                _remember(self._past, job.id)
                if row is None and not job.shown:
                    _remember(self.unproved, job.id)
                gone.append(self._left(job, row, now))
        return gone

    def _has_left(self, job: Job, asked_at: float) -> bool:
        """Whether a job is gone that the queue does not show."""
        if job.submitted >= asked_at:
            return False
        job.absences += 1
        if not job.cancelled:
            return job.shown and job.absences >= ABSENCES
        told = asked_at - job.cancelled_at
        if job.shown:
            return told > 0 and (not job.refuses_to_end or job.absences >= ABSENCES)
        if job.refuses_to_end and asked_at - job.submitted < self.rules.unseen:
            return False  # it goes on, where the queue does not show it
        return told >= self.rules.dying and job.absences >= ABSENCES

    def not_cancelled(self, job_ids: Iterable[str]) -> None:
        """The command that cancels jobs reported an error."""
        for job_id in job_ids:
            if job_id in self.jobs:
                self.jobs[job_id].refuses_to_end = True
                self.jobs[job_id].absences = 0

    def searched(self, rows: Rows, asked_at: float, now: float) -> list[str]:
        """The queue was searched for jobs by name; return the jobs that were unknown."""
        found = []
        for job_id, row in rows.items():
            if row.place in ("gone", "ending"):
                continue
            job = self.jobs.get(job_id)
            if job is None and self.submitting:
                continue  # a submission under way may be about to report it
            if job is None:
                found.append(job_id)
                job = self._adopt(job_id, now)
                if job_id in self._past:  # it was given up, so it has to go
                    job.cancelled, job.cancelled_at = True, now - self.rules.dying
                    self._note(f"job {job_id} was taken for gone, but is in the queue")
                else:
                    self._note(f"job {job_id} was found in the queue by its name")
            self._placed(job, row, now)
        if found:
            self.suspicion.confirmed()
            self.refusals.worked()
        else:
            self.suspicion.answered(asked_at)
        return found

    def _adopt(self, job_id: str, now: float) -> Job:
        self.adopted_at = now
        self.unproved.pop(job_id, None)
        # a worker may connect before the command that submitted its job has ended
        return self.jobs.setdefault(job_id, Job(job_id, submitted=now))

    def _placed(self, job: Job, row: Row, now: float) -> None:
        job.shown, job.absences = True, 0
        if (row.place, row.reason) != (job.place, job.reason) and row.place == "held":
            self._note(f"job {job.id} is held in the queue ({row.reason})")
        if row.place == "pending" and job.place in ("running", "ending"):
            if not job.workers:  # after the loss of its node, for example
                self._note(f"the batch system has put job {job.id} back into the queue")
                job.alone_since = None
        job.surviving = (
            job.cancelled
            and row.place != "ending"
            and now - job.cancelled_at >= self.rules.dying
        )
        job.place, job.reason = row.place, row.reason
        job.node = row.node or job.node
        if row.place == "running" and not job.workers and job.alone_since is None:
            job.alone_since = now
        if row.place != "held":
            job.held_since = None
        elif job.held_since is None:
            job.held_since = now

    def _left(self, job: Job, row: Row | None, now: float) -> Gone:
        """A job has left the queue: find out why."""
        node = (row.node if row else "") or job.node
        word = row.word if row else "no longer in the queue"
        reason = f", {row.reason}" if row and row.reason else ""
        if job.failed:  # see _lose_patience
            if node != job.node:
                self.nodes.failed(node, f"job {job.id} never connected", now)
        elif self._was_to_end(job, now):
            if job.connected_at is not None:
                self.nodes.worked(node)
        elif job.connected_at is None:
            self._never_connected(job, row, node, f"{word}{reason}", now)
        elif row is not None and row.blame == "nobody":
            self._note(f"job {job.id} has ended: {word}{reason}")
        else:
            self.troubled = True
            self._note(f"job {job.id} was lost: {word}{reason}")
            if row is None or row.blame != "job":
                self.nodes.failed(node, f"job {job.id} was lost ({word})", now)
        return Gone(job, infrastructure=not (row is not None and row.blame == "job"))

    def _was_to_end(self, job: Job, now: float) -> bool:
        ended = job.cancelled or job.retiring or job.leaving
        return ended or self._near_its_end(job, now)

    def _never_connected(
        self, job: Job, row: Row | None, node: str, why: str, now: float
    ) -> None:
        """A job ended before its worker connected: it failed, whatever its exit code."""
        withdrawn = row is not None and (row.withdrawn or row.word == "CA")
        if withdrawn:
            self._withdrawals += 1
            self._note(f"job {job.id} has ended: {why}")
            if self._withdrawals == 1:  # once may be by hand; twice looks systematic
                return
        where = f", on {node}" if node else ""
        what = f"job {job.id} ended before its worker connected{where} ({why})"
        self._failed(self.misfits, what, now)
        if not withdrawn:
            self.nodes.failed(node, f"job {job.id} never connected", now)

    def _failed(self, backoff: Backoff, why: str, now: float) -> None:
        self.troubled = True
        if backoff.failed(why, now):
            count = backoff.failures
            times = f" ({count} times in a row)" if count > 1 else ""
            pause = backoff.retry_at - now
            self._note(f"{why}{times}; the next try is in {pause:.0f} s")


def _remember(past: dict[str, None], job_id: str) -> None:
    past[job_id] = None
    if len(past) > MOST_PAST:
        del past[next(iter(past))]

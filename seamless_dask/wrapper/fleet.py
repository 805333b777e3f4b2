"""The jobs of a batch system, from the first submission to the last cancellation.

Pure: no I/O and no clock of its own. Events come in (a job was submitted or refused, the
queue answered, a worker came or went), :meth:`Fleet.step` says what to do next. How many
jobs there should be is not decided here, but given (:attr:`Fleet.wanted`).

Three sources are reconciled: what was *wanted*, what the queue says is *there*, and which
workers are *connected*. A connection is believed before the queue, since a queue may
answer late, or not at all. A queue that does not show a job has not said that it is gone:
it may not show it yet, or have left it out. And a submission that has failed may have been
accepted: there is no other one until the queue was asked for the jobs of this cluster by
their name. So there are never more than :attr:`Rules.maximum` jobs in the queue.

``now`` is monotonic seconds everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from .backoff import Backoff
from .farewell import Farewell
from .fleet_job import Actions, Gone, Job
from .nodes import Nodes
from .queue_answers import Row, Rows
from .suspicion import Suspicion

__all__ = ["Actions", "Fleet", "Gone", "Job", "Rules"]

#: No queue is asked more often than this, in seconds.
QUERY_SECONDS = 30.0
#: Most jobs to submit in one go; the next go is a moment later.
BURST = 10
#: How often the patience with a job that has not connected can be renewed by signs of life.
MOST_PATIENCE = 10
#: Jobs of the past that are remembered.
MOST_PAST = 1000
#: Reasons of batch systems why a job cannot start on the nodes that are left for it.
_UNAVAILABLE = (
    "ReqNodeNotAvail|BadConstraints|NodeConfig|not.available|UnavailableNodes"
)


@dataclass(frozen=True)
class Rules:
    """When patience ends; all values but the first are seconds."""

    #: Most jobs that may be in the queue; None: any number.
    maximum: int | None = None
    #: A worker ends itself when it has not found the scheduler for so long.
    death_timeout: float = 60.0
    #: Which setting that is.
    death_timeout_key: str = "death-timeout"
    #: On top of it, for the batch system to start the job's script.
    start_margin: float = 15.0
    #: A job that somebody holds in the queue is replaced after so long.
    held: float = 60.0
    #: A job may go on for so long after it was cancelled.
    dying: float = 20.0
    #: Pause after the first failed submission; doubled with every further one...
    retry: float = 5.0
    #: ... up to this.
    retry_most: float = 300.0
    #: A job is queried that often at most.
    query: float = QUERY_SECONDS
    #: A job that the batch system has taken may stay invisible in its queue for so long.
    hidden: float = 60.0
    #: A job that the queue has never shown is given up after so long.
    unseen: float = 120.0
    #: The queue is asked for jobs that nobody knows that often, if there is no suspicion.
    search: float = 300.0
    #: Workers end so long after they connected, at the earliest; None: never.
    lifetime: float | None = None
    #: So long before that end, a successor is requested.
    lead: float = 60.0

    @property
    def connect(self) -> float:
        """How long a job may run without a worker that is connected."""
        return self.death_timeout + self.start_margin


class Fleet:
    """All jobs of one cluster. ``note`` is told, in sentences, what people want to know."""

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
        #: Whether a job may be in the queue that is not in the books.
        self.suspicion = Suspicion(rules.hidden, rules.retry)
        #: Jobs that were given up without the queue having ever shown them.
        self.unproved: dict[str, None] = {}
        #: Whether a job was ever submitted.
        self.used = False
        #: Whether a job has ever failed without having been asked to end.
        self.troubled = False
        #: Jobs that failed in a row before their worker connected.
        self.misfits = Backoff(rules.retry, rules.retry_most)
        #: Jobs that somebody else took out of the queue, in a row.
        self._withdrawals = 0
        #: Jobs that have left the queue.
        self._past: dict[str, None] = {}
        self._told_of_unseen = False
        self._note = note
        self._asked_at = float("-inf")

    # --- what there is

    def counts(self) -> dict[str, int]:
        """The number of jobs by state; held ones count as pending, ending ones not."""
        counts = dict.fromkeys(("pending", "starting", "connected", "draining"), 0)
        for job in self.jobs.values():
            state = "pending" if job.state == "held" else job.state
            if state in counts:
                counts[state] += 1
        return counts

    def unseen(self) -> list[str]:
        """Jobs that the queue has never shown, those that were given up included."""
        pending = [
            job.id for job in self.jobs.values() if not job.shown and not job.workers
        ]
        return [*self.unproved, *pending]

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

    def submitted(self, job_id: str, now: float, avoids: Iterable[str] = ()) -> None:
        """The batch system took a job, which will not start on the nodes it avoids."""
        self.submitting = max(0, self.submitting - 1)
        self.refusals.worked()
        self._adopt(job_id, now).avoids = tuple(avoids)

    def refused(self, reason: str, now: float, *, doubtful: bool = False) -> None:
        """A submission failed; `doubtful` says that it may have been accepted."""
        self.submitting = max(0, self.submitting - 1)
        self.suspicion.arise(now, doubtful=doubtful)
        self._failed(self.refusals, f"the batch system took no job: {reason}", now)

    def alive(self, job_id: str, now: float) -> None:
        """The script of a job has shown that it goes on."""
        job = self.jobs.get(job_id)
        if job is not None:
            job.alive_at = now

    def leave(self, leaving: Callable[[str], bool]) -> None:
        """Look which jobs have only workers that take no more tasks."""
        for job in self.jobs.values():
            job.leaving = bool(job.workers) and all(map(leaving, job.workers))

    def withdrawn(self, count: int) -> None:
        """Submissions will not be made, because one before them failed."""
        self.submitting = max(0, self.submitting - count)

    def connected(self, job_id: str, address: str, now: float) -> None:
        """A worker of a job has connected."""
        job = self.jobs.get(job_id)
        if job is None:
            # its submission was reported as a failure, or the queue was wrong
            self._note(f"job {job_id} is ours, but was not known: it is now")
            job = self._adopt(job_id, now)
            self.suspicion.confirmed()
        if job.connected_at is None:
            job.connected_at = now
        job.place = "running" if job.place in ("pending", "held") else job.place
        job.workers.add(address)
        job.alone_since = job.held_since = job.missing_since = None
        job.failed = False
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

        A job that the queue does not show is gone if it did so before, and does not for
        the second time, or was told to end before; not if its workers are connected.
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
        """The queue does not show a job: whether that means that it is gone."""
        if job.submitted >= asked_at:
            return False
        if job.cancelled:
            told = asked_at - job.cancelled_at
            return told > 0 if job.shown else told >= self.rules.dying
        before = job.missing_since
        if before is None:
            job.missing_since = asked_at
        return job.shown and before is not None and before < asked_at

    def searched(self, rows: Rows, asked_at: float, now: float) -> list[str]:
        """The queue was asked for jobs by name; return those that nobody knew."""
        found = []
        for job_id, row in rows.items():
            if row.place in ("gone", "ending"):
                continue
            job = self.jobs.get(job_id)
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
        self.used = True
        self.unproved.pop(job_id, None)
        # a worker may be quicker than the command that submitted its job
        return self.jobs.setdefault(job_id, Job(job_id, submitted=now))

    def _placed(self, job: Job, row: Row, now: float) -> None:
        job.shown, job.missing_since = True, None
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
        """A job has left the queue: think about why."""
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
        """A job has failed that was to bring a worker, whatever its exit code."""
        withdrawn = row is not None and (row.withdrawn or row.word == "CA")
        if withdrawn:
            self._withdrawals += 1
            self._note(f"job {job.id} has ended: {why}")
            if self._withdrawals == 1:  # somebody's mind; a second time it is a rule
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

    # --- decisions

    def step(self, now: float, free: Iterable[str] = ()) -> Actions:
        """Say what to do. ``free`` are jobs whose workers may end, the first one first.

        What is said is taken to be done: the next step does not say it again.
        """
        actions = Actions()
        self.nodes.forgive(now)
        self._lose_patience(actions, now)
        live = self.live(now)
        missing = self.wanted - len(live) - self.submitting
        if self._curious() or self.suspicion:
            actions.search = self.suspicion.search_due(
                now, self.rules.query, self.rules.search
            )
        if missing > 0:
            actions.submit = min(missing, self._allowed(live, now), self._room())
            self.submitting += actions.submit
        elif missing < 0:
            self._shed(-missing, live, list(free), actions, now)
        if self._curious() and now - self._asked_at >= self.rules.query:
            self._asked_at = now
            actions.query = True
        return actions

    def _room(self) -> int:
        """How many more jobs may be in the queue."""
        if self.rules.maximum is None:
            return BURST
        there = sum(job.place != "ending" for job in self.jobs.values())
        return max(0, self.rules.maximum - there - self.submitting)

    def _allowed(self, live: list[Job], now: float) -> int:
        """How many submissions are sensible now; after failures, one at a time."""
        if now < max(self.refusals.retry_at, self.misfits.retry_at) or self.suspicion:
            return 0
        if self.refusals.failures and self.submitting:
            return 0
        if self.misfits.failures:  # one job must show that it works
            unproven = any(job.connected_at is None for job in live)
            return 0 if unproven or self.submitting else 1
        return 1 if self.refusals.failures else BURST

    def _lose_patience(self, actions: Actions, now: float) -> None:
        for job in self.jobs.values():
            if job.surviving:
                why = "it was cancelled before without effect"
                self._cancel(job, why, actions, now)
            if job.cancelled or job.workers:
                continue
            if not job.shown and job.missing_since is not None:
                self._doubt(job, actions, now)
            elif job.alone_since is not None:
                if job.place == "running":
                    self._wait_for_worker(job, job.alone_since, actions, now)
            elif job.held_since is not None:
                if now - job.held_since >= self.rules.held:
                    why = f"it is held in the queue ({job.reason})"
                    self._give_up(job, why, actions, now)
            elif job.place == "pending" and job.avoids:
                self._wait_for_nodes(job, actions, now)

    def _doubt(self, job: Job, actions: Actions, now: float) -> None:
        """The queue has been asked about a job, and has never shown it."""
        unseen = now - job.submitted
        hint = (
            "if it shows jobs only with more options, as SLURM does with --clusters, write "
            "them into job_extra_directives"
        )
        if unseen >= self.rules.unseen:
            why = f"the queue has not shown it for {unseen:.0f} s; {hint}"
            self._give_up(job, why, actions, now)
        elif unseen >= self.rules.unseen / 2 and not self._told_of_unseen:
            self._told_of_unseen = True
            self._note(
                f"the queue has not shown job {job.id} for {unseen:.0f} s; {hint}"
            )

    def _wait_for_worker(
        self, job: Job, since: float, actions: Actions, now: float
    ) -> None:
        """A job runs and its worker has not connected, or is gone."""
        rules = self.rules
        alone = now - since
        quiet = now - max(since, job.alive_at or since)
        if quiet < rules.connect and alone < MOST_PATIENCE * rules.connect:
            return
        where = f" on {job.node}" if job.node else ""
        why = (
            f"it ran{where} for {alone:.0f} s without a worker, the last {quiet:.0f} s "
            f"without a sign of life; the limit is {rules.connect:.0f} s, "
            f"{rules.death_timeout_key} ({rules.death_timeout:g} s) plus "
            f"{rules.start_margin:g} s: raise that key if the start takes longer"
        )
        job.failed = True
        self.nodes.failed(job.node, f"job {job.id} never connected", now)
        if job.connected_at is None:
            self._give_up(job, why, actions, now)
        else:
            self._cancel(job, why, actions, now)

    def _wait_for_nodes(self, job: Job, actions: Actions, now: float) -> None:
        """A pending job avoids nodes; that must not be why it never starts."""
        excluded = [node for node in job.avoids if node in self.nodes.excluded]
        unavailable = re.search(_UNAVAILABLE, job.reason)
        if unavailable and now - job.submitted >= self.rules.held:
            why = (
                f"it waits for other nodes than {', '.join(job.avoids)} ({job.reason})"
            )
            self.nodes.give_up(f"job {job.id} cannot start without them", now)
        elif not excluded and not any(other.workers for other in self.jobs.values()):
            why = f"it avoids {', '.join(job.avoids)}, which may get jobs again"
        else:
            return
        self._cancel(job, why, actions, now)

    def _give_up(self, job: Job, why: str, actions: Actions, now: float) -> None:
        self._cancel(job, why, actions, now)
        self._failed(self.misfits, f"job {job.id} is cancelled: {why}", now)

    def _shed(
        self,
        surplus: int,
        live: list[Job],
        free: list[str],
        actions: Actions,
        now: float,
    ) -> None:
        """Give up jobs: those without a worker first, the youngest of them first."""
        for place in ("held", "pending", "starting"):
            for job in reversed(live):
                if surplus and job.state == place and not job.cancelled:
                    self._cancel(job, "it is no longer needed", actions, now)
                    surplus -= 1
        for job_id in free[:surplus]:
            job = self.jobs[job_id]
            if job.state == "connected" and not job.retiring:
                job.retiring = True
                actions.retire.append(job_id)

    def retired(self, job_id: str, now: float, kept: bool = False) -> str | None:
        """The workers of a job have ended; return its id if it is to be cancelled.

        With ``kept`` they could not end, and the job stays.
        """
        job = self.jobs.get(job_id)
        if job is None or not job.retiring:
            return None
        if kept:
            job.retiring = False
            return None
        job.cancelled, job.cancelled_at = True, now
        return job_id

    def farewell(self, now: float) -> Farewell:
        """The cluster ends: all jobs are to be cancelled, also a second time."""
        self.wanted = 0
        if self.submitting:
            self.submitting = 0
            self.suspicion.arise(now, doubtful=True)
        for job in self.jobs.values():
            job.cancelled = True
        shown = {job.id: job.shown or bool(job.workers) for job in self.jobs.values()}
        return Farewell(
            {**dict.fromkeys(self.unproved, False), **shown}, self.suspicion.until
        )

    def _cancel(self, job: Job, why: str, actions: Actions, now: float) -> None:
        job.cancelled, job.cancelled_at, job.surviving = True, now, False
        actions.cancel[job.id] = why

    def _curious(self) -> bool:
        """Whether the queue could tell something that connections do not."""
        return any(
            not job.workers or not job.node or job.lost for job in self.jobs.values()
        )


def _remember(past: dict[str, None], job_id: str) -> None:
    past[job_id] = None
    if len(past) > MOST_PAST:
        del past[next(iter(past))]

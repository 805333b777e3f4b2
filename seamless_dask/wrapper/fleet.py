"""The jobs of a batch system, from the first submission to the last cancellation.

Pure: no I/O and no clock of its own. Events come in (a job was submitted or refused, the
queue answered, a worker came or went), :meth:`Fleet.step` says what to do next. How many
jobs there should be is not decided here, but given (:attr:`Fleet.wanted`).

Three sources are reconciled: what was *wanted*, what the queue says is *there*, and which
workers are *connected*. A connection is believed before the queue, since a queue may
answer late, or not at all.

``now`` is monotonic seconds everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from .backoff import Backoff
from .nodes import Nodes
from .queues import Row

#: No queue is asked more often than this, in seconds.
QUERY_SECONDS = 30.0
#: Most jobs to submit in one go; the next go is a moment later.
BURST = 10


@dataclass(frozen=True)
class Rules:
    """When patience ends; all values are seconds."""

    #: A worker ends itself when it has not found the scheduler for so long.
    death_timeout: float = 60.0
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
    #: Workers end so long after they connected, at the earliest; None: never.
    lifetime: float | None = None
    #: So long before that end, a successor is requested.
    lead: float = 60.0

    @property
    def connect(self) -> float:
        """How long a job may run without a worker that is connected."""
        return self.death_timeout + self.start_margin


@dataclass
class Job:
    """One job that is ours."""

    id: str
    submitted: float
    #: Where the queue says that it is: "pending", "held", "running" or "ending".
    place: str = "pending"
    node: str = ""
    #: Why it is there, in the words of the batch system.
    reason: str = ""
    #: Addresses of its workers that are connected.
    workers: set[str] = field(default_factory=set)
    #: Addresses of workers that were lost without having been asked to end.
    lost: list[str] = field(default_factory=list)
    connected_at: float | None = None
    #: Since when it runs without a worker.
    alone_since: float | None = None
    held_since: float | None = None
    #: It is being emptied, because it is not needed.
    retiring: bool = False
    #: Its workers have come to the end of their lifetime, and finish what they run.
    leaving: bool = False
    cancelled: bool = False
    cancelled_at: float = 0.0
    #: The queue has it long after it was cancelled.
    surviving: bool = False

    @property
    def state(self) -> str:
        """One word for people: pending, held, starting, connected, draining, ending."""
        if self.cancelled or self.place == "ending":
            return "ending"
        if self.workers:
            return "draining" if self.retiring or self.leaving else "connected"
        return "starting" if self.place == "running" else self.place


@dataclass(frozen=True)
class Gone:
    """A job that has left the queue, and who is to blame."""

    job: Job
    #: The loss has nothing to do with what the job computed.
    infrastructure: bool


@dataclass
class Actions:
    """What to do now."""

    #: Number of jobs to submit.
    submit: int = 0
    #: {job id: why}
    cancel: dict[str, str] = field(default_factory=dict)
    #: Jobs whose workers should finish what they run, and end.
    retire: list[str] = field(default_factory=list)
    #: The queue should be asked about all jobs.
    query: bool = False


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
        #: Whether a job has ever failed without having been asked to end.
        self.troubled = False
        #: Jobs that failed in a row before their worker connected.
        self.misfits = Backoff(rules.retry, rules.retry_most)
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

    def submitted(self, job_id: str, now: float) -> None:
        """The batch system took a job."""
        self.submitting = max(0, self.submitting - 1)
        self.refusals.worked()
        self._adopt(job_id, now)

    def refused(self, reason: str, now: float) -> None:
        """A submission failed."""
        self.submitting = max(0, self.submitting - 1)
        self._failed(self.refusals, f"the batch system took no job: {reason}", now)

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
        if job.connected_at is None:
            job.connected_at = now
        job.place = "running" if job.place in ("pending", "held") else job.place
        job.workers.add(address)
        job.alone_since = job.held_since = None
        self.misfits.worked()

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

        A job that the queue does not know is gone, unless it was submitted while the
        queue was answering, or its workers are connected.
        """
        gone = []
        for job in list(self.jobs.values()):
            row = rows.get(job.id)
            if row is None and job.submitted >= asked_at:
                continue
            if row is not None and row.place != "gone":
                self._placed(job, row, now)
            elif not job.workers:
                del self.jobs[job.id]
                gone.append(self._left(job, row, now))
        return gone

    def _adopt(self, job_id: str, now: float) -> Job:
        # a worker may be quicker than the command that submitted its job
        return self.jobs.setdefault(job_id, Job(job_id, submitted=now))

    def _placed(self, job: Job, row: Row, now: float) -> None:
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
        ended = job.cancelled or job.retiring or job.leaving
        ended = ended or self._near_its_end(job, now)
        if ended:
            self.nodes.worked(node)
        elif row is not None and row.blame == "nobody":
            self._note(f"job {job.id} has ended: {word}{reason}")
        elif job.connected_at is None:
            self._failed(
                self.misfits,
                f"job {job.id} ended before its worker connected"
                f"{f', on {node}' if node else ''} ({word}{reason})",
                now,
            )
            self.nodes.failed(node, f"job {job.id} never connected", now)
        else:
            self.troubled = True
            self._note(f"job {job.id} was lost: {word}{reason}")
            if row is None or row.blame != "job":
                self.nodes.failed(node, f"job {job.id} was lost ({word})", now)
        return Gone(job, infrastructure=not (row is not None and row.blame == "job"))

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
        if missing > 0:
            actions.submit = min(missing, self._allowed(live, now))
            self.submitting += actions.submit
        elif missing < 0:
            self._shed(-missing, live, list(free), actions, now)
        if self._curious() and now - self._asked_at >= self.rules.query:
            self._asked_at = now
            actions.query = True
        return actions

    def _allowed(self, live: list[Job], now: float) -> int:
        """How many submissions are sensible now; after failures, one at a time."""
        if now < max(self.refusals.retry_at, self.misfits.retry_at):
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
            if job.alone_since is not None:
                alone = now - job.alone_since
                if job.place == "running" and alone >= self.rules.connect:
                    where = f" on {job.node}" if job.node else ""
                    why = f"it ran{where} for {alone:.0f} s without a worker"
                    self._cancel(job, why, actions, now)
                    self.nodes.failed(job.node, f"job {job.id} never connected", now)
                    if job.connected_at is None:
                        self._failed(
                            self.misfits, f"job {job.id} is cancelled: {why}", now
                        )
            elif job.held_since is not None:
                if now - job.held_since >= self.rules.held:
                    why = f"it is held in the queue ({job.reason})"
                    self._cancel(job, why, actions, now)
                    self._failed(self.misfits, f"job {job.id} is replaced: {why}", now)

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

    def cancel_all(self) -> list[str]:
        """The cluster ends: all jobs are to be cancelled, also a second time."""
        self.wanted = 0
        for job in self.jobs.values():
            job.cancelled = True
        return list(self.jobs)

    def _cancel(self, job: Job, why: str, actions: Actions, now: float) -> None:
        job.cancelled, job.cancelled_at, job.surviving = True, now, False
        actions.cancel[job.id] = why

    def _curious(self) -> bool:
        """Whether the queue could tell something that connections do not."""
        return any(
            not job.workers or not job.node or job.lost for job in self.jobs.values()
        )

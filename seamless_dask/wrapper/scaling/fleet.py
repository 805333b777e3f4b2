"""The jobs of a batch system, from the first submission to the last cancellation.

Pure: no I/O and no clock of its own. Events come in (a job was submitted or refused, the
queue answered, a worker came or went: `fleet_books`), :meth:`Fleet.step` says what to do
next. The caller decides how many jobs there should be (:attr:`Fleet.wanted`).

Three sources are reconciled: the jobs that are *wanted*, the jobs that the queue *shows*,
and the workers that are *connected*. A connection counts more than the queue, because a
queue may answer late, or not at all. After a submission that failed there is no other one
until the queue was searched for the jobs of this cluster by their name. So there are never
more than :attr:`Rules.maximum` jobs in the queue.

``now`` is monotonic seconds everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..jobs.farewell import Farewell
from .fleet_books import Books
from .fleet_job import QUERY_SECONDS, Actions, Gone, Job, Rules

__all__ = ["QUERY_SECONDS", "Actions", "Fleet", "Gone", "Job", "Rules"]

#: Most jobs to submit in one step; the next step is a second later.
BURST = 10
#: Most time for a job that shows signs of life but does not connect, in time limits.
MOST_PATIENCE = 10
#: Reasons of batch systems why a job cannot start on the nodes that are left for it.
_UNAVAILABLE = (
    "ReqNodeNotAvail|BadConstraints|NodeConfig|not.available|UnavailableNodes"
)


class Fleet(Books):
    """The records about a cluster's jobs, and the decisions about them."""

    def step(self, now: float, free: Iterable[str] = ()) -> Actions:
        """Return what to do. ``free`` are jobs whose workers may end, in that order.

        The returned actions count as done: the next step does not repeat them.
        """
        actions = Actions()
        self.nodes.forgive(now)
        self._lose_patience(actions, now)
        live = self.live(now)
        missing = self.wanted - len(live) - self.submitting
        unsearched = self.suspicion.searched_at < self.adopted_at
        if self.jobs or self.suspicion or unsearched:
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
        """How many more jobs may be in the queue.

        One more than the maximum if all workers leave at the same time: that job takes
        over their results.
        """
        if self.rules.maximum is None:
            return BURST
        there = [job for job in self.jobs.values() if job.place != "ending"]
        room = self.rules.maximum - len(there) - self.submitting
        heirs = [job for job in there if not (job.workers and job.leaving)]
        if room == 0 and there and not heirs and not self.submitting:
            return 1
        return max(0, room)

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
            if not job.shown and job.absences:
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
        """A pending job avoids nodes; cancel it if it cannot start for that reason."""
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
        """End surplus jobs: those without a worker first, the youngest of them first."""
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

        With ``kept`` the workers could not end, and the job stays.
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
        """The cluster ends: all jobs are to be cancelled, even if they were before."""
        self.wanted = 0
        if self.submitting:
            self.submitting = 0
            self.suspicion.arise(now, doubtful=True)
        for job in self.jobs.values():
            job.cancelled = True
        shown = {job.id: job.shown for job in self.jobs.values()}
        return Farewell(
            {**dict.fromkeys(self.unproved, False), **shown}, self.suspicion.until
        )

    def _cancel(self, job: Job, why: str, actions: Actions, now: float) -> None:
        job.cancelled, job.cancelled_at = True, now
        job.surviving = job.refuses_to_end = False
        job.absences = 0
        actions.cancel[job.id] = why

    def _curious(self) -> bool:
        """Whether only the queue can tell the state of some job."""
        return any(
            not job.workers or not job.node or job.lost or job.cancelled
            for job in self.jobs.values()
        )

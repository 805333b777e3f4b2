"""Tracks which jobs of a cluster that ends may be left in the queue. Pure.

A job is gone when the queue says so, or does not list it any more after it was cancelled.
If the queue has never shown a job, its absence proves nothing; then the answer of the
command that cancels counts. If a submission had no answer, the queue is searched by name
for its job as long as it may still appear.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .queue_answers import Rows

#: Answers in a row without a job after which it is gone, if no cancellation is confirmed.
ABSENCES = 2


class Farewell:
    """The jobs that are to end; times are monotonic seconds.

    Parameters
    ----------
    jobs
        {id: whether the queue has ever shown it} of all jobs that may be in the queue.
    doubtful_until
        Until when unknown jobs may appear; None: there is no reason to expect any.
    """

    def __init__(self, jobs: Mapping[str, bool], doubtful_until: float | None = None):
        self._shown = dict(jobs)
        self._left = dict.fromkeys(jobs)
        self._accepted: set[str] = set()
        self._absences: dict[str, int] = {}
        self._gone: set[str] = set()
        self._doubtful_until = doubtful_until
        self._searched = False

    @property
    def left(self) -> list[str]:
        """Jobs that may still be there."""
        return list(self._left)

    @property
    def unseen(self) -> list[str]:
        """Jobs in `left` that the queue has never shown."""
        return [job_id for job_id in self._left if not self._shown[job_id]]

    @property
    def doubtful(self) -> bool:
        """Whether there may be unknown jobs."""
        return self._doubtful_until is not None

    @property
    def search_due(self) -> bool:
        """Whether the queue should be searched for jobs by their name."""
        return self.doubtful or not self._searched

    @property
    def done(self) -> bool:
        """Whether all jobs are gone."""
        return not self._left and not self.search_due

    def to_cancel(self) -> list[list[str]]:
        """The ids for each command that cancels; ids that may be refused are apart."""
        shown = [job_id for job_id in self._left if self._shown[job_id]]
        return [ids for ids in (shown, self.unseen) if ids]

    def cancelled(self, job_ids: Iterable[str], accepted: bool) -> None:
        """A command that cancels has ended; `accepted` means without an error."""
        if accepted:
            self._accepted.update(job_ids)

    def answered(self, rows: Rows, asked: Iterable[str]) -> None:
        """The queue was asked about jobs, after they had been cancelled."""
        for job_id in asked:
            if job_id not in self._left:
                continue
            row = rows.get(job_id)
            if row is not None and row.place not in ("gone", "ending"):
                self._is_there(job_id)
                continue
            absences = self._absences[job_id] = self._absences.get(job_id, 0) + 1
            proved = row is not None or job_id in self._accepted
            proved = proved or (self._shown[job_id] and absences >= ABSENCES)
            if proved:
                self._gone.add(job_id)
                del self._left[job_id]

    def _is_there(self, job_id: str) -> None:
        """The queue shows a job, which must be cancelled again."""
        self._shown[job_id] = True
        self._absences.pop(job_id, None)
        self._accepted.discard(job_id)

    def searched(self, rows: Rows, asked_at: float) -> list[str]:
        """The queue was searched for jobs by name; return the jobs that were unknown."""
        self._searched = True
        there = [
            job_id
            for job_id, row in rows.items()
            if row.place not in ("gone", "ending")
        ]
        found = [job_id for job_id in there if job_id not in self._left]
        for job_id in there:
            self._left[job_id] = None
            self._is_there(job_id)
        if self._doubtful_until is not None and asked_at >= self._doubtful_until:
            self._doubtful_until = None
        return [job_id for job_id in found if job_id not in self._gone]

    def search_failed(self) -> None:
        """A search had no answer; it is repeated only if unknown jobs are likely."""
        self._searched = True

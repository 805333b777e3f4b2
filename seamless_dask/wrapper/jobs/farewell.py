"""Which jobs of a cluster that ends may be left in the queue. Pure.

Nothing is believed too soon: a job is gone when the queue says so, or no longer lists it
after it was told to end. A job that the queue has never shown is not proved to be gone by
not being shown; then the word of the command that cancels counts. And what was submitted
without an answer is looked for by its name, for as long as it may still appear.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .queue_answers import Rows

#: Answers in a row without a job that was not told to end for certain.
ABSENCES = 2


class Farewell:
    """The jobs that are to end; times are monotonic seconds.

    Parameters
    ----------
    jobs
        {id: whether the queue has ever shown it} of all jobs that may be in the queue.
    doubtful_until
        Jobs that nobody knows may appear until then; None: there is no reason to fear so.
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
        """Jobs of which it is not known that they have gone."""
        return list(self._left)

    @property
    def unseen(self) -> list[str]:
        """Those among them that the queue has never shown."""
        return [job_id for job_id in self._left if not self._shown[job_id]]

    @property
    def doubtful(self) -> bool:
        """Whether there may be jobs that nobody knows."""
        return self._doubtful_until is not None

    @property
    def search_due(self) -> bool:
        """Whether the queue should be asked for jobs by their name."""
        return self.doubtful or not self._searched

    @property
    def done(self) -> bool:
        """Nothing is left."""
        return not self._left and not self.search_due

    def to_cancel(self) -> list[list[str]]:
        """The ids for each command that cancels; those that may fail are apart."""
        shown = [job_id for job_id in self._left if self._shown[job_id]]
        return [ids for ids in (shown, self.unseen) if ids]

    def cancelled(self, job_ids: Iterable[str], accepted: bool) -> None:
        """A command that cancels has ended, with or without a complaint."""
        if accepted:
            self._accepted.update(job_ids)

    def answered(self, rows: Rows, asked: Iterable[str]) -> None:
        """The queue was asked about jobs, after they had been told to end."""
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
        """The queue shows a job that has to be told again to end."""
        self._shown[job_id] = True
        self._absences.pop(job_id, None)
        self._accepted.discard(job_id)

    def searched(self, rows: Rows, asked_at: float) -> list[str]:
        """The queue was asked for jobs by name; return those that nobody knew."""
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
        """That question was not answered; it is repeated only if it matters."""
        self._searched = True

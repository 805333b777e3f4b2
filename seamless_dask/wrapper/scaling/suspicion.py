"""Whether unknown jobs of ours may be in the queue. Pure; times are monotonic seconds.

A submission that failed may have been accepted: the batch system was too slow to say so,
or its answer got lost. Then the queue is searched for jobs by the name that only this
cluster gives them. Until an answer can be trusted, no other job is submitted.
"""

from __future__ import annotations

#: How long a suspicion lasts if the queue does not answer.
LONGEST = 600.0


class Suspicion:
    """One suspicion at a time.

    Parameters
    ----------
    hidden
        How long the queue may not show a job that was accepted.
    brief
        How long the suspicion lasts after a clear refusal, in case it is wrong.
    """

    def __init__(self, hidden: float, brief: float):
        self._hidden = hidden
        self._brief = brief
        #: From this time on an answer without a job ends the suspicion; None: no suspicion.
        self.until: float | None = None
        self._ends_by_itself = 0.0
        #: When the queue was last asked.
        self.searched_at = float("-inf")
        self._urgent = False

    def __bool__(self) -> bool:
        return self.until is not None

    def arise(self, now: float, *, doubtful: bool) -> None:
        """A submission has failed."""
        self.until = now + (self._hidden if doubtful else 0.0)
        self._ends_by_itself = now + (LONGEST if doubtful else self._brief)
        self._urgent = True

    def answered(self, asked_at: float) -> None:
        """The queue shows no unknown job."""
        if self.until is not None and asked_at >= self.until:
            self.until = None

    def confirmed(self) -> None:
        """The job was found."""
        self.until = None

    def search_due(self, now: float, pause: float, rarely: float) -> bool:
        """Whether to search now; if so, the search counts as done.

        With a suspicion the search is due at once, then after each `pause`, and as soon as
        an answer can end the suspicion; otherwise after `rarely`.
        """
        if self.until is not None and now >= self._ends_by_itself:
            self.until = None
        since = now - self.searched_at
        due = since >= (pause if self else rarely) or self._urgent
        decisive = self.until is not None and self.searched_at < self.until <= now
        if due or decisive:
            self.searched_at, self._urgent = now, False
            return True
        return False

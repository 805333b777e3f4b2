"""Records the decisions about the number of workers, with time and reason.

Pure. The code that scales the cluster reports to it; the status, the dashboard and the
metrics show it. Times are Unix seconds, because people read them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

#: Decisions that are kept
MAX_DECISIONS = 50


class ScalingRecord:
    """The latest decisions about the number of workers, and the state of the jobs."""

    def __init__(self) -> None:
        self._wanted: int | None = None
        self._reason = ""
        self._decisions: deque[dict[str, Any]] = deque(maxlen=MAX_DECISIONS)
        self._totals = {"up": 0, "down": 0}
        self._jobs: dict[str, int] = {}
        self._pending_reasons: dict[str, int] = {}
        self._submission_error: dict[str, Any] | None = None
        self._excluded_nodes: dict[str, dict[str, Any]] = {}
        #: since when the job that has run longest has a worker, in Unix seconds
        self.oldest_job: float | None = None

    def decided(self, before: int, after: int, reason: str, time: float) -> None:
        """The wanted number of workers was changed."""
        self._wanted, self._reason = after, reason
        self._decisions.append(
            {"time": time, "from": before, "to": after, "reason": reason}
        )
        if after != before:
            self._totals["up" if after > before else "down"] += 1

    def update(
        self,
        *,
        jobs: Mapping[str, int],
        submission_error: Mapping[str, Any] | None,
        excluded_nodes: Mapping[str, Mapping[str, Any]],
        oldest_job: float | None = None,
        pending_reasons: Mapping[str, int] | None = None,
    ) -> None:
        """Report the state of the jobs of a batch system.

        ``jobs`` is the number of jobs by state (pending, starting, connected,
        draining); ``submission_error`` has time, message, retry_at and failures, or is
        None if the last submission succeeded; ``excluded_nodes`` maps the name of each
        node that gets no jobs to ``until`` (a time) and ``reason``. ``oldest_job`` is the
        time since which the job that has run longest has a worker; None without one.
        ``pending_reasons`` is for each reason of the batch system why jobs do not start the
        number of such jobs.
        """
        self._jobs = dict(jobs)
        self._pending_reasons = dict(pending_reasons or {})
        self.oldest_job = oldest_job
        self._submission_error = (
            None if not submission_error else dict(submission_error)
        )
        self._excluded_nodes = {
            node: dict(exclusion) for node, exclusion in excluded_nodes.items()
        }

    def snapshot(self) -> dict[str, Any]:
        """Everything, ready for the wire; decisions newest last."""
        return {
            "wanted": self._wanted,
            "reason": self._reason,
            "decisions": [dict(decision) for decision in self._decisions],
            "jobs": dict(self._jobs),
            "pending_reasons": dict(self._pending_reasons),
            "submission_error": self._submission_error and dict(self._submission_error),
            "excluded_nodes": {
                node: dict(exclusion)
                for node, exclusion in self._excluded_nodes.items()
            },
            "decisions_total": dict(self._totals),
        }

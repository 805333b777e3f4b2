"""What the part that keeps the jobs tells the supervisor."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class News:
    """Told when it changes."""

    #: Jobs that may be in the queue.
    jobs: tuple[str, ...]
    #: Why no more jobs are submitted at the moment; empty if nothing is wrong.
    submission_error: str

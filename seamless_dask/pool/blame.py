"""Which jobs are to blame when a process is lost; pure.

A job that executes may have brought its process down, one that waits for nested ones has
not. If all that were in the process waited, it was none of them, or one by a thread that
it has left running: those that were there at `MAX_LOSSES` such losses are suspected.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

#: a job ends with an error when so many processes were lost because of it
MAX_LOSSES = 3


@dataclass
class Losses:
    """What a job has to do with processes that were lost."""

    #: how those ended that it may have brought down
    charged: list[str] = field(default_factory=list)
    #: how many were lost while it and all others in them waited
    unexplained: int = 0


class Suspect(Protocol):
    """A job, as far as blame is concerned."""

    @property
    def name(self) -> str:
        """How errors call it."""

    @property
    def waiting(self) -> int:
        """Nested transformations for which it waits."""

    @property
    def losses(self) -> Losses:
        """What it has to do with lost processes."""


S = TypeVar("S", bound=Suspect)


def charge(jobs: Iterable[S], cause: str) -> frozenset[S]:
    """Charge the loss of a process to jobs that were in it.

    Parameters
    ----------
    jobs
        All that were in it.
    cause
        How it ended, for humans.

    Returns
    -------
    frozenset
        Those that are charged.
    """
    jobs = tuple(jobs)
    guilty = frozenset(job for job in jobs if not job.waiting)
    if not guilty:
        for job in jobs:
            job.losses.unexplained += 1
        guilty = frozenset(j for j in jobs if j.losses.unexplained >= MAX_LOSSES)
    for job in guilty:
        job.losses.charged.append(cause)
    return guilty


def verdict(job: Suspect) -> str | None:
    """Return the error of a job that is not to run again; None if it is.

    Examples
    --------
    The process that ran transformation 5d41 was lost 3 times: and how, a line each.
    """
    losses = job.losses.charged
    if len(losses) < MAX_LOSSES:
        return None
    lines = "".join(f"  {number}. it {how}\n" for number, how in enumerate(losses, 1))
    return (
        f"The Seamless process that ran {job.name} was lost {len(losses)} times:\n"
        f"{lines}"
    )

"""Which jobs are to blame when a process is lost; communicates with nothing.

An executing job may have brought its process down; a job that waits for nested
transformations has not. If all jobs in the process were waiting, the cause is none of
them, or a thread that one of them has left running: jobs that were present at
`MAX_LOSSES` such losses are charged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

#: a job ends with an error when so many processes were lost because of it
MAX_LOSSES = 3


@dataclass
class Losses:
    """The lost processes in which a job was running."""

    #: how the processes ended that the job may have brought down
    charged: list[str] = field(default_factory=list)
    #: number of processes that were lost while all jobs in them waited
    unexplained: int = 0


class Suspect(Protocol):
    """A job, as far as blame is concerned."""

    @property
    def name(self) -> str:
        """Its name in error texts."""

    @property
    def waiting(self) -> int:
        """Nested transformations for which it waits."""

    @property
    def losses(self) -> Losses:
        """The lost processes in which it was running."""


S = TypeVar("S", bound=Suspect)


def charge(jobs: Iterable[S], cause: str) -> frozenset[S]:
    """Charge the loss of a process to jobs that were in it.

    Parameters
    ----------
    jobs
        All jobs that were in the process.
    cause
        How the process ended, in words.

    Returns
    -------
    frozenset
        The jobs that are charged.
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
    """Return the error text of a job that must not run again; None if it may.

    Examples
    --------
    "The Seamless process that ran transformation 5d41 was lost 3 times:", and one line
    for each loss.
    """
    losses = job.losses.charged
    if len(losses) < MAX_LOSSES:
        return None
    lines = "".join(f"  {number}. it {how}\n" for number, how in enumerate(losses, 1))
    return (
        f"The Seamless process that ran {job.name} was lost {len(losses)} times:\n"
        f"{lines}"
    )

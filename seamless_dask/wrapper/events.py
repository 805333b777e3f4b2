"""What the main thread of the wrapper is told by others; they put it into its queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from .exit_codes import StatusFileLost


@dataclass(frozen=True)
class Endpoint:
    """Where the scheduler and its dashboard may listen."""

    host: str
    first_port: int
    last_port: int


class Jobs(Protocol):
    """What keeps the jobs of a batch system; `scaling.batch.BatchAdaptive` does."""

    @property
    def healthy(self) -> bool:
        """Whether no job has failed so far."""

    async def end(self, seconds: float) -> News:
        """End the jobs, and return what is left of them."""


@dataclass(frozen=True)
class Launched:
    """A cluster whose scheduler accepts connections."""

    cluster: Any
    #: The activity and permission plugin in its scheduler.
    plugin: Any
    port: int
    dashboard_port: int
    #: On a batch system.
    jobs: Jobs | None = None


@dataclass(frozen=True)
class SignalArrived:
    """Somebody wants the wrapper to end."""

    number: int


@dataclass(frozen=True)
class FileLost:
    """The status file is no longer ours."""

    error: StatusFileLost


@dataclass(frozen=True)
class Started:
    """The cluster accepts connections."""

    launched: Launched


@dataclass(frozen=True)
class Failure:
    """Something went wrong in another thread."""

    error: BaseException


@dataclass(frozen=True)
class Activity:
    """What the cluster does."""

    #: Counters of the scheduler plugin; None once the scheduler is closed.
    snapshot: dict[str, Any] | None


@dataclass(frozen=True)
class News:
    """What has changed about the jobs of a batch system."""

    #: Jobs that may be in the queue.
    jobs: tuple[str, ...]
    #: Why no more jobs are submitted at the moment; empty if nothing is wrong.
    submission_error: str
    #: Those of the jobs that the queue has never shown.
    unseen: tuple[str, ...] = ()
    #: Jobs that nobody knows may be in the queue, and show up in it for so many seconds;
    #: 0 if there is no reason to think so.
    doubtful: float = 0.0
    #: The name of all jobs.
    job_name: str = ""
    #: Options for the commands about jobs.
    options: tuple[str, ...] = ()


Event = SignalArrived | FileLost | Started | Failure | Activity | News

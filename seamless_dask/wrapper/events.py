"""The events that other threads put into the queue of the wrapper's main thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from .exit_codes import StatusFileLost


@dataclass(frozen=True)
class Endpoint:
    """The host and the ports on which the scheduler and its dashboard may listen."""

    host: str
    first_port: int
    last_port: int


class Jobs(Protocol):
    """The object that manages the jobs of a batch system: `scaling.batch.BatchAdaptive`."""

    @property
    def healthy(self) -> bool:
        """Whether no job has failed so far."""

    async def end(self, seconds: float) -> News:
        """End the jobs, and return the jobs that may be left."""


@dataclass(frozen=True)
class Launched:
    """A cluster whose scheduler accepts connections."""

    cluster: Any
    #: The activity and permission plugin in its scheduler.
    plugin: Any
    port: int
    dashboard_port: int
    #: None without a batch system.
    jobs: Jobs | None = None


@dataclass(frozen=True)
class SignalArrived:
    """A signal asks the wrapper to end."""

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
    """An exception was raised in another thread."""

    error: BaseException


@dataclass(frozen=True)
class Activity:
    """The activity of the cluster."""

    #: Counters of the scheduler plugin; None once the scheduler is closed.
    snapshot: dict[str, Any] | None


@dataclass(frozen=True)
class News:
    """The jobs of a batch system have changed."""

    #: Jobs that may be in the queue.
    jobs: tuple[str, ...]
    #: Why no more jobs are submitted at the moment; empty if all is well.
    submission_error: str
    #: The jobs that the queue has never shown.
    unseen: tuple[str, ...] = ()
    #: For how many seconds unknown jobs may still appear in the queue; 0 if there is no
    #: reason to expect any.
    doubtful: float = 0.0
    #: The name of all jobs.
    job_name: str = ""
    #: Options for the commands about jobs.
    options: tuple[str, ...] = ()


Event = SignalArrived | FileLost | Started | Failure | Activity | News

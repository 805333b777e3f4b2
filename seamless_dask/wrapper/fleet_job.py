"""One job of a batch system, and what is to be done about all of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Job:
    """One job that is ours."""

    id: str
    submitted: float
    #: Where the queue says that it is: "pending", "held", "running" or "ending".
    place: str = "pending"
    #: Whether the queue has ever shown it.
    shown: bool = False
    #: Since when the queue does not show it; None: it does, or was not asked.
    missing_since: float | None = None
    #: Nodes on which it must not start.
    avoids: tuple[str, ...] = ()
    node: str = ""
    #: Why it is there, in the words of the batch system.
    reason: str = ""
    #: Addresses of its workers that are connected.
    workers: set[str] = field(default_factory=set)
    #: Addresses of workers that were lost without having been asked to end.
    lost: list[str] = field(default_factory=list)
    connected_at: float | None = None
    #: Since when it runs without a worker.
    alone_since: float | None = None
    #: The last time when its script showed that it goes on.
    alive_at: float | None = None
    #: It has failed, and its node is to blame.
    failed: bool = False
    held_since: float | None = None
    #: It is being emptied, because it is not needed.
    retiring: bool = False
    #: Its workers have come to the end of their lifetime, and finish what they run.
    leaving: bool = False
    cancelled: bool = False
    cancelled_at: float = 0.0
    #: The queue has it long after it was cancelled.
    surviving: bool = False

    @property
    def state(self) -> str:
        """One word for people: pending, held, starting, connected, draining, ending."""
        if self.cancelled or self.place == "ending":
            return "ending"
        if self.workers:
            return "draining" if self.retiring or self.leaving else "connected"
        return "starting" if self.place == "running" else self.place


@dataclass(frozen=True)
class Gone:
    """A job that has left the queue, and who is to blame."""

    job: Job
    #: The loss has nothing to do with what the job computed.
    infrastructure: bool


@dataclass
class Actions:
    """What to do now."""

    #: Number of jobs to submit.
    submit: int = 0
    #: {job id: why}
    cancel: dict[str, str] = field(default_factory=dict)
    #: Jobs whose workers should finish what they run, and end.
    retire: list[str] = field(default_factory=list)
    #: The queue should be asked about all jobs.
    query: bool = False
    #: The queue should be asked for jobs of this cluster by their name.
    search: bool = False

"""One job of a batch system, when patience with it ends, and what is to be done. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

#: No queue is asked more often than this, in seconds.
QUERY_SECONDS = 30.0


@dataclass(frozen=True)
class Rules:
    """When patience ends; all values but the first are seconds."""

    #: Most jobs that may be in the queue; None: any number.
    maximum: int | None = None
    #: A worker ends itself when it has not found the scheduler for so long.
    death_timeout: float = 60.0
    #: Which setting that is.
    death_timeout_key: str = "death-timeout"
    #: On top of it, for the batch system to start the job's script.
    start_margin: float = 15.0
    #: A job that somebody holds in the queue is replaced after so long.
    held: float = 60.0
    #: A job may go on for so long after it was cancelled.
    dying: float = 20.0
    #: Pause after the first failed submission; doubled with every further one...
    retry: float = 5.0
    #: ... up to this.
    retry_most: float = 300.0
    #: A job is queried that often at most.
    query: float = QUERY_SECONDS
    #: A job that the batch system has taken may stay invisible in its queue for so long.
    hidden: float = 60.0
    #: A job that the queue has never shown is given up after so long.
    unseen: float = 120.0
    #: The queue is asked for jobs that nobody knows that often, if there is no suspicion.
    search: float = 300.0
    #: Workers end so long after they connected, at the earliest; None: never.
    lifetime: float | None = None
    #: So long before that end, a successor is requested.
    lead: float = 60.0

    @property
    def connect(self) -> float:
        """How long a job may run without a worker that is connected."""
        return self.death_timeout + self.start_margin


@dataclass
class Job:
    """One job that is ours."""

    id: str
    submitted: float
    #: Where the queue says that it is: "pending", "held", "running" or "ending".
    place: str = "pending"
    #: Whether the queue has ever shown it.
    shown: bool = False
    #: Answers of the queue in a row that do not show it.
    absences: int = 0
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
    #: The command that cancels has complained.
    refuses_to_end: bool = False
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

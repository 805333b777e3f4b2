"""A job of a batch system, the time limits for it, and the actions to take. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

#: Least time between two questions to the queue, in seconds.
QUERY_SECONDS = 30.0


@dataclass(frozen=True)
class Rules:
    """The limits for jobs; all values but the first are seconds."""

    #: Most jobs that may be in the queue; None: any number.
    maximum: int | None = None
    #: Time after which a worker ends itself if it has not found the scheduler.
    death_timeout: float = 60.0
    #: The configuration key of that time.
    death_timeout_key: str = "death-timeout"
    #: Additional time for the batch system to start the job's script.
    start_margin: float = 15.0
    #: Time after which a job that is held in the queue is replaced.
    held: float = 60.0
    #: Time that a job may go on after it was cancelled.
    dying: float = 20.0
    #: Pause after the first failed submission; doubled with every further one...
    retry: float = 5.0
    #: ... up to this.
    retry_most: float = 300.0
    #: Least time between two queries about jobs.
    query: float = QUERY_SECONDS
    #: Time for which the queue may not show a job that the batch system has accepted.
    hidden: float = 60.0
    #: Time after which a job that the queue has never shown is given up.
    unseen: float = 120.0
    #: Time between two searches for unknown jobs, if there is no suspicion.
    search: float = 300.0
    #: Shortest time from the connection of a worker to its end; None: it never ends.
    lifetime: float | None = None
    #: Time before that end at which a successor is requested.
    lead: float = 60.0

    @property
    def connect(self) -> float:
        """How long a job may run without a connected worker."""
        return self.death_timeout + self.start_margin


@dataclass
class Job:
    """One of our jobs."""

    id: str
    submitted: float
    #: A submission has answered with its id, or a search has found it. Otherwise its worker
    #: has connected first, and a submission under way may still answer with this id.
    claimed: bool = True
    #: Its state in the queue: "pending", "held", "running" or "ending".
    place: str = "pending"
    #: Whether the queue has ever shown it.
    shown: bool = False
    #: Answers of the queue in a row that do not show it.
    absences: int = 0
    #: Nodes on which it must not start.
    avoids: tuple[str, ...] = ()
    node: str = ""
    #: The reason for that state, as the batch system gives it.
    reason: str = ""
    #: Addresses of its workers that are connected.
    workers: set[str] = field(default_factory=set)
    #: Addresses of workers that were lost, but not asked to end.
    lost: list[str] = field(default_factory=list)
    connected_at: float | None = None
    #: Since when it runs without a worker.
    alone_since: float | None = None
    #: When its script last showed a sign of life.
    alive_at: float | None = None
    #: It has failed, and the failure is charged to its node.
    failed: bool = False
    held_since: float | None = None
    #: It is not needed, and its workers finish their tasks.
    retiring: bool = False
    #: Its workers have come to the end of their lifetime, and finish their tasks.
    leaving: bool = False
    cancelled: bool = False
    cancelled_at: float = 0.0
    #: The command that cancels it reported an error.
    refuses_to_end: bool = False
    #: The queue still shows it long after it was cancelled.
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
    """A job that has left the queue, and the cause."""

    job: Job
    #: The job was lost for a reason other than its tasks.
    infrastructure: bool


@dataclass
class Actions:
    """The actions to take now."""

    #: Number of jobs to submit.
    submit: int = 0
    #: {job id: why}
    cancel: dict[str, str] = field(default_factory=dict)
    #: Jobs whose workers should finish their tasks and end.
    retire: list[str] = field(default_factory=list)
    #: The queue should be asked about all jobs.
    query: bool = False
    #: The queue should be searched for jobs of this cluster by their name.
    search: bool = False

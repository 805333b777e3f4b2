"""What the permission machine knows, and the questions that it answers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from .epoch import Epoch
from .event_log import Chronicle, WaitTimes
from .events import Statistics, StoryLine, is_number
from .held import HeldTasks
from .lease import Lease
from .ledger import Ledger
from .needs import Needs
from .places import Places
from .released import Released
from .wanted import Wanted


@dataclass(frozen=True)
class Terms:
    """The offer of one worker."""

    processes: int
    throttle: int
    ceiling: int
    units: float | None
    supply: Mapping[str, float] = field(default_factory=dict)

    @property
    def capacity(self) -> int:
        return self.processes * self.throttle


class Books:
    """The state of a permission machine; nothing here changes it.

    Parameters: ``started`` is the time at which the first epoch begins, the others
    are seconds.

    Raises ValueError if a duration is not a positive number.
    """

    def __init__(
        self,
        *,
        started: float = 0.0,
        epoch: float = 10.0,
        start_timeout: float = 60.0,
        unbound_timeout: float = 3600.0,
        patience: float = 60.0,
    ) -> None:
        for name, seconds in (
            ("epoch", epoch),
            ("start_timeout", start_timeout),
            ("unbound_timeout", unbound_timeout),
            ("patience", patience),
        ):
            if not (is_number(seconds) and seconds > 0):
                raise ValueError(f"{name}: got {seconds!r}, allowed: seconds > 0")
        self.start_timeout = start_timeout
        self.unbound_timeout = unbound_timeout
        #: number of slots: sum of processes x throttle
        self.capacity = 0
        #: most transformations that may be admitted at the same time, lent or not
        self.ceiling = 0
        #: {worker address: its terms}
        self._workers: dict[str, Terms] = {}
        self._ledger = Ledger()
        self._places = Places()
        self._held = HeldTasks()
        self._epoch = Epoch(started, epoch, patience)
        self._chronicle = Chronicle()
        self._released = Released()
        self._wanted = Wanted()

    # -- questions ---------------------------------------------------------------

    @property
    def ledger(self) -> Ledger:
        """The ledger; other modules only read it."""
        return self._ledger

    @property
    def places(self) -> Places:
        """The slots of each worker; other modules only read them."""
        return self._places

    @property
    def load(self) -> float:
        """The share (0 to 1) of the slots whose transformations execute."""
        return min(1.0, self._places.executing / max(1, self.capacity))

    @property
    def runs(self) -> bool:
        """Whether any transformation executes, or stores its result."""
        return bool(self._places.executing or self._places.storing)

    @property
    def held(self) -> int:
        """Number of tasks that are held back until a slot is free."""
        return len(self._held)

    def may_ever_start(self, key: str) -> bool:
        """Whether a task that is held back has a worker that fits, free or not."""
        held = self._held.get(key)
        return held is not None and self._places.offered(held.needs)

    def held_needs(self, key: str) -> Needs | None:
        """What a task that is held back needs on its worker."""
        held = self._held.get(key)
        return None if held is None else held.needs

    def held_by_needs(self) -> dict[Needs, tuple[int, bool]]:
        """For tasks that are held back: how many, and whether a worker fits."""
        return {
            needs: (number, self._places.offered(needs))
            for needs, number in self._held.line.lengths()
        }

    def held_position(self, key: str) -> int:
        """The position of a task among those that are held back, from 1."""
        return self._held.position(key)

    def holds_back(self, key: str) -> bool:
        """Whether a task is held back until a slot is free."""
        return key in self._held

    @property
    def live(self) -> int:
        """Number of live leases, waiting or granted."""
        return len(self._ledger.leases)

    @property
    def refused_total(self) -> int:
        """Number of requests that were refused, for whatever reason."""
        return sum(self._chronicle.refused_total.values())

    @property
    def wait_times(self) -> WaitTimes:
        """Waiting times of the granted requests."""
        return self._chronicle.wait_times

    @property
    def waiting(self) -> int:
        """Number of requests that wait."""
        return self._ledger.waiting

    def wanted(self, now: float) -> int:
        """Number of transformations that need not run here and were refused lately."""
        return self._wanted.count(now)

    def some_wanted(self, now: float, limit: int) -> list[str]:
        """Keys of up to ``limit`` such transformations."""
        return list(islice(self._wanted.lately(now), limit))

    def holds(self, holder: str) -> bool:
        """Whether a client or worker has a live lease."""
        return self._ledger.holds(holder)

    def held_by(self, holder: str) -> list[str]:
        """Ids of the live leases of a client or worker, oldest first."""
        return self._ledger.held_by(holder)

    def offers(self) -> Mapping[str, tuple[int, int, int]]:
        """{worker address: (processes, throttle, capacity)}."""
        return {
            address: (terms.processes, terms.throttle, terms.capacity)
            for address, terms in self._workers.items()
        }

    def is_worker(self, address: str) -> bool:
        """Whether a worker of that address offers slots."""
        return address in self._workers

    def oldest_waiting(self, limit: int) -> list[Lease]:
        """Up to ``limit`` waiting leases, oldest first."""
        return self._ledger.oldest_waiting(limit)

    def why_waiting(self) -> str:
        """A sentence that says why requests wait."""
        if not self.capacity:
            return "no worker offers slots"
        if self._ledger.admitted >= self.ceiling:
            return (
                f"{self._ledger.admitted} transformations are held, "
                f"the limit is {self.ceiling}"
            )
        return f"{self._places.taken} of {self.capacity} slots are in use"

    def holding(self, limit: int) -> list[str]:
        """Up to ``limit`` keys whose slots are in use."""
        return list(islice(self._places.executing_keys(), limit))

    def statistics(self) -> Statistics:
        """A snapshot of the machine."""
        done = self._chronicle
        return Statistics(
            capacity=self.capacity,
            ceiling=self.ceiling,
            workers=len(self._workers),
            slots_in_use=self._places.taken,
            executing=self._places.executing,
            admitted=self._ledger.admitted,
            lent=self._places.waiting,
            storing=self._places.storing,
            waiting=self._ledger.waiting,
            held=len(self._held),
            allowance=self._epoch.allowance,
            epoch=self._epoch.length,
            granted_total=done.granted_total,
            refused_total=dict(done.refused_total),
            over_capacity_total=done.over_capacity_total,
            ended_total=done.ended_total,
            expired_total=done.expired_total,
            unknown_releases_total=done.unknown_releases_total,
            fallbacks_total=done.fallbacks_total,
        )

    def story(self, lease_id: str) -> list[StoryLine]:
        """The events of one lease, as far as they are remembered."""
        return self._chronicle.story(lease_id)

    # -- keys --------------------------------------------------------------------

    def knows(self, key: str) -> bool:
        """Whether a live lease is bound to this key."""
        return self._ledger.is_known(key)

    def waits(self, key: str) -> bool:
        """Whether a transformation waits for nested ones, admitted or not."""
        return self._ledger.is_waiting(key)

    def owners(self) -> Iterable[str]:
        """Keys of the transformations that wait for nested ones."""
        return self._ledger.owners()

    @property
    def admitted(self) -> int:
        """Number of nested transformations that have a lease."""
        return self._ledger.admitted

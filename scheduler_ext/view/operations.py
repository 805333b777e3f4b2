"""Shows operators the state of a scheduler, samples and explanations.

Everything here only reads: no decision depends on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distributed.metrics import monotonic, time
from distributed.scheduler import Scheduler

from .. import messages
from ..activity import UNFINISHED, Activity
from ..cancellation import STIMULUS, LiveKeys
from ..fields import InvalidMessage
from ..permission.machine import PermissionMachine
from ..scaling import ScalingRecord
from . import explain
from .history import History, Journal, Sample
from .phrases import listed
from .standstill import Watchdog

#: Prefixes of the stimuli that cancel tasks: ours, and Dask's
_CANCELLATIONS = (STIMULUS, "cancel-")


class Operations:
    """Collects the information for people about one scheduler, and answers questions.

    ``status`` returns the status of the plugin.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        machine: PermissionMachine,
        live: LiveKeys,
        scaling: ScalingRecord,
        activity: Activity,
        status: Callable[[], dict[str, Any]],
    ) -> None:
        self.scheduler = scheduler
        self.machine = machine
        self.scaling = scaling
        self.status = status
        self.journal = Journal()
        self.history = History()
        self.subject = explain.Subject(scheduler, machine, live, self.journal, scaling)
        self.watchdog = Watchdog(self.subject, activity)
        #: whether the plugin takes part in the scheduler; see :class:`.pages.Pages`
        self.attached = False

    # -- events ------------------------------------------------------------------

    def moved(self, key: str, start: str, finish: str, stimulus_id: str = "") -> None:
        """The task of a transformation changed its state; ``live`` still names it."""
        if finish in UNFINISHED:
            self.journal.moved(key, finish, monotonic())
            return
        task = self.scheduler.tasks[key]
        report = None
        if finish == "memory" and start == "processing":
            report = messages.parse_report(task.metadata)
        self.journal.moved(
            key,
            finish,
            monotonic(),
            again=finish == "released" and bool(task.who_wants or task.waiters),
            checksum=self.subject.live.checksum(key),
            cancelled=stimulus_id.startswith(_CANCELLATIONS),
            report=report,
        )

    def sample(self) -> Sample:
        """Remember the numbers of this moment; the cost does not depend on them."""
        ledger = self.machine.ledger
        waiting, with_workers = explain.totals(self.subject)
        sample = Sample(
            time=time(),
            capacity=self.machine.capacity,
            slots_in_use=self.machine.places.taken,
            lent=self.machine.places.waiting,
            requests_waiting=ledger.waiting,
            refused_total=self.machine.refused_total,
            transformations_waiting=waiting,
            transformations_with_workers=with_workers,
            ended_total=sum(self.journal.endings.values()),
            workers=len(self.scheduler.workers),
        )
        self.history.add(sample)
        return sample

    # -- questions ---------------------------------------------------------------

    def overview(self) -> dict[str, Any]:
        """Unfinished transformations, see :func:`explain.overview`, and totals.

        ``endings_total`` is {:data:`.history.Ending`: number}, and
        ``nested_cache_hits_total`` the number of results that workers found for
        nested transformations, which then became no tasks. ``begun_again_total`` tells
        how often the code of a transformation began again on its worker. ``resumes``
        tells how many transformations waited for their process after their calls had
        ended, and how long in total.
        """
        waits = self.journal.resume_waits
        return {
            **explain.overview(self.subject, monotonic()),
            "endings_total": dict(self.journal.endings),
            "nested_cache_hits_total": self.journal.nested_cache_hits,
            "begun_again_total": self.journal.begun_again,
            "resumes": {"waited": sum(waits.counts), "seconds": waits.sum},
        }

    def state(self) -> dict[str, Any]:
        """The status of the plugin, with the time (Unix seconds) and the address."""
        return {"time": time(), "scheduler": self.scheduler.address, **self.status()}

    def why(self, checksum: str) -> dict[str, Any]:
        """Where a transformation is, see :func:`explain.why`.

        The beginning of its checksum will do. Raises InvalidMessage if several begin so.
        """
        if len(checksum) < 64:
            known = explain.named(self.subject, checksum)
            if len(known) > 1:
                names = listed(known[: explain.MAX_NAMED], len(known))
                raise InvalidMessage(
                    [
                        f"field 'checksum': got {checksum!r}, allowed: more digits, "
                        f"since {len(known)} transformations begin so: {names}"
                    ]
                )
            checksum = known[0] if known else checksum
        return explain.why(self.subject, checksum, monotonic())

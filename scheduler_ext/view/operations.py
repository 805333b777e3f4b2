"""Shows operators the state of a scheduler, samples and explanations.

Everything here only reads: no decision depends on it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from distributed.metrics import monotonic, time
from distributed.scheduler import Scheduler, TaskState

from .. import reports
from ..about import About
from ..activity import UNFINISHED, Activity
from ..cancellation import STIMULUS, LiveKeys
from ..error_texts import beginning, last_line
from ..fields import InvalidMessage
from ..functions import DIGITS, Functions
from ..permission.machine import PermissionMachine
from ..scaling import ScalingRecord
from ..version import __version__
from . import explain, progress, search
from .durations import Durations, Usage, Waits
from .failures import Failure, Failures
from .history import History, Journal, Sample
from .labels import Labels, joined, with_digits
from .phrases import listed
from .standstill import Watchdog
from .workers import worker_of

logger = logging.getLogger(__name__)

#: Failures of one function that are written into the log
LOGGED = 20
#: Prefixes of the stimuli that cancel tasks: ours, and Dask's
_CANCELLATIONS = (STIMULUS, "cancel-")


class Operations:
    """Collects the information for people about one scheduler, and answers questions.

    ``status`` returns the status of the plugin, ``announced`` the number of
    transformations that driver scripts keep back until others have ended.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        machine: PermissionMachine,
        live: LiveKeys,
        scaling: ScalingRecord,
        activity: Activity,
        functions: Functions,
        status: Callable[[], dict[str, Any]],
        announced: Callable[[], int],
    ) -> None:
        self.scheduler = scheduler
        self.machine = machine
        self.scaling = scaling
        self.status = status
        self._announced = announced
        self.journal = Journal()
        self.history = History()
        self.functions = functions
        self.nested = progress.Tally()
        self.failures = Failures()
        self.labels = Labels(scheduler, machine, live, functions)
        self.subject = explain.Subject(
            scheduler,
            machine,
            live,
            self.journal,
            scaling,
            self.labels,
            self.failures,
        )
        self.watchdog = Watchdog(self.subject, activity)
        #: what the wrapper says about the cluster
        self.about = About()
        self._activity = activity
        self.waits = Waits()
        self.durations = Durations(time(), monotonic())
        #: whether the plugin takes part in the scheduler; see :class:`.pages.Pages`
        self.attached = False

    # -- events ------------------------------------------------------------------

    def moved(self, key: str, start: str, finish: str, stimulus_id: str = "") -> None:
        """The task of a transformation changed its state; ``live`` still names it."""
        if progress.is_nested(self.scheduler, key):
            self.nested.moved(start, finish)
        now = monotonic()
        if finish in UNFINISHED:
            self.journal.moved(key, finish, now)
            new = start not in UNFINISHED
            self.waits.moved(key, finish, now, self._leased(key) if new else 0.0)
            return
        task = self.scheduler.tasks[key]
        checksum = self.subject.live.checksum(key)
        report = None
        if finish == "memory" and start == "processing":
            report = reports.parse_report(task.metadata)
            if report is not None and report.get("ending") == "failed":
                self._failed(task, checksum, *reports.parse_failure(report))
        elif finish == "erred":
            error = f"{task.exception_text or ''}\n"
            self._failed(task, checksum, last_line(error), beginning(error))
        ended = self.journal.moved(
            key,
            finish,
            now,
            again=finish == "released" and bool(task.who_wants or task.waiters),
            checksum=checksum,
            cancelled=stimulus_id.startswith(_CANCELLATIONS),
            report=report,
        )
        if ended is not None:
            self.durations.ended(
                self.labels.shown(key),
                ended.ending,
                ended.seconds,
                self.waits.ended(key, now),
                Usage(*reports.parse_usage(report or {})),
            )

    def _leased(self, key: str) -> float:
        """How long the caller of a nested transformation has waited for its lease."""
        return max(
            (
                lease.granted_at - lease.since
                for lease in self.machine.ledger.leases_for(key)
                if lease.granted_at is not None
            ),
            default=0.0,
        )

    def clear(self) -> None:
        """All tasks are gone; the totals stay."""
        self.journal.clear()
        self.waits.clear()
        self.nested.clear()

    def beat(self, now: float) -> None:
        """Look at the time; the cost does not depend on the number of tasks."""
        self.watchdog.beat(now)
        capacity = self.machine.capacity
        self.waits.capacity(capacity, now)
        self.durations.timeline.add(now, self.machine.places.taken, capacity)

    def _failed(
        self,
        task: TaskState,
        checksum: str | None,
        line: str,
        text: str,
        origin: str | None = None,
    ) -> None:
        """Remember a failure, and write the first ones of each function into the log."""
        key = str(task.key)
        own = origin is None or (checksum or "").startswith(origin[-DIGITS:])
        failure = Failure(
            key=key,
            checksum=checksum,
            name=self.labels.shown(key),
            callers=tuple(self.labels.callers(key)),
            worker=worker_of(self.scheduler, task),
            time=time(),
            ending="failed" if task.state == "memory" else "erred",
            line=line,
            text=text,
            cause=None if own else origin,
        )
        number = self.failures.add(failure)
        if number <= LOGGED:
            more = "" if number < LOGGED else " (more of them are not logged)"
            logger.info(
                "%s failed on %s: %s%s",
                with_digits(joined(failure.name, failure.callers), key, checksum),
                failure.worker,
                line,
                more,
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
        ended, and how long in total. ``failures`` is :meth:`.failures.Failures.summary`.
        """
        waits = self.journal.resume_waits
        return {
            **explain.overview(self.subject, monotonic()),
            "endings_total": dict(self.journal.endings),
            "nested_cache_hits_total": self.journal.nested_cache_hits,
            "begun_again_total": self.journal.begun_again,
            "failures": self.failures.summary(),
            "resumes": {"waited": sum(waits.counts), "seconds": waits.sum},
        }

    @property
    def states(self) -> dict[str, int]:
        """{Dask state: number of unfinished transformations}."""
        return self._activity.transformations.states

    @property
    def announced(self) -> int:
        """Number of transformations that driver scripts have not submitted yet."""
        return self._announced()

    @property
    def unfinished(self) -> int:
        """Number of unfinished tasks of all sorts."""
        return self._activity.all.unfinished

    def cluster(self) -> dict[str, Any]:
        """The fields of :class:`..about.About`, and times.

        ``since`` is the start of the scheduler in Unix seconds, ``version`` ours.
        ``ends_in`` is how many seconds are left until the cluster ends for want of work,
        None while there is work or if it never ends so. ``walltime_in`` is how many are
        left until the job that has run longest is ended by its batch system; None without
        such a job.
        """
        about = self.about
        idle = self._activity.idle_seconds(monotonic())
        ends = None if about.timeout is None or not idle else about.timeout - idle
        oldest = self.scaling.oldest_job
        left = None
        if oldest is not None and about.walltime is not None:
            left = max(0.0, oldest + about.walltime - time())
        return {
            **asdict(about),
            "version": __version__,
            "since": self.durations.since,
            "ends_in": None if ends is None else max(0.0, ends),
            "walltime_in": left,
        }

    def report(self) -> dict[str, Any]:
        """Where the time went; see :meth:`.durations.Durations.answer`.

        ``nested_cache_hits`` is the number of results that were found before a nested
        transformation became a task; their names are not known.
        """
        return {
            "cluster": self.cluster(),
            "nested_cache_hits": self.journal.nested_cache_hits,
            **self.durations.answer(time()),
        }

    def state(self) -> dict[str, Any]:
        """The status of the plugin, with the time (Unix seconds) and the address."""
        return {"time": time(), "scheduler": self.scheduler.address, **self.status()}

    def progress(self) -> dict[str, Any]:
        """How far everything is, see :func:`progress.answer`."""
        return progress.answer(self.subject, self.nested, self.announced, monotonic())

    def why(self, checksum: str | None, name: str | None = None) -> dict[str, Any]:
        """Where a transformation is, see :func:`explain.why`.

        ``checksum`` may be the beginning of it. If no transformation is known by it, the
        answer is about those of the functions with this ``name``: it is that of
        :func:`search.by_name`, unless there is only one. Raises InvalidMessage if the
        checksums of several begin so.
        """
        now = monotonic()
        if checksum is not None:
            reply = self._by_checksum(checksum, now)
            if reply["found"] or name is None:
                return reply
        codes = self.functions.named(name or "")
        if not codes and checksum is not None:
            return reply
        reply = search.by_name(self.subject, codes, now)
        rows = reply["matches"]["rows"]
        if len(rows) == 1 and rows[0]["checksum"] is not None:
            return explain.why(self.subject, rows[0]["checksum"], now)
        return reply

    def _by_checksum(self, checksum: str, now: float) -> dict[str, Any]:
        if len(checksum) < 64:
            known = search.begin_so(self.subject, checksum)
            if len(known) > 1:
                names = listed(known[: explain.MAX_NAMED], len(known))
                raise InvalidMessage(
                    [
                        f"field 'checksum': got {checksum!r}, allowed: more digits, "
                        f"since {len(known)} transformations begin so: {names}"
                    ]
                )
            checksum = known[0] if known else checksum
        return explain.why(self.subject, checksum, now)

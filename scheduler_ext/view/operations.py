"""What operators see of a scheduler: its pages, metrics and explanations.

Everything here only looks: nothing that is decided depends on it. The pages belong to
the HTTP server that a scheduler has anyway, and come and go while it runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, cast

from distributed.core import Status
from distributed.metrics import monotonic, time
from distributed.scheduler import Scheduler
from tornado.ioloop import PeriodicCallback

from .. import messages, results
from ..activity import UNFINISHED, Activity
from ..cancellation import LiveKeys
from ..messages import InvalidMessage, error_reply
from ..permission.machine import PermissionMachine
from ..scaling import ScalingRecord
from . import explain
from .history import History, Journal, Sample
from .phrases import listed
from .standstill import Watchdog

logger = logging.getLogger(__name__)

NAME = "seamless-samples"
#: Seconds between two samples
INTERVAL = 1.0
#: How the stimuli begin by which tasks are cancelled: by us, by Dask
_CANCELLATIONS = ("seamless-cancel-", "cancel-")

Undo = Callable[[], None]


class Operations:
    """Remembers what people want to know about one scheduler, and shows it.

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
        #: whether the plugin takes part in the scheduler
        self.attached = False
        self._sampler = PeriodicCallback(self._take_sample, INTERVAL * 1000)
        self._undo: list[Undo] = []

    # -- life cycle --------------------------------------------------------------

    def connect(self) -> None:
        """Add pages and metrics to the scheduler's HTTP server.

        Without a dashboard there is no page, and no sample is ever taken.
        """
        self.attached = True
        self.scheduler.handlers[messages.OP_WHY] = self._on_why
        for add in (_add_routes, _add_metrics, _add_page):
            try:
                undo = add(self)
            except Exception:  # the scheduler works without
                logger.exception("%s failed: something is not shown", add.__name__)
            else:
                if undo is not None:
                    self._undo.append(undo)

    def disconnect(self) -> None:
        """Undo :meth:`connect`; a page that somebody has open says so."""
        self.close()
        self.scheduler.handlers.pop(messages.OP_WHY, None)

    def close(self) -> None:
        """Take everything away; the scheduler ends, or has no plugin any more."""
        self.attached = False
        while self._undo:
            undo = self._undo.pop()
            try:
                undo()
            except Exception:  # the others go on, and so does who detaches
                logger.exception("%s failed: something is still shown", undo)

    def start_sampling(self) -> Undo:
        """Take a sample now and then, until that is undone."""
        callbacks = self.scheduler.periodic_callbacks
        callbacks[NAME] = self._sampler
        if self.scheduler.status == Status.running:
            self._sampler.start()  # otherwise the scheduler does, when it starts

        def stop() -> None:
            self._sampler.stop()
            callbacks.pop(NAME, None)

        return stop

    # -- what happens ------------------------------------------------------------

    def moved(self, key: str, start: str, finish: str, stimulus_id: str = "") -> None:
        """The task of a transformation changed its state; ``live`` still names it."""
        if finish in UNFINISHED:
            self.journal.moved(key, finish, monotonic())
            return
        task = self.scheduler.tasks[key]
        report = None
        if finish == "memory" and start == "processing":
            report = (task.metadata or {}).get(messages.REPORT)
            results.pass_on(self.scheduler, task)
        self.journal.moved(
            key,
            finish,
            monotonic(),
            again=finish == "released" and bool(task.who_wants or task.waiters),
            checksum=self.subject.live.checksum(key),
            cancelled=stimulus_id.startswith(_CANCELLATIONS),
            report=report if isinstance(report, dict) else None,
        )

    def sample(self) -> Sample:
        """Remember the numbers of this moment; costs the same however many there are."""
        ledger = self.machine.ledger
        waiting, with_workers = explain.totals(self.subject)
        sample = Sample(
            time=time(),
            capacity=self.machine.capacity,
            slots_in_use=ledger.slots_in_use,
            lent=ledger.lent,
            requests_waiting=ledger.waiting,
            refused_total=self.machine.refused_total,
            transformations_waiting=waiting,
            transformations_with_workers=with_workers,
            ended_total=sum(self.journal.endings.values()),
            workers=len(self.scheduler.workers),
        )
        self.history.add(sample)
        return sample

    def _take_sample(self) -> None:
        self.sample()

    # -- questions ---------------------------------------------------------------

    def overview(self) -> dict[str, Any]:
        """Unfinished transformations, see :func:`explain.overview`, and totals.

        ``endings_total`` is {:data:`.history.Ending`: number}, and
        ``nested_cache_hits_total`` the number of results that workers found for
        nested transformations, which then became no tasks. ``begun_again_total`` tells
        how often the code of one began another time on its worker, and ``resumes`` how
        many, whose calls had ended, waited for their process, and how long together.
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

    def _on_why(self, **payload: Any) -> dict[str, Any]:
        """RPC: ``{"status": "ok", ...}`` and what :func:`explain.why` returns."""
        try:
            return {"status": "ok", **self.why(messages.parse_why(payload))}
        except InvalidMessage as problem:
            return error_reply(problem.errors)


# The modules below are loaded with the first scheduler, not with the package.


def _add_routes(operations: Operations) -> Undo:
    from . import routes

    return routes.add(operations)


def _add_metrics(operations: Operations) -> Undo | None:
    try:
        from . import metrics
    except ModuleNotFoundError as missing:
        logger.info("No metrics: %s", missing)
        return None
    return metrics.add(operations)


def _add_page(operations: Operations) -> Undo | None:
    dask_pages = dashboard_of(operations.scheduler)
    if dask_pages is None:
        return None
    from . import dashboard

    remove = dashboard.add(operations, dask_pages)
    stop = operations.start_sampling()

    def undo() -> None:
        stop()
        remove()

    return undo


def dashboard_of(scheduler: Scheduler) -> Any:
    """The Bokeh application with Dask's pages, None if the scheduler shows none."""
    for application in scheduler.http_application.applications:
        if hasattr(application, "app_paths"):
            return cast(Any, application)
    return None

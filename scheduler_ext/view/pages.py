"""Mounts the page, the JSON and the metrics on the scheduler, and takes their samples.

They use the HTTP server that the scheduler has anyway, and are added and removed while
it runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from distributed.core import Status
from distributed.scheduler import Scheduler
from tornado.ioloop import PeriodicCallback

from .history import INTERVAL
from .operations import Operations

logger = logging.getLogger(__name__)

#: The sampler among the periodic callbacks of the scheduler
NAME = "seamless-samples"

Undo = Callable[[], None]


class Pages:
    """Page, JSON and metrics of one scheduler, all of which show ``operations``."""

    def __init__(self, scheduler: Scheduler, operations: Operations) -> None:
        self._scheduler = scheduler
        self._operations = operations
        self._sampler = PeriodicCallback(self._take_sample, INTERVAL * 1000)
        self._undo: list[Undo] = []

    def connect(self) -> None:
        """Add everything to the scheduler's HTTP server.

        Without a dashboard there is no page, and no sample is ever taken.
        """
        self._operations.attached = True
        for add in (self._add_routes, self._add_metrics, self._add_page):
            try:
                undo = add()
            except Exception:  # the scheduler works without it
                logger.exception("%s failed: something is not shown", add.__name__)
            else:
                if undo is not None:
                    self._undo.append(undo)

    def close(self) -> None:
        """Remove everything; a page that is open in a browser says so."""
        self._operations.attached = False
        while self._undo:
            undo = self._undo.pop()
            try:
                undo()
            except Exception:  # remove the others nevertheless, and finish detaching
                logger.exception("%s failed: something is still shown", undo)

    # The modules below are loaded with the first scheduler, not with the package.

    def _add_routes(self) -> Undo:
        from . import routes

        return routes.add(self._operations)

    def _add_metrics(self) -> Undo | None:
        try:
            from . import metrics
        except ModuleNotFoundError as missing:
            logger.info("No metrics: %s", missing)
            return None
        return metrics.add(self._operations)

    def _add_page(self) -> Undo | None:
        from .routes import dashboard_of

        dask_pages = dashboard_of(self._scheduler)
        if dask_pages is None:
            return None
        from . import dashboard

        remove = dashboard.add(self._operations, dask_pages)
        stop = self._start_sampling()

        def undo() -> None:
            stop()
            remove()

        return undo

    def _start_sampling(self) -> Undo:
        """Take samples at regular times; returns the function that stops it."""
        callbacks = self._scheduler.periodic_callbacks
        callbacks[NAME] = self._sampler
        if self._scheduler.status == Status.running:
            self._sampler.start()  # otherwise the scheduler starts it, when it starts

        def stop() -> None:
            self._sampler.stop()
            callbacks.pop(NAME, None)

        return stop

    def _take_sample(self) -> None:
        self._operations.sample()

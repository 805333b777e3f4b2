"""For ``dask scheduler --preload scheduler_ext.preload``."""

from __future__ import annotations

from distributed.scheduler import Scheduler

from .plugin import attach, detach


def dask_setup(scheduler: Scheduler) -> None:
    """Called by Dask when the scheduler starts."""
    attach(scheduler)


def dask_teardown(scheduler: Scheduler) -> None:
    """Called by Dask when the scheduler ends."""
    detach(scheduler)

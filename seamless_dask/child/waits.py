"""Marks the places where a job waits, so that other jobs may execute meanwhile.

These places are ``run()``, ``compute()`` and calls of transformations, the event loops
that a job runs itself, and the commands of bash transformations. A job that waits in
another place, such as a thread pool of its own, does not lend its process.
"""

from __future__ import annotations

import functools
import selectors
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from ..neighbours.replacing import current, replace
from .job_identity import current_job
from .turn_keeper import TurnKeeper


def install(keeper: TurnKeeper) -> Callable[[], AbstractContextManager[None]]:
    """Install this in the calling process; call it once.

    Parameters
    ----------
    keeper
        Lets one job at a time execute.

    Returns
    -------
    callable
        Returns a context manager in which the calling job waits.
    """
    from seamless_transformer import transformation_cache, transformation_class

    def waiting() -> AbstractContextManager[None]:
        return keeper.waiting(current_job())

    transformation = transformation_class.Transformation
    compute = current(transformation, "_compute")
    run_here = current(transformation_cache, "run_transformation_dict")

    @functools.wraps(compute)
    def compute_waiting(self: Any, *args: Any, **kwargs: Any) -> Any:
        with waiting():
            return compute(self, *args, **kwargs)

    @functools.wraps(run_here)
    def run_executing(*args: Any, **kwargs: Any) -> Any:
        """Run a nested transformation in this process, as part of its job."""
        with keeper.executing(current_job()):
            return run_here(*args, **kwargs)

    replace(transformation, "_compute", compute_waiting)
    replace(transformation_cache, "run_transformation_dict", run_executing)
    replace(selectors, "DefaultSelector", _selector(waiting))
    return waiting


def _selector(
    waiting: Callable[[], AbstractContextManager[None]],
) -> type[selectors.BaseSelector]:
    class JobSelector(selectors.DefaultSelector):
        """Selector for the event loops of a job, which waits while this one blocks."""

        def select(self, timeout: float | None = None) -> Any:
            events = super().select(0)
            if events or timeout == 0:
                return events
            with waiting():
                return super().select(timeout)

    return JobSelector

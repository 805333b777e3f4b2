"""Keeps transformations out of Dask's spans, which are kept for ever.

Dask makes a span whenever work begins after a pause, so one for each transformation of a
script that computes one after the other, with 3 kB in the scheduler and figures in each
worker; and it adds to the span of work that goes on with each graph that is submitted.
Nobody looks at the spans of transformations. Other tasks have theirs as ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from distributed.scheduler import Scheduler, WorkerState
from distributed.spans import SpansSchedulerExtension

from .task_keys import is_transformation

#: the name of the extension in ``Scheduler.extensions``
NAME = "spans"


class SpansOfOthers(SpansSchedulerExtension):
    """The spans of tasks that are no transformations."""

    def observe_tasks(
        self, tss: Iterable[Any], *args: Any, **kwargs: Any
    ) -> dict[Any, dict[str, Any]]:
        """Give spans to new tasks; see `SpansSchedulerExtension`."""
        others = [task for task in tss if not is_transformation(task.key)]
        return super().observe_tasks(others, *args, **kwargs) if others else {}

    def heartbeat(self, ws: WorkerState, data: Mapping[Any, float]) -> None:
        """Add figures of a worker to spans; those of transformations have none."""
        super().heartbeat(
            ws, {name: value for name, value in data.items() if name[1] in self.spans}
        )


def use_spans(scheduler: Scheduler, kind: type[SpansSchedulerExtension]) -> None:
    """Exchange the extension of a scheduler for one that keeps the spans that it has."""
    present = scheduler.extensions.get(NAME)
    if isinstance(present, SpansSchedulerExtension):
        new = kind(scheduler)
        vars(new).update(vars(present))
        scheduler.extensions[NAME] = new

"""Forgets Dask's prefixes of codes that no task runs any more.

Dask keeps a ``TaskPrefix`` for each function for ever, with the durations that it has
learned, and shows all of them on ``/metrics``. There is one for each code of a
transformation (see :mod:`.task_keys`), so the oldest unused ones are forgotten.
"""

from __future__ import annotations

from collections import OrderedDict

from distributed.scheduler import Scheduler

from .task_keys import prefix_of

#: Prefixes without tasks that are kept, with the durations that Dask has learned
KEPT = 200
#: Further ones, after which the oldest are forgotten all at once
SLACK = 50


class Prefixes:
    """The prefixes of one scheduler that belong to the code of transformations."""

    def __init__(self, scheduler: Scheduler, kept: int = KEPT) -> None:
        self._scheduler = scheduler
        self._kept = kept
        #: {prefix: None} in the order of the last use
        self._used: OrderedDict[str, None] = OrderedDict()

    def used(self, code: str) -> None:
        """There is another task with this code."""
        prefix = prefix_of(code)
        self._used[prefix] = None
        self._used.move_to_end(prefix)

    def forget(self) -> list[str]:
        """Forget the oldest unused prefixes if there are too many; return their names.

        Called with each beat of the plugin; usually only one length is looked at.
        """
        if len(self._used) <= self._kept + SLACK:
            return []
        present = self._scheduler.task_prefixes
        forgotten: list[str] = []
        for name in list(self._used):
            if len(self._used) <= self._kept:
                break
            prefix = present.get(name)
            if prefix is not None and prefix.groups:
                continue  # there are tasks
            present.pop(name, None)
            del self._used[name]
            forgotten.append(name)
        self._forget_metrics(set(forgotten))
        return forgotten

    def _forget_metrics(self, names: set[str]) -> None:
        """Forget what Dask has summed up for each of these prefixes.

        The keys are ``(context, prefix, activity, unit)`` for tasks, and others.
        """
        sums = self._scheduler.cumulative_worker_metrics
        for key in list(sums):
            if isinstance(key, tuple) and len(key) > 1 and key[1] in names:
                del sums[key]

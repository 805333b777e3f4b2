"""Clears tasks of suspicion if the loss of a worker was not their fault.

Dask suspects each task that a lost worker was processing, and lets a task fail after
too many such losses. If a batch system reports later that it ended the job itself, the
suspicion is taken back.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Any
from weakref import WeakSet

from distributed.scheduler import Scheduler, TaskState

logger = logging.getLogger(__name__)

#: Losses that are remembered
MAX_LOSSES = 1000


class Losses:
    """The workers that were lost lately, and the tasks that they had."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        #: {worker address: its tasks that are still there}, oldest first
        self._tasks: OrderedDict[str, WeakSet[TaskState]] = OrderedDict()

    def saw(self, event: Any) -> None:
        """The scheduler logged an event under the topic "all"."""
        if (
            not isinstance(event, dict)
            or event.get("action") != "remove-worker"
            or event.get("expected", True)
        ):
            return
        address = event["worker"]
        known = self._scheduler.tasks
        tasks = WeakSet(known[k] for k in event["processing-tasks"] if k in known)
        self._tasks.pop(address, None)
        if tasks:
            self._tasks[address] = tasks
        if len(self._tasks) > MAX_LOSSES:
            self._tasks.popitem(last=False)

    def forgive(self, address: str) -> int:
        """The loss of a worker was not the fault of its tasks.

        Returns the number of tasks that are less suspicious now; 0 if the worker is
        not known as lost, or was forgiven before. Tasks that have failed for good
        stay so.
        """
        forgiven = 0
        for task in self._tasks.pop(address, ()):
            current = self._scheduler.tasks.get(task.key) is task
            if current and task.state != "erred" and task.suspicious:
                task.suspicious -= 1
                task.prefix.suspicious -= 1
                forgiven += 1
        if forgiven:
            logger.info(
                "The loss of worker %s is not charged to the %d tasks that it had",
                address,
                forgiven,
            )
        return forgiven

    def clear(self) -> None:
        """No task is left."""
        self._tasks.clear()

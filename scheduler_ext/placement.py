"""Sends each transformation to the worker on which it has a slot.

Dask chooses a worker by its own estimate of when a task could start, and sends it even if
all threads there are taken; then it waits on that worker while others are idle. Here the
permission machine chooses, and a task without a free slot stays with the scheduler, in
Dask's state "no-worker", until the machine says that it may start.

To that end two methods of the scheduler are replaced on this scheduler: the choice of a
worker, and the list of tasks that a new worker may run. Tasks that are no transformations,
and those that are restricted to certain workers, are left to Dask.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterable
from typing import Any, cast

from distributed.metrics import monotonic
from distributed.scheduler import Scheduler, TaskState, WorkerState

from .permission.machine import PermissionMachine
from .permission.needs import NESTED, Needs, needs_of
from .task_keys import (
    NESTED_RESOURCE,
    TOP_LEVEL_RESOURCE,
    is_driver,
    is_transformation,
)

logger = logging.getLogger(__name__)

CHOICE = "decide_worker_non_rootish"
NEW_WORKER = "bulk_schedule_unrunnable_after_adding_worker"
STEALING = "stealing"


class Placement:
    """Chooses the workers of transformations, and holds transformations back."""

    def __init__(self, scheduler: Scheduler, machine: PermissionMachine) -> None:
        self._scheduler = scheduler
        self._machine = machine
        #: keys of tasks that may start, as soon as the event loop comes to it
        self._starting: list[str] = []
        #: keys of tasks without a worker that the permission machine does not hold back
        self._others: set[Any] = set()
        self._stock_choice = getattr(scheduler, CHOICE)

    def connect(self) -> None:
        """Replace the methods of the scheduler."""
        setattr(self._scheduler, CHOICE, self._choose)
        setattr(self._scheduler, NEW_WORKER, self._for_new_worker)
        for task in self._scheduler.unrunnable:
            self.moved(task.key, "released", task.state)

    def disconnect(self) -> None:
        """Give the scheduler its methods back, and let all tasks start that it holds back."""
        scheduler: Any = self._scheduler
        for name in (CHOICE, NEW_WORKER):
            scheduler.__dict__.pop(name, None)
        held = [str(task.key) for task in scheduler.unrunnable]
        if held:
            self.start(held)

    # -- tasks -------------------------------------------------------------------

    def take_over(self, task: TaskState) -> None:
        """Count a task that a worker had before this plugin was attached."""
        if task.processing_on is not None:
            self._sent(task, task.processing_on)

    def moved(self, key: Any, start: str, finish: str) -> None:
        """A task changed its state."""
        if finish == "no-worker":
            if not self._machine.holds_back(key):
                self._others.add(key)
        elif start == "no-worker":
            self._others.discard(key)

    def clear(self) -> None:
        """No task is left."""
        self._others.clear()

    def start(self, keys: Iterable[str]) -> None:
        """Send tasks to workers that were held back; they have slots now."""
        if not self._starting:
            # A transition of a task may be under way.
            asyncio.get_running_loop().call_soon(self._send)
        self._starting += keys

    def keep_waiting(self) -> None:
        """Tell Dask that tasks wait for a slot and not for a worker.

        Otherwise it ends them if ``distributed.scheduler.no-workers-timeout`` is set.
        """
        scheduler = self._scheduler
        if scheduler.no_workers_timeout is None or not scheduler.running:
            return
        now = monotonic()
        deadline = now - scheduler.no_workers_timeout / 2
        # In the order in which they began to wait: there may be 100,000.
        for task, _ in list(
            itertools.takewhile(
                lambda item: item[1] <= deadline, scheduler.unrunnable.items()
            )
        ):
            if self._machine.may_ever_start(str(task.key)):
                del scheduler.unrunnable[task]
                scheduler.unrunnable[task] = now

    def _send(self) -> None:
        keys, self._starting = self._starting, []
        tasks = self._scheduler.tasks
        ready = {
            key: "processing"
            for key in reversed(keys)  # the last recommendation is followed first
            if key in tasks and tasks[key].state == "no-worker"
        }
        self._scheduler.transitions(
            cast(Any, ready), stimulus_id=f"seamless-slot-{monotonic()}"
        )

    def _choose(self, task: TaskState) -> WorkerState | None:
        """Replace ``Scheduler.decide_worker_non_rootish``."""
        key = task.key
        if not is_transformation(key):
            return cast("WorkerState | None", self._stock_choice(task))
        needs = _needs(task)
        if needs is None or task.worker_restrictions or task.host_restrictions:
            ws = cast("WorkerState | None", self._stock_choice(task))
            if ws is not None:
                self._sent(task, ws)
            return ws
        address = self._machine.task_ready(
            cast(str, key),
            _depth(task),
            monotonic(),
            needs=needs,
            prefer=_place_of_data(task),
            forced=is_driver(cast(str, key)),
        )
        return None if address is None else self._scheduler.workers[address]

    def _sent(self, task: TaskState, ws: WorkerState) -> None:
        self._machine.task_sent(
            str(task.key), ws.address, monotonic(), needs=_needs(task) or NESTED
        )

    def stays(self, task: TaskState) -> None:
        """Keep Dask's work stealing from a task that has a slot where it is."""
        stealing = self._scheduler.extensions.get(STEALING)
        if stealing is not None:
            stealing.remove_key_from_stealable(task)

    def _for_new_worker(self, ws: WorkerState) -> dict[Any, Any]:
        """Replace ``bulk_schedule_unrunnable_after_adding_worker``.

        Tasks that wait for a slot start by decisions of the permission machine. There may
        be 100,000 of them, and workers may come in numbers, so they are not looked at.
        """
        scheduler, holds_back = self._scheduler, self._machine.holds_back
        runnable = []
        for key in self._others:
            task = scheduler.tasks.get(key)
            if task in scheduler.unrunnable and not holds_back(key):
                valid = scheduler.valid_workers(task)
                if valid is None or ws in valid:
                    runnable.append(task)
        runnable.sort(key=lambda task: task.priority or (), reverse=True)
        return {task.key: "processing" for task in runnable}


def _needs(task: TaskState) -> Needs | None:
    """What a task needs on its worker, None for a task that was not submitted by us."""
    restrictions = task.resource_restrictions or {}
    if TOP_LEVEL_RESOURCE in restrictions or NESTED_RESOURCE in restrictions:
        return needs_of(restrictions)
    return None


def _depth(task: TaskState) -> int:
    """The depth of nested work, which is its priority; 0 for top-level work."""
    return max(0, -int(task.priority[0])) if task.priority else 0


def _place_of_data(task: TaskState) -> str | None:
    """The address of a worker that has an input of a task."""
    for dependency in task.dependencies:
        for ws in dependency.who_has or ():
            return ws.address
    return None

"""Gives the client that submitted a task its result together with the task's end.

Otherwise the client hears that there is a result, asks the scheduler for it, which asks
the worker: two requests, one after the other, for a few bytes.
"""

from __future__ import annotations

from distributed.scheduler import Scheduler, TaskState

from .messages import PUSH_RESULT, RESULT


def pass_on(scheduler: Scheduler, task: TaskState) -> None:
    """Send a client what a worker has put into the metadata of its finished task.

    The scheduler itself does not look into it, and does not keep it. The client gets
    it before it hears of the task's end.
    """
    parcel = (task.metadata or {}).pop(RESULT, None)
    if isinstance(parcel, dict):
        message = {"op": PUSH_RESULT, "key": task.key, "result": parcel.get("result")}
        scheduler.client_send(str(parcel.get("client")), message)

"""Sends decisions about leases, and results, to the workers and clients that wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, cast

from distributed.metrics import monotonic
from distributed.scheduler import Scheduler, TaskState

from . import messages, reports
from .permission.events import Decision, Granted, Refused, Start
from .permission.machine import PermissionMachine

logger = logging.getLogger(__name__)


class Delivery:
    """Answers the calls that wait for decisions, and sends the others to workers.

    ``start`` is called with the keys of tasks that the scheduler may send now.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        machine: PermissionMachine,
        start: Callable[[list[str]], None],
    ) -> None:
        self._scheduler = scheduler
        self._machine = machine
        self._start = start
        #: {lease id: its decision}, where an RPC waits for it
        self._undecided: dict[str, asyncio.Future[Granted | Refused]] = {}

    @property
    def undecided(self) -> int:
        """The number of leases for which a call waits."""
        return len(self._undecided)

    def deliver(
        self, decisions: Iterable[Decision], answered: Iterable[str] = ()
    ) -> None:
        """Tell the holders, except for ids that are ``answered`` in another way.

        One message per holder, and only to workers: clients do not get decisions in
        this way. A message that a worker does not know would end its connection; a
        worker that has registered knows our messages.
        """
        messages_by_holder: dict[str, list[Granted | Refused]] = {}
        starting = []
        for decision in decisions:
            logger.debug("%s", decision)
            if isinstance(decision, Start):
                starting.append(decision.key)
                continue
            future = self._undecided.pop(decision.lease_id, None)
            if future is not None and not future.done():
                future.set_result(decision)
            elif decision.lease_id not in answered:
                messages_by_holder.setdefault(decision.holder, []).append(decision)
        if starting:
            self._start(starting)
        for holder, theirs in messages_by_holder.items():
            if self._machine.is_worker(holder):
                self.tell(holder, theirs)

    def tell(self, worker: str, decisions: Iterable[Granted | Refused]) -> None:
        """Send a worker decisions about its requests."""
        message = messages.push_decisions(**sorted_out(decisions))
        self._scheduler.worker_send(worker, message)

    def abandon(self, lease_ids: Iterable[str], why: str) -> None:
        """Answer the calls that wait for leases that have ended without a decision."""
        for lease_id in lease_ids:
            future = self._undecided.pop(lease_id, None)
            if future is not None and not future.done():
                future.set_result(Refused(lease_id, "", f"ended: {why}"))

    def abandon_all(self, why: str) -> None:
        """The same for all calls that wait."""
        self.abandon(list(self._undecided), why)

    async def wait(
        self, lease_ids: list[str], holder: str, seconds: float
    ) -> dict[str, Granted | Refused]:
        """Decisions about waiting leases; leases that wait longer are refused."""
        loop = asyncio.get_running_loop()
        futures: dict[str, asyncio.Future[Granted | Refused]] = {
            lease_id: self._undecided.setdefault(lease_id, loop.create_future())
            for lease_id in lease_ids
        }
        try:
            await asyncio.wait(futures.values(), timeout=seconds)
        finally:
            # no caller would get a later decision, also when this was cancelled
            why = f"no slot within {seconds:g} s (timeout)"
            for lease_id, future in futures.items():
                if not future.done():
                    self.deliver(
                        self._machine.withdraw(lease_id, holder, why, monotonic())
                    )
                    self.abandon([lease_id], why)
        return {lease_id: future.result() for lease_id, future in futures.items()}

    def pass_on(self, task: TaskState) -> None:
        """Send a client the result that a worker has put into its task's metadata.

        Otherwise the client would hear that there is a result and ask the scheduler for
        it, which asks the worker: two requests, one after the other, for a few bytes.
        The scheduler neither reads nor keeps the result. The client gets it before it
        hears of the task's end.
        """
        parcel = reports.parse_parcel((task.metadata or {}).pop(reports.RESULT, None))
        if parcel is not None:
            client, result = parcel
            message = messages.push_result(cast(str, task.key), result)
            self._scheduler.client_send(client, message)


def sorted_out(decisions: Iterable[Granted | Refused]) -> dict[str, Any]:
    """Decisions of one holder, ready for the wire."""
    granted: list[str] = []
    refused: dict[str, str] = {}
    for decision in decisions:
        if isinstance(decision, Granted):
            granted.append(decision.lease_id)
        else:
            refused[decision.lease_id] = decision.reason
    return {"granted": granted, "refused": refused}

"""Workers that leave finish the tasks that they run.

Dask's own ``Scheduler.retire_workers`` saves the results of a worker, but not the tasks
that it is running. A worker calls it at the end of its lifetime; people and code that
scales down call it as well. The replacement here first waits for the tasks that have
started; tasks that are only assigned go to other workers.

To take back a task that has not started, it sends the request of Dask's work stealing:
the worker gives the task up if it can, and answers. So no task is lost, and none runs
twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from typing import Any

from distributed.core import Status
from distributed.metrics import monotonic
from distributed.scheduler import Scheduler, WorkerState

from .permission.events import Decision
from .permission.machine import PermissionMachine
from .task_keys import TOP_LEVEL_RESOURCE

logger = logging.getLogger(__name__)

RETIRE = "retire_workers"
STEAL_RESPONSE = "steal-response"
#: Prefix of the ids of our requests
QUESTION = "seamless-retire-"
#: Prefix of the ids with which a worker asks to be retired before it ends itself
OWN_END = "worker-close-gracefully"
#: Task states on a worker in which it gives the task up when asked
GIVEN_UP = {"ready", "constrained", "waiting"}
#: Seconds between two checks of the workers that leave
POLL = 0.1
#: Seconds after which a worker is asked again for tasks that it has not started
ASK_AGAIN = 2.0
#: Seconds to wait for another worker that can take the results of the last one
PATIENCE = 30.0


class _Leaving:
    """A worker that finishes its tasks and leaves."""

    def __init__(self, ws: WorkerState) -> None:
        self.ws = ws
        self.status = ws.status
        self.closed_to_all = False
        #: number of calls of drain that wait for it
        self.watchers = 0
        self.asked_at = float("-inf")


class Retiring:
    """Lets workers leave: no new tasks, wait for running ones, then Dask's part."""

    def __init__(
        self,
        scheduler: Scheduler,
        machine: PermissionMachine,
        deliver: Callable[[Iterable[Decision]], None],
    ) -> None:
        self._scheduler = scheduler
        self._machine = machine
        self._deliver = deliver
        #: {worker address: the record of its leave}
        self._leaving: dict[str, _Leaving] = {}
        self._stock_response: Callable[..., Any] | None = None
        self._stock_retire: Callable[..., Any] | None = None
        self._ended = False

    # -- life cycle --------------------------------------------------------------

    def connect(self) -> None:
        """Replace the scheduler's handlers."""
        scheduler = self._scheduler
        self._stock_retire = scheduler.handlers.get(RETIRE)
        self._stock_response = scheduler.stream_handlers.get(STEAL_RESPONSE)
        scheduler.handlers[RETIRE] = self._on_retire
        scheduler.stream_handlers[STEAL_RESPONSE] = self._on_response

    def disconnect(self) -> None:
        """Give the scheduler its handlers back; drains stop waiting."""
        self._ended = True
        scheduler = self._scheduler
        if self._stock_retire is not None:
            scheduler.handlers[RETIRE] = self._stock_retire
        if self._stock_response is not None:
            scheduler.stream_handlers[STEAL_RESPONSE] = self._stock_response

    def close(self) -> None:
        """The scheduler ends: drains stop waiting."""
        self._ended = True

    # -- what others may ask -----------------------------------------------------

    def leaves(self, address: str) -> bool:
        """Whether a worker finishes its tasks and then leaves."""
        return address in self._leaving

    async def drain(self, addresses: Collection[str]) -> None:
        """Give workers no new tasks, and wait until they run no task, or are gone.

        The caller then retires them, or lets them go on with :meth:`stay`.
        """
        workers = self._scheduler.workers
        states = [workers[address] for address in addresses if address in workers]
        entries = []
        for ws in states:
            entry = self._leaving.get(ws.address)
            if entry is None or entry.ws is not ws:
                entry = self._leaving[ws.address] = _Leaving(ws)
                logger.info(
                    "Worker %s (%s) leaves; %d tasks are with it",
                    ws.name,
                    ws.address,
                    len(ws.processing),
                )
            entry.watchers += 1
            entries.append(entry)
        try:
            # all at once, so that none of them takes over tasks that another gives up
            while busy := [entry for entry in entries if self._step(entry)]:
                logger.debug("%d workers still run tasks", len(busy))
                await asyncio.sleep(POLL)
        finally:
            for entry in entries:
                entry.watchers -= 1

    async def retire(self, addresses: Collection[str]) -> bool:
        """Drain workers, save their results, and close them.

        Returns False if one of them holds results that no other worker can take; that
        worker then goes on as before.
        """
        retired = await self._retire(
            list(addresses), {"close_workers": True, "remove": True}
        )
        return all(
            address in retired or address not in self._scheduler.workers
            for address in addresses
        )

    def gone(self, address: str) -> None:
        """A worker is no longer there."""
        self._leaving.pop(address, None)

    def stay(self, address: str) -> None:
        """A worker that was drained takes tasks again."""
        entry = self._leaving.pop(address, None)
        if entry is None or self._scheduler.workers.get(address) is not entry.ws:
            return
        self._set_top_level(entry.ws, True)
        if entry.closed_to_all:
            self._set_status(entry.ws, entry.status)

    # -- handlers ----------------------------------------------------------------

    async def _on_retire(
        self,
        workers: Collection[str] | None = None,
        names: Collection[Any] | None = None,
        close_workers: bool = False,
        remove: bool = True,
        stimulus_id: str | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Replace ``Scheduler.retire_workers``, with the same arguments."""
        scheduler = self._scheduler
        options = {
            "close_workers": close_workers,
            "remove": remove,
            "stimulus_id": stimulus_id,
        }
        if (workers is not None and names is not None) or (
            kwargs and (workers is not None or names is not None)
        ):  # Dask's method reports the wrong arguments
            return await scheduler.retire_workers(
                workers,  # type: ignore[call-overload]
                names=names,
                **options,
                **kwargs,
            )
        if names is not None:
            texts = {str(name) for name in names}
            workers = [
                ws.address for ws in scheduler.workers.values() if str(ws.name) in texts
            ]
        elif workers is None:
            workers = scheduler.workers_to_close(**kwargs)
        return await self._retire(list(workers), options)

    async def _retire(
        self, addresses: list[str], options: dict[str, Any]
    ) -> dict[str, Any]:
        retired: dict[str, Any] = {}
        # at the end of its lifetime a worker closes, whatever we answer
        ends_itself = (options.get("stimulus_id") or "").startswith(OWN_END)
        try:
            await self.drain(addresses)
            if ends_itself:
                await self._wait_for_heir(addresses)
            retired = await self._scheduler.retire_workers(addresses, **options)
        finally:
            for address in addresses:
                entry = self._leaving.get(address)
                if entry is None or entry.watchers:
                    continue
                if address in retired:
                    del self._leaving[address]
                elif not ends_itself:  # Dask would never give it work again
                    self.stay(address)
        return retired

    def _on_response(
        self,
        key: Any,
        state: str | None,
        stimulus_id: str,
        worker: str = "",
        **kwargs: Any,
    ) -> None:
        """A worker answers whether it had started a task: to us, or to work stealing."""
        if not stimulus_id.startswith(QUESTION):
            if self._stock_response is not None:
                self._stock_response(
                    key=key,
                    state=state,
                    stimulus_id=stimulus_id,
                    worker=worker,
                    **kwargs,
                )
        elif state in GIVEN_UP:
            logger.debug("Worker %s gives %r back", worker, key)
            self._scheduler._reschedule(key, worker, stimulus_id=stimulus_id)

    # -- steps -------------------------------------------------------------------

    async def _wait_for_heir(self, addresses: list[str]) -> None:
        """Wait a while for a worker that can take the results of those that leave."""
        scheduler = self._scheduler
        deadline = monotonic() + PATIENCE
        while (
            not self._ended
            and any(
                scheduler.workers[address].has_what
                for address in addresses
                if address in scheduler.workers
            )
            and all(self.leaves(ws.address) for ws in scheduler.running)
            and monotonic() < deadline
        ):
            await asyncio.sleep(POLL)

    def _step(self, entry: _Leaving) -> bool:
        """Check one worker that leaves; return whether it still runs tasks."""
        ws = entry.ws
        scheduler = self._scheduler
        if self._ended or scheduler.workers.get(ws.address) is not ws:
            return False
        busy = bool(ws.processing) or self._machine.holds(ws.address)
        if not entry.closed_to_all:
            if busy and self._nested_work_needs(ws):
                self._set_top_level(ws, False)
            else:
                entry.closed_to_all = True
                entry.asked_at = float("-inf")
                self._set_status(ws, Status.closing_gracefully)
        now = monotonic()
        if busy and now - entry.asked_at >= ASK_AGAIN:
            entry.asked_at = now
            self._ask_back(entry)
        return busy

    def _nested_work_needs(self, ws: WorkerState) -> bool:
        """Whether no other worker could run the calls of this worker's tasks."""
        seamless = self._machine.is_worker(ws.address)
        return (seamless or bool(ws.long_running)) and not any(
            (self._machine.is_worker(other.address) or not seamless)
            and not self.leaves(other.address)
            for other in self._scheduler.running
        )

    def _ask_back(self, entry: _Leaving) -> None:
        """Ask a worker to give up tasks that it has not started."""
        ws = entry.ws
        for task in ws.processing:
            if task in ws.long_running:
                continue
            top_level = TOP_LEVEL_RESOURCE in (task.resource_restrictions or ())
            if entry.closed_to_all or top_level:
                self._scheduler.worker_send(
                    ws.address,
                    {
                        "op": "steal-request",
                        "key": task.key,
                        "stimulus_id": f"{QUESTION}{monotonic()}",
                    },
                )

    def _set_status(self, ws: WorkerState, status: Status) -> None:
        """Change a worker's status on the scheduler and on the worker, as Dask does."""
        stimulus_id = f"{QUESTION}{monotonic()}"
        self._scheduler.handle_worker_status_change(status, ws, stimulus_id)
        self._scheduler.worker_send(
            ws.address,
            {
                "op": "worker-status-change",
                "status": status.name,
                "stimulus_id": stimulus_id,
            },
        )

    def _set_top_level(self, ws: WorkerState, takes: bool) -> None:
        """Say whether a worker may be given top-level work."""
        self._deliver(self._machine.set_open(ws.address, monotonic(), top_level=takes))

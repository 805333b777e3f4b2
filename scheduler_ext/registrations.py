"""Registers the slots and Dask's units that workers offer."""

from __future__ import annotations

import logging
from collections import OrderedDict

from distributed.core import Status
from distributed.metrics import monotonic
from distributed.scheduler import Scheduler

from .delivery import Delivery
from .messages import Registration
from .permission.machine import PermissionMachine
from .permission.needs import further

logger = logging.getLogger(__name__)

#: Registrations kept for workers that the scheduler does not know yet
MAX_EARLY = 10_000


class Registrations:
    """Gives workers the slots and units that they registered, before or after they
    connected."""

    def __init__(
        self, scheduler: Scheduler, machine: PermissionMachine, delivery: Delivery
    ) -> None:
        self._scheduler = scheduler
        self._machine = machine
        self._delivery = delivery
        #: {worker address: its registration}, of workers that are not connected yet
        self._early: OrderedDict[str, Registration] = OrderedDict()

    def register(self, registration: Registration) -> bool:
        """A worker registers its offer; return whether it is connected."""
        ws = self._scheduler.workers.get(registration.worker)
        if ws is None:
            self._early.pop(registration.worker, None)
            self._early[registration.worker] = registration
            if len(self._early) > MAX_EARLY:
                dropped, _ = self._early.popitem(last=False)
                logger.warning("Worker %s registered and never connected", dropped)
        elif self._apply(registration) and ws.status == Status.running:
            # Dask looks at tasks without a worker only when a worker connects
            self._scheduler.transitions(
                self._scheduler.bulk_schedule_unrunnable_after_adding_worker(ws),
                f"seamless-register-{monotonic()}",
            )
        return ws is not None

    def connected(self, worker: str) -> None:
        """A worker connected; it may have registered before."""
        registration = self._early.pop(worker, None)
        if registration is not None:
            # right after this hook the scheduler looks for tasks that need the new units
            self._apply(registration)

    def forget(self, worker: str) -> None:
        """A worker is gone."""
        self._early.pop(worker, None)

    def _apply(self, registration: Registration) -> bool:
        """Give a connected worker its slots and units; return whether units changed."""
        address = registration.worker
        ws = self._scheduler.workers[address]
        now = monotonic()
        resources = registration.resources
        changed = any(ws.resources.get(name) != resources[name] for name in resources)
        if changed:
            used = dict(ws.used_resources)
            self._scheduler.add_resources(address, dict(resources))
            # Dask starts to count at zero, but tasks that run hold units
            ws.used_resources.update(used)
        if not self._machine.is_worker(address):
            logger.info("Worker %s offers slots: %s", address, registration)
        self._delivery.deliver(
            self._machine.add_worker(
                address,
                registration.processes,
                registration.throttle,
                registration.ceiling,
                now,
                units=registration.units,
                supply=further(resources),
                any_work=ws in self._scheduler.running,
            )
        )
        return changed

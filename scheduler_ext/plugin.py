"""The plugin: turns what happens on the scheduler into events, and decisions into
messages.

The only module that touches the Scheduler. It keeps no rules of its own: what may run
is decided in :mod:`scheduler_ext.permissions`, what counts as activity in
:mod:`scheduler_ext.activity`. Everything runs on the scheduler's event loop.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any, cast

from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.metrics import monotonic
from distributed.scheduler import Scheduler, TaskState, WorkerState
from tornado.ioloop import PeriodicCallback

from . import __version__, messages
from .activity import UNFINISHED, Activity
from .cancellation import LiveKeys, is_transformation
from .events import Decision, Granted, IllegalEvent, Refused
from .messages import PROTOCOL, InvalidMessage, error_reply
from .permissions import PermissionMachine

logger = logging.getLogger(__name__)

NAME = "seamless"
#: Registrations kept for workers that the scheduler does not know yet
MAX_EARLY = 10_000
#: Waiting requests that the status lists
WAITING_SHOWN = 100
#: Beats without any execution after which a deadlock is assumed
QUIET_BEATS = 2

Reply = dict[str, Any]


class VersionMismatch(RuntimeError):
    """The scheduler has this plugin already, in a version that we do not speak."""


def _answers(handler: Callable[..., Reply]) -> Callable[..., Reply]:
    """Let an RPC handler return what is wrong with a message, instead of raising."""

    @functools.wraps(handler)
    def answer(self: SeamlessSchedulerPlugin, **payload: Any) -> Reply:
        try:
            return handler(self, **payload)
        except InvalidMessage as problem:
            return error_reply(problem.errors)

    return answer


class SeamlessSchedulerPlugin(SchedulerPlugin):
    """Permissions, activity and cancellation for one scheduler.

    Created by :func:`attach`. ``interval`` is the time in seconds between two looks
    at epochs, timeouts and deadlocks; the other options are those of
    :class:`~scheduler_ext.permissions.PermissionMachine`.
    """

    name = NAME
    idempotent = True
    protocol = PROTOCOL
    version = __version__

    def __init__(
        self, scheduler: Scheduler, *, interval: float = 0.5, **options: float
    ) -> None:
        now = monotonic()
        self._scheduler = scheduler
        self._machine = PermissionMachine(started=now, **options)
        self._activity = Activity(now)
        self._live = LiveKeys()
        #: {worker address: what it offers}, of workers that are not connected yet
        self._early: OrderedDict[str, messages.Registration] = OrderedDict()
        #: {lease id: its decision}, where an RPC waits for it
        self._undecided: dict[str, asyncio.Future[Decision]] = {}
        self._quiet_beats = 0
        self._heart = PeriodicCallback(self._beat, interval * 1000)
        self._handlers: dict[str, Callable[..., Any]] = {
            messages.OP_VERSION: self._on_version,
            messages.OP_REGISTER_WORKER: self._on_register_worker,
            messages.OP_REQUEST: self._on_request,
            messages.OP_RELEASE: self._on_release,
            messages.OP_STATUS: self._on_status,
            messages.OP_ACTIVITY: self._on_activity,
            messages.OP_CANCEL: self._on_cancel,
        }
        self._stream_handlers: dict[str, Callable[..., None]] = {
            messages.OP_RELEASE: self._on_release_stream,
            messages.OP_NAME: self._on_name_stream,
        }

    # -- life cycle --------------------------------------------------------------

    def connect(self) -> None:
        """Take part in the scheduler; :func:`attach` calls this once."""
        scheduler = self._scheduler
        now = monotonic()
        for key, task in scheduler.tasks.items():
            transformation = is_transformation(key)
            self._activity.move("released", task.state, transformation, now)
            if transformation and task.state in UNFINISHED:
                self._live.add(cast(str, key))
        scheduler.handlers.update(self._handlers)
        scheduler.stream_handlers.update(self._stream_handlers)
        scheduler.periodic_callbacks[NAME] = self._heart
        if scheduler.status == Status.running:
            self._heart.start()  # otherwise the scheduler does, when it starts
        scheduler.add_plugin(self, name=NAME)
        logger.info("Seamless plugin %s attached (protocol %d)", __version__, PROTOCOL)

    def disconnect(self) -> None:
        """Undo :meth:`connect`; whoever waits for a decision is refused."""
        scheduler = self._scheduler
        scheduler.remove_plugin(NAME)
        self._heart.stop()
        scheduler.periodic_callbacks.pop(NAME, None)
        for op in self._stream_handlers:
            scheduler.stream_handlers.pop(op, None)
        for op in self._handlers:
            scheduler.handlers.pop(op, None)
        self._abandon(list(self._undecided), "the plugin was detached")
        logger.info("Seamless plugin detached")

    async def close(self) -> None:
        """The scheduler ends. Handlers stay, for what workers still send."""
        self._heart.stop()
        self._abandon(list(self._undecided), "the scheduler ends")

    # -- what others in this process may ask -------------------------------------

    def activity_snapshot(self) -> dict[str, Any]:
        """Counters of tasks by state; see :meth:`Activity.snapshot`."""
        return self._activity.snapshot(monotonic())

    def status(self) -> dict[str, Any]:
        """Everything that humans, the dashboard and the wrapper want to know."""
        now = monotonic()
        why = self._machine.why_waiting()
        return {
            "protocol": PROTOCOL,
            "version": __version__,
            "permissions": asdict(self._machine.statistics()),
            "activity": self._activity.snapshot(now),
            "workers": [
                self._worker_row(address, *offer)
                for address, offer in self._machine.offers().items()
            ],
            "waiting": [
                {
                    "id": lease.request.lease_id,
                    "holder": lease.request.holder,
                    "key": lease.request.key,
                    "owner": lease.request.owner,
                    "depth": lease.request.depth,
                    "age_seconds": now - lease.since,
                    "reason": why,
                }
                for lease in self._machine.oldest_waiting(WAITING_SHOWN)
            ],
        }

    def validate(self) -> None:
        """Raise Inconsistent if the permission machine contradicts itself."""
        self._machine.validate()

    # -- hooks: the scheduler tells us -------------------------------------------

    def transition(
        self,
        key: Any,
        start: str,
        finish: str,
        *args: Any,
        stimulus_id: str,
        **kwargs: Any,
    ) -> None:
        """A task changed its state; called for every task, so it must be cheap."""
        try:
            transformation = is_transformation(key)
            self._activity.move(start, finish, transformation, monotonic())
            if transformation:
                self._transformation_moved(key, start, finish)
        except Exception:  # a bug of ours must not stop the scheduler
            logger.exception("%r moved from %s to %s", key, start, finish)

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """A worker connected; perhaps it told us earlier what it offers."""
        registration = self._early.pop(worker, None)
        if registration is not None:
            # tasks that need the new units are woken by the scheduler, right after us
            self._apply(registration)

    def remove_worker(
        self, scheduler: Scheduler, worker: str, *, stimulus_id: str, **kwargs: Any
    ) -> None:
        """A worker is gone: its slots, its leases, and what it told us."""
        self._early.pop(worker, None)
        held = self._machine.held_by(worker)
        decisions = self._machine.remove_worker(worker, monotonic())
        self._abandon(held, "its worker is gone")
        self._deliver(decisions)

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """A client is gone, with its leases."""
        held = self._machine.held_by(client)
        decisions = self._machine.remove_holder(client, monotonic())
        self._abandon(held, "its client is gone")
        self._deliver(decisions)

    def restart(self, scheduler: Scheduler) -> None:
        """All tasks are gone, and with them all leases."""
        now = monotonic()
        self._machine.end_all(now)
        self._live.clear()
        self._activity.clear(now)
        self._abandon(list(self._undecided), "the scheduler was restarted")
        logger.info("Scheduler restarted: all leases ended")

    def valid_workers_downscaling(
        self, scheduler: Scheduler, workers: list[WorkerState]
    ) -> list[WorkerState]:
        """Veto the end of workers that run tasks or hold leases."""
        return [
            ws
            for ws in workers
            if not ws.processing and not self._machine.holds(ws.address)
        ]

    # -- calls: workers and clients ask ------------------------------------------

    @_answers
    def _on_version(self, **payload: Any) -> Reply:
        messages.parse_nothing(payload)
        return {"status": "ok", "protocol": PROTOCOL, "version": __version__}

    @_answers
    def _on_status(self, **payload: Any) -> Reply:
        messages.parse_nothing(payload)
        return {"status": "ok", **self.status()}

    @_answers
    def _on_activity(self, **payload: Any) -> Reply:
        messages.parse_nothing(payload)
        return {"status": "ok", **self.activity_snapshot()}

    @_answers
    def _on_register_worker(self, **payload: Any) -> Reply:
        registration = messages.parse_registration(payload)
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
        return {"status": "ok", "connected": ws is not None}

    async def _on_request(self, **payload: Any) -> Reply:
        try:
            message = messages.parse_requests(payload)
        except InvalidMessage as problem:
            return error_reply(problem.errors)
        errors = self._impossible(message)
        if errors:
            return error_reply(errors)
        answers = self._ask(message)
        waiting = [
            request.lease_id
            for request in message.requests
            if request.lease_id not in answers
        ]
        if waiting and message.wait_seconds:
            answers |= await self._wait(waiting, message.holder, message.wait_seconds)
            waiting = []
        return {"status": "ok", **_sorted_out(answers.values()), "waiting": waiting}

    @_answers
    def _on_release(self, **payload: Any) -> Reply:
        message = messages.parse_releases(payload)
        now = monotonic()
        decisions: list[Decision] = []
        errors: list[str] = []
        for lease_id in message.ids:
            try:
                decisions += self._machine.release(lease_id, message.holder, now)
            except IllegalEvent as problem:
                errors.append(str(problem))
            else:
                self._abandon([lease_id], "it was released")
        self._deliver(decisions)
        logger.debug("%s released %s", message.holder, message.ids)
        return error_reply(errors) if errors else {"status": "ok"}

    def _on_release_stream(
        self, worker: str = "", client: str = "", **payload: Any
    ) -> None:
        """The same on the stream of a worker or client, where nothing may raise."""
        try:
            reply = self._on_release(**{"holder": worker or client, **payload})
            if reply["status"] != "ok":
                logger.warning("Release by %s: %s", worker or client, reply["errors"])
        except Exception:  # it would cut the connection of the worker
            logger.exception("Release by %s", worker or client)

    def _on_name_stream(self, worker: str = "", **payload: Any) -> None:
        """A worker knows what a task runs; when it was submitted nobody did."""
        try:
            key, checksum = messages.parse_name(payload)
            if self._state_of(key) in UNFINISHED and is_transformation(key):
                self._live.name(key, checksum)
        except Exception:  # it would cut the connection of the worker
            logger.exception("Name from %s", worker)

    @_answers
    def _on_cancel(self, **payload: Any) -> Reply:
        checksums = messages.parse_cancel(payload)
        keys = [key for checksum in checksums for key in self._live.of(checksum)]
        if keys:
            self._cancel(keys)
        return {"status": "ok", "cancelled": keys}

    # -- time --------------------------------------------------------------------

    def _beat(self) -> None:
        try:
            self.step(monotonic())
        except Exception:  # the next beat must come all the same
            logger.exception("Seamless plugin: error in the periodic step")

    def step(self, now: float) -> None:
        """Look at timeouts, the epoch and deadlocks; cheap while no lease lives."""
        machine = self._machine
        quiet_beats, self._quiet_beats = self._quiet_beats, 0
        if not machine.live:
            return
        self._deliver(machine.expire(now))
        if machine.epoch_due(now):
            self._deliver(machine.tick(now, self._load()))
        if not machine.waiting or self._anything_runs():
            return
        if quiet_beats + 1 < QUIET_BEATS:
            self._quiet_beats = quiet_beats + 1
            return
        logger.info("Nothing runs while requests wait: one of them is decided now")
        self._deliver(machine.nothing_running(now))

    def _load(self) -> float:
        """The share of all slots (0 to 1) whose tasks do not merely wait."""
        executing = sum(
            min(self._machine.slots_of(ws.address), self._executing(ws))
            for ws in self._scheduler.workers.values()
        )
        return executing / max(1, self._machine.capacity)

    def _anything_runs(self) -> bool:
        """Whether a worker with slots has a task that does not merely wait."""
        return any(
            self._machine.is_worker(ws.address) and self._executing(ws)
            for ws in self._scheduler.workers.values()
        )

    def _executing(self, ws: WorkerState) -> int:
        """Number of tasks on a worker that do not merely wait for others."""
        waits = self._machine.waits
        return sum(
            task not in ws.long_running and not waits(cast(str, task.key))
            for task in ws.processing
        )

    # -- steps -------------------------------------------------------------------

    def _transformation_moved(self, key: str, start: str, finish: str) -> None:
        machine = self._machine
        if finish in UNFINISHED:
            if start not in UNFINISHED:
                self._live.add(key)
                if machine.knows(key):
                    machine.key_seen(key)
            return
        if start in UNFINISHED:
            self._live.discard(key)
        if finish == "released":
            self._runs_for_another_time(key)
        if not machine.knows(key):
            return
        if finish in ("memory", "erred"):
            self._deliver(machine.key_finished(key, monotonic()))
        elif not self._runs_again(key):
            self._deliver(machine.key_lost(key, monotonic()))

    def _runs_for_another_time(self, key: str) -> None:
        """Tell the next worker of a task that another one had it, and is gone."""
        task = self._scheduler.tasks.get(key)
        if task is not None:
            # The worker may have stored the result without being able to say so.
            task.annotations = {**(task.annotations or {}), messages.RUNS_AGAIN: True}

    def _state_of(self, key: str | None) -> str | None:
        """The state of a task, None if the scheduler does not know it."""
        task = None if key is None else self._scheduler.tasks.get(key)
        return None if task is None else task.state

    def _runs_again(self, key: str) -> bool:
        """Whether a task was released only because its worker is gone."""
        task = self._scheduler.tasks.get(key)
        return (
            task is not None
            and task.state == "released"
            and bool(task.who_wants or task.waiters)
        )

    def _apply(self, registration: messages.Registration) -> bool:
        """Give a connected worker what it registered; return if units changed."""
        address = registration.worker
        ws = self._scheduler.workers[address]
        resources = registration.resources
        changed = any(ws.resources.get(name) != resources[name] for name in resources)
        if changed:
            used = dict(ws.used_resources)
            self._scheduler.add_resources(address, dict(resources))
            # Dask starts to count at zero, but tasks that run hold units
            ws.used_resources.update(used)
        if not self._machine.is_worker(address):
            logger.info("Worker %s offers slots: %s", address, registration)
        self._deliver(
            self._machine.add_worker(
                address,
                registration.processes,
                registration.throttle,
                registration.ceiling,
                monotonic(),
            )
        )
        return changed

    def _impossible(self, message: messages.Requests) -> list[str]:
        """Why a well-formed message cannot be carried out, if so."""
        holder = message.holder
        scheduler = self._scheduler
        if holder not in scheduler.workers and holder not in scheduler.clients:
            return [
                f"field 'holder': got {holder!r}, allowed: the address of a worker "
                "or the id of a client that is connected"
            ]
        errors = []
        for request in message.requests:
            try:
                self._machine.check_request(request)
            except IllegalEvent as problem:
                errors.append(str(problem))
        return errors

    def _ask(self, message: messages.Requests) -> dict[str, Decision]:
        """Put requests to the machine; return {id: decision} where there is one."""
        now = monotonic()
        asked = {request.lease_id for request in message.requests}
        answers: dict[str, Decision] = {}
        for request in message.requests:
            state = self._state_of(request.key)
            if state == "memory":
                # the result is there: it needs no slot, and no event would end a lease
                answers[request.lease_id] = Granted(request.lease_id, message.holder)
                continue
            decisions = self._machine.request(request, now)
            if request.key is not None and state in UNFINISHED:
                self._machine.key_seen(request.key)
            answers |= {d.lease_id: d for d in decisions if d.lease_id in asked}
            self._deliver(decisions, answered=asked)
        return answers

    async def _wait(
        self, lease_ids: list[str], holder: str, seconds: float
    ) -> dict[str, Decision]:
        """Decisions about waiting leases; what takes longer is refused."""
        loop = asyncio.get_running_loop()
        futures: dict[str, asyncio.Future[Decision]] = {
            lease_id: self._undecided.setdefault(lease_id, loop.create_future())
            for lease_id in lease_ids
        }
        try:
            await asyncio.wait(futures.values(), timeout=seconds)
        finally:
            # nobody would learn of a later decision, also when this was cancelled
            why = f"no slot within {seconds:g} s (timeout)"
            for lease_id, future in futures.items():
                if not future.done():
                    self._deliver(
                        self._machine.withdraw(lease_id, holder, why, monotonic())
                    )
                    self._abandon([lease_id], why)
        return {lease_id: future.result() for lease_id, future in futures.items()}

    def _deliver(
        self, decisions: Iterable[Decision], answered: Iterable[str] = ()
    ) -> None:
        """Tell the holders, apart from ids that are ``answered`` in another way.

        One message per holder, and only to workers: they alone can be reached, and
        a message that a worker does not know would end its connection. A worker that
        has registered knows ours.
        """
        messages_by_holder: dict[str, list[Decision]] = {}
        for decision in decisions:
            logger.debug("%s", decision)
            future = self._undecided.pop(decision.lease_id, None)
            if future is not None and not future.done():
                future.set_result(decision)
            elif decision.lease_id not in answered:
                messages_by_holder.setdefault(decision.holder, []).append(decision)
        for holder, theirs in messages_by_holder.items():
            if self._machine.is_worker(holder):
                message = {"op": messages.PUSH_DECISIONS, **_sorted_out(theirs)}
                self._scheduler.worker_send(holder, message)

    def _abandon(self, lease_ids: Iterable[str], why: str) -> None:
        """Answer the calls that wait for leases that have ended without a decision."""
        for lease_id in lease_ids:
            future = self._undecided.pop(lease_id, None)
            if future is not None and not future.done():
                future.set_result(Refused(lease_id, "", f"ended: {why}"))

    def _cancel(self, keys: list[str]) -> None:
        """Cancel tasks and what depends on them, whoever wants them.

        Like ``Scheduler.stimulus_cancel`` with force, which fails for tasks that are
        wanted by other tasks only.
        """
        scheduler = self._scheduler
        doomed: dict[Any, TaskState] = {}
        todo = [scheduler.tasks[key] for key in keys]
        while todo:
            task = todo.pop()
            if task.key not in doomed:
                doomed[task.key] = task
                todo += task.dependents
        by_worker: dict[str, list[Any]] = {}
        by_client: dict[str, list[Any]] = {}
        for key, task in doomed.items():
            if task.processing_on is not None and is_transformation(key):
                by_worker.setdefault(task.processing_on.address, []).append(key)
            for client in task.who_wants or ():
                by_client.setdefault(client.client_key, []).append(key)
        for address, theirs in by_worker.items():
            if self._machine.is_worker(address):
                message = {"op": messages.PUSH_CANCEL, "keys": theirs}
                scheduler.worker_send(address, message)
        stimulus_id = f"seamless-cancel-{monotonic()}"
        for client_id, theirs in by_client.items():
            scheduler.client_releases_keys(theirs, client_id, stimulus_id)
        scheduler.report(
            {
                "op": "cancelled-keys",
                "keys": list(doomed),
                "reason": "scheduler-cancelled",
                "msg": "the transformation was cancelled by its checksum",
            }
        )
        logger.info("Cancelled %d tasks for %d keys", len(doomed), len(keys))

    def _worker_row(
        self, address: str, processes: int, throttle: int, capacity: int
    ) -> dict[str, Any]:
        ws = self._scheduler.workers.get(address)
        return {
            "address": address,
            "name": None if ws is None else str(ws.name),
            "processes": processes,
            "throttle": throttle,
            "capacity": capacity,
            "executing": 0 if ws is None else self._executing(ws),
            "long_running": 0 if ws is None else len(ws.long_running),
        }


def attach(scheduler: Scheduler, **options: float) -> SeamlessSchedulerPlugin:
    """Give a scheduler the plugin, on the scheduler's event loop.

    If it has the plugin already, that one is returned, and nothing changes; then the
    options have no effect. Options are those of :class:`SeamlessSchedulerPlugin`.

    Raises VersionMismatch if the scheduler has it in another version or protocol.
    """
    existing = scheduler.plugins.get(NAME)
    if existing is None:
        plugin = SeamlessSchedulerPlugin(scheduler, **options)
        plugin.connect()
        return plugin
    theirs = (getattr(existing, "version", None), getattr(existing, "protocol", None))
    if theirs != (__version__, PROTOCOL):
        raise VersionMismatch(
            f"the scheduler has the Seamless plugin in version {theirs[0]} "
            f"(protocol {theirs[1]}), this is version {__version__} "
            f"(protocol {PROTOCOL}): use the same version on both sides"
        )
    return cast(SeamlessSchedulerPlugin, existing)


def detach(scheduler: Scheduler) -> None:
    """Take the plugin away again, with all its handlers; without it, do nothing.

    Only where no worker uses it any more: a worker that sends a release on its stream
    to a scheduler without the handler loses its connection.
    """
    plugin = scheduler.plugins.get(NAME)
    if isinstance(plugin, SeamlessSchedulerPlugin):
        plugin.disconnect()


def install(dask_scheduler: Scheduler) -> Reply:
    """:func:`attach` for ``client.run_on_scheduler(install)``."""
    plugin = attach(dask_scheduler)
    return {"status": "ok", "protocol": plugin.protocol, "version": plugin.version}


def _sorted_out(decisions: Iterable[Decision]) -> dict[str, Any]:
    """Decisions of one holder, ready for the wire."""
    granted: list[str] = []
    refused: dict[str, str] = {}
    for decision in decisions:
        if isinstance(decision, Granted):
            granted.append(decision.lease_id)
        else:
            refused[decision.lease_id] = decision.reason
    return {"granted": granted, "refused": refused}

"""The plugin: turns the hooks of the scheduler into events.

It keeps no rules of its own: :mod:`scheduler_ext.permission.machine` decides which
transformation may run, :mod:`scheduler_ext.activity` counts tasks,
:mod:`scheduler_ext.calls` answers workers and clients, and
:mod:`scheduler_ext.delivery` sends decisions and results.
Everything runs on the scheduler's event loop.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import asdict
from typing import Any, cast

from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.metrics import monotonic
from distributed.scheduler import Scheduler, WorkerState
from distributed.spans import SpansSchedulerExtension
from tornado.ioloop import PeriodicCallback

from . import messages
from .about import About
from .activity import UNFINISHED, Activity
from .away import Away
from .calls import Calls, Reply
from .cancellation import LiveKeys
from .clock import Clock
from .delivery import Delivery
from .demand import Demand, DemandMeter
from .functions import Functions
from .losses import Losses
from .messages import PROTOCOL
from .outputs import TOPIC as OUTPUT_TOPIC
from .permission.machine import PermissionMachine
from .placement import Placement
from .prefixes import Prefixes
from .registrations import Registrations
from .retiring import Retiring
from .scaling import ScalingRecord
from .sent_messages import keep_few
from .spans import SpansOfOthers, use_spans
from .task_keys import code_of, is_transformation
from .version import __version__
from .view import workers
from .view.operations import Operations
from .view.output import OutputView
from .view.pages import Pages

logger = logging.getLogger(__name__)

NAME = "seamless"
#: Waiting requests that the status lists
WAITING_SHOWN = 100
#: Beats without any execution after which a deadlock is assumed
QUIET_BEATS = 2


class VersionMismatch(RuntimeError):
    """The scheduler has this plugin already, in a version that differs from ours."""


class SeamlessSchedulerPlugin(SchedulerPlugin):
    """Permissions, activity and cancellation for one scheduler.

    Created by :func:`attach`. ``interval`` is the time in seconds between two checks
    of epochs, timeouts and deadlocks; the other options are those of
    :class:`~scheduler_ext.permission.machine.PermissionMachine`.
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
        self._meter = DemandMeter(scheduler, self._activity, self._machine)
        self._live = LiveKeys()
        self._placement = Placement(scheduler, self._machine)
        self._delivery = Delivery(scheduler, self._machine, self._placement.start)
        self._registrations = Registrations(scheduler, self._machine, self._delivery)
        self._retiring = Retiring(scheduler, self._machine, self._delivery.deliver)
        self._losses = Losses(scheduler)
        self._away = Away(scheduler)
        self._clock = Clock(scheduler)
        self._functions = Functions()
        self._prefixes = Prefixes(scheduler)
        #: what the wrapper reports about the number of workers
        self.scaling = ScalingRecord()
        self._quiet_beats = 0
        self._heart = PeriodicCallback(self._beat, interval * 1000)
        #: answers for people: the page, the JSON, the metrics
        self.operations = Operations(
            scheduler,
            self._machine,
            self._live,
            self.scaling,
            self._activity,
            self._functions,
            self.status,
            lambda: self._meter.announced,
        )
        self._output = OutputView(scheduler, self.operations.subject, self._functions)
        self._pages = Pages(scheduler, self.operations)
        self._calls = Calls(
            scheduler,
            self._machine,
            self._live,
            self._delivery,
            self._registrations,
            self._functions,
            announce=self._meter.announce,
            status=self.status,
            activity=self.activity_snapshot,
            why=self.operations.why,
            failures=self.operations.failures.answer,
            output=self._output.answer,
            progress=self.operations.progress,
            report=self.operations.report,
        )

    # -- life cycle --------------------------------------------------------------

    def connect(self) -> None:
        """Take part in the scheduler; :func:`attach` calls this once."""
        scheduler = self._scheduler
        now = monotonic()
        for key, task in scheduler.tasks.items():
            transformation = is_transformation(key)
            self._activity.move("released", task.state, transformation, now)
            self._runs_code_of(key)
            if task.state in UNFINISHED:
                self._meter.unfinished(key)
                if transformation:
                    self._placement.take_over(task)
                    self._live.add(cast(str, key))
                    self.operations.moved(cast(str, key), "released", task.state)
        scheduler.handlers.update(self._calls.handlers())
        scheduler.stream_handlers.update(self._calls.stream_handlers())
        self._retiring.connect()
        self._placement.connect()
        scheduler.periodic_callbacks[NAME] = self._heart
        if scheduler.status == Status.running:
            self._heart.start()  # otherwise the scheduler starts it, when it starts
        scheduler.add_plugin(self, name=NAME)
        for connections in (scheduler.stream_comms, scheduler.client_comms):
            for connection in connections.values():
                keep_few(connection)
        use_spans(scheduler, SpansOfOthers)
        self._pages.connect()
        logger.info("Seamless plugin %s attached (protocol %d)", __version__, PROTOCOL)

    def disconnect(self) -> None:
        """Undo :meth:`connect`; calls that wait for a decision are refused."""
        scheduler = self._scheduler
        scheduler.remove_plugin(NAME)
        use_spans(scheduler, SpansSchedulerExtension)
        self._heart.stop()
        scheduler.periodic_callbacks.pop(NAME, None)
        self._retiring.disconnect()
        self._placement.disconnect()
        for op in self._calls.stream_handlers():
            scheduler.stream_handlers.pop(op, None)
        for op in self._calls.handlers():
            scheduler.handlers.pop(op, None)
        self._delivery.abandon_all("the plugin was detached")
        self._pages.close()
        logger.info("Seamless plugin detached")

    async def close(self) -> None:
        """The scheduler ends. Handlers stay, because workers still send messages."""
        self._heart.stop()
        self._retiring.close()
        self._delivery.abandon_all("the scheduler ends")
        self._pages.close()

    # -- questions of other code in this process ---------------------------------

    def activity_snapshot(self) -> dict[str, Any]:
        """Counters of tasks by state; see :meth:`Activity.snapshot`."""
        return self._activity.snapshot(monotonic())

    def demand(self) -> Demand:
        """The amount of work for workers; see :class:`Demand`."""
        return self._meter.measure()

    def status(self) -> dict[str, Any]:
        """The whole state, for people, the dashboard and the wrapper.

        ``announced`` is the number of transformations that driver scripts keep back until
        others have ended; they are not among those that wait.
        """
        now = monotonic()
        why = self._machine.why_waiting()
        return {
            "protocol": PROTOCOL,
            "version": __version__,
            "permissions": asdict(self._machine.statistics()),
            "activity": self._activity.snapshot(now),
            "announced": self._meter.announced,
            "scaling": self.scaling.snapshot(),
            "cluster": self.operations.cluster(),
            "transformations": self.operations.overview(),
            "stall": self.operations.watchdog.state(),
            "workers": workers.rows(self._scheduler, self._machine, self.leaves),
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

    async def drain(self, addresses: Collection[str]) -> None:
        """Wait until workers run no task any more; see :meth:`Retiring.drain`."""
        await self._retiring.drain(addresses)

    async def retire(self, addresses: Collection[str]) -> bool:
        """Drain and close workers; see :meth:`Retiring.retire`."""
        return await self._retiring.retire(addresses)

    def introduce(self, about: About) -> None:
        """Learn the facts about the cluster that people want to see."""
        self.operations.about = about

    def leaves(self, address: str) -> bool:
        """Whether a worker only finishes the tasks that it runs."""
        return self._retiring.leaves(address)

    def forgive(self, address: str) -> int:
        """A lost worker was not the fault of its tasks; see :meth:`Losses.forgive`."""
        return self._losses.forgive(address)

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
            self._placement.moved(key, start, finish)
            if finish in UNFINISHED and start not in UNFINISHED:
                self._meter.unfinished(key)
                self._runs_code_of(key)
            if transformation:
                self.operations.moved(key, start, finish, stimulus_id)
                self._transformation_moved(key, start, finish)
        except Exception:  # a bug of ours must not stop the scheduler
            logger.exception("%r moved from %s to %s", key, start, finish)

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """A worker connected; it may have registered its slots before."""
        keep_few(scheduler.stream_comms.get(worker))
        self._registrations.connected(worker)

    def remove_worker(
        self, scheduler: Scheduler, worker: str, *, stimulus_id: str, **kwargs: Any
    ) -> None:
        """A worker is gone, with its slots, its leases and its registration."""
        self._registrations.forget(worker)
        self._retiring.gone(worker)
        held = self._machine.held_by(worker)
        decisions = self._machine.remove_worker(worker, monotonic())
        self._delivery.abandon(held, "its worker is gone")
        self._delivery.deliver(decisions)

    def log_event(self, topic: str, msg: Any) -> None:
        """Learn what the scheduler tells only here, and before it moves any task.

        These are the tasks that a lost worker or client had, and whether a worker takes
        tasks.
        """
        if topic.startswith(OUTPUT_TOPIC):
            self._output.arrived(topic, msg)
            return
        if topic == "all":
            self._losses.saw(msg)
            self._away.saw(msg, monotonic())
        if not isinstance(msg, dict):
            return
        if msg.get("action") == "remove-worker" and topic == "all":
            self._set_open(str(msg.get("worker")), False)
        elif msg.get("action") == "worker-status-change":
            self._set_open(topic, msg.get("status") == Status.running.name)

    def _set_open(self, address: str, takes_tasks: bool) -> None:
        decisions = self._machine.set_open(address, monotonic(), any_work=takes_tasks)
        self._delivery.deliver(decisions)

    def add_client(self, scheduler: Scheduler, client: str) -> None:
        """A client connects; the scheduler makes the connection right after this hook."""
        scheduler.loop.add_callback(
            lambda: keep_few(scheduler.client_comms.get(client))
        )

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """A client is gone, with its leases."""
        self._meter.announce(client, 0)
        self._output.client_left(client)
        held = self._machine.held_by(client)
        decisions = self._machine.remove_holder(client, monotonic())
        self._delivery.abandon(held, "its client is gone")
        self._delivery.deliver(decisions)

    def restart(self, scheduler: Scheduler) -> None:
        """All tasks are gone, and with them all leases."""
        now = monotonic()
        self._machine.end_all(now)
        self._live.clear()
        self._activity.clear(now)
        self._meter.clear()
        self._losses.clear()
        self._away.clear()
        self._placement.clear()
        self.operations.clear()
        self._output.clear()
        self._delivery.abandon_all("the scheduler was restarted")
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

    # -- time --------------------------------------------------------------------

    def _beat(self) -> None:
        try:
            self._clock.look()
            self.step(monotonic())
        except Exception:  # the next beat must come nevertheless
            logger.exception("Seamless plugin: error in the periodic step")

    def step(self, now: float) -> None:
        """Check timeouts, the epoch and deadlocks; cheap while there is no live lease."""
        machine = self._machine
        quiet_beats, self._quiet_beats = self._quiet_beats, 0
        self.operations.beat(now)
        self._prefixes.forget()
        self._away.beat(now)
        if not (machine.live or machine.held):
            return
        self._placement.keep_waiting()
        self._delivery.deliver(machine.expire(now))
        if machine.epoch_due(now):
            self._delivery.deliver(machine.tick(now, machine.load))
        if not (machine.waiting or machine.held) or machine.runs:
            return
        if quiet_beats + 1 < QUIET_BEATS:
            self._quiet_beats = quiet_beats + 1
            return
        logger.info("Nothing runs while requests wait: one of them is decided now")
        self._delivery.deliver(machine.nothing_running(now))

    # -- steps -------------------------------------------------------------------

    def _runs_code_of(self, key: Any) -> None:
        """There is a new task; it may be that of a transformation."""
        code = code_of(key)
        if code is not None:
            self._functions.used(code)
            self._prefixes.used(code)

    def _transformation_moved(self, key: str, start: str, finish: str) -> None:
        machine = self._machine
        if finish in UNFINISHED:
            if start not in UNFINISHED:
                self._live.add(key)
                if machine.knows(key):
                    machine.key_seen(key)
            if finish == "processing":
                self._placement.stays(self._scheduler.tasks[key])
            return
        if start in UNFINISHED:
            self._live.discard(key)
        if finish == "memory" and start == "processing":
            self._delivery.pass_on(self._scheduler.tasks[key])
        if finish == "released":
            self._runs_for_another_time(key)
        known = machine.knows(key)
        if known and finish in ("memory", "erred"):
            self._delivery.deliver(machine.key_finished(key, monotonic()))
            return
        if start in UNFINISHED:
            self._delivery.deliver(machine.task_left(key, monotonic()))
        if known and not self._runs_again(key):
            self._delivery.deliver(machine.key_lost(key, monotonic()))

    def _runs_for_another_time(self, key: str) -> None:
        """Tell the next worker of a task that another worker had the task before."""
        task = self._scheduler.tasks.get(key)
        if task is not None:
            # The worker may have stored the result without being able to say so.
            task.annotations = {**(task.annotations or {}), messages.RUNS_AGAIN: True}

    def _runs_again(self, key: str) -> bool:
        """Whether a task was released only because its worker is gone."""
        task = self._scheduler.tasks.get(key)
        return (
            task is not None
            and task.state == "released"
            and bool(task.who_wants or task.waiters)
        )


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

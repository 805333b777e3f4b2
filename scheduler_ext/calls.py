"""The RPC handlers of the plugin: they answer calls of workers and clients."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from distributed.metrics import monotonic
from distributed.scheduler import Scheduler, TaskState

from . import messages, outputs
from .activity import UNFINISHED
from .cancellation import STIMULUS, LiveKeys
from .delivery import Delivery, sorted_out
from .fields import InvalidMessage
from .functions import Functions
from .messages import PROTOCOL, error_reply
from .permission.events import (
    Decision,
    Granted,
    IllegalEvent,
    Refused,
    Request,
    Start,
)
from .permission.machine import PermissionMachine
from .registrations import Registrations
from .task_keys import is_transformation
from .version import __version__

logger = logging.getLogger(__name__)

Reply = dict[str, Any]


def _answers(handler: Callable[..., Reply]) -> Callable[..., Reply]:
    """Let an RPC handler return the problems of a message instead of raising."""

    @functools.wraps(handler)
    def answer(self: Calls, **payload: Any) -> Reply:
        try:
            return handler(self, **payload)
        except InvalidMessage as problem:
            return error_reply(problem.errors)

    return answer


def _without_answer(handler: Callable[..., None]) -> Callable[..., None]:
    """Let a handler of stream messages log its errors; raised, they cut the connection.

    It gets the address of the worker, or the id of the client, that has sent the message.
    """

    @functools.wraps(handler)
    def handle(self: Calls, worker: str = "", client: str = "", **payload: Any) -> None:
        sender = worker or client
        try:
            handler(self, sender, **payload)
        except Exception:  # whatever the message contains
            logger.exception("%s from %s", handler.__name__, sender)

    return handle


@dataclass
class Calls:
    """The handlers; the last seven fields are functions of the plugin."""

    scheduler: Scheduler
    machine: PermissionMachine
    live: LiveKeys
    delivery: Delivery
    registrations: Registrations
    functions: Functions
    announce: Callable[[str, int], None]
    status: Callable[[], Reply]
    activity: Callable[[], Reply]
    why: Callable[[str | None, str | None], Reply]
    failures: Callable[[], Reply]
    progress: Callable[[], Reply]
    output: Callable[[str | None, str, int | None, bool], Awaitable[Reply]]
    report: Callable[[], Reply]

    def handlers(self) -> dict[str, Callable[..., Any]]:
        """Calls that have an answer, by name."""
        return {
            messages.OP_VERSION: self._on_version,
            messages.OP_REGISTER_WORKER: self._on_register_worker,
            messages.OP_REQUEST: self._on_request,
            messages.OP_RELEASE: self._on_release,
            messages.OP_STATUS: self._on_status,
            messages.OP_ACTIVITY: self._on_activity,
            messages.OP_CANCEL: self._on_cancel,
            messages.OP_WHY: self._on_why,
            messages.OP_FAILURES: self._on_failures,
            outputs.OP_OUTPUT: self._on_output,
            messages.OP_PROGRESS: self._on_progress,
            messages.OP_REPORT: self._on_report,
        }

    def stream_handlers(self) -> dict[str, Callable[..., None]]:
        """Messages without an answer, by name."""
        return {
            messages.OP_REQUEST: self._on_request_stream,
            messages.OP_RELEASE: self._on_release_stream,
            messages.OP_NAME: self._on_name_stream,
            messages.OP_MARK: self._on_mark_stream,
            messages.OP_STORES: self._on_stores_stream,
            messages.OP_FALLBACK: self._on_fallback_stream,
            messages.OP_FUNCTION: self._on_function_stream,
        }

    # -- handlers ----------------------------------------------------------------

    @_without_answer
    def _on_mark_stream(self, sender: str, **payload: Any) -> None:
        """A client tells how many it has submitted, and how many not yet."""
        number, held = messages.parse_mark(payload)
        if sender in self.scheduler.clients:
            self.announce(sender, held)
        machine = self.machine
        self.scheduler.client_send(
            sender, messages.push_seen(number, machine.held, machine.capacity)
        )

    @_without_answer
    def _on_function_stream(self, sender: str, **payload: Any) -> None:
        """A client tells the name of the function in a code."""
        self.functions.learn(*messages.parse_function(payload))

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
        return {"status": "ok", **self.activity()}

    @_answers
    def _on_why(self, **payload: Any) -> Reply:
        return {"status": "ok", **self.why(*messages.parse_why(payload))}

    @_answers
    def _on_failures(self, **payload: Any) -> Reply:
        messages.parse_nothing(payload)
        return {"status": "ok", **self.failures()}

    @_answers
    def _on_progress(self, **payload: Any) -> Reply:
        messages.parse_nothing(payload)
        return {"status": "ok", **self.progress()}

    async def _on_output(self, **payload: Any) -> Reply:
        try:
            question = outputs.parse_question(payload)
            return {"status": "ok", **await self.output(*question)}
        except InvalidMessage as problem:
            return error_reply(problem.errors)

    @_answers
    def _on_report(self, **payload: Any) -> Reply:
        messages.parse_nothing(payload)
        return {"status": "ok", **self.report()}

    @_answers
    def _on_register_worker(self, **payload: Any) -> Reply:
        registration = messages.parse_registration(payload)
        connected = self.registrations.register(registration)
        return {"status": "ok", "connected": connected}

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
            answers |= await self.delivery.wait(
                waiting, message.holder, message.wait_seconds
            )
            waiting = []
        return {"status": "ok", **sorted_out(answers.values()), "waiting": waiting}

    @_without_answer
    def _on_request_stream(self, sender: str, **payload: Any) -> None:
        """A worker asks for one lease, and is told the decision on its stream."""
        if sender not in self.scheduler.workers:
            return  # it is gone, and nothing would end its lease
        try:
            request = messages.parse_request(payload, sender)
            self.machine.check_request(request)
        except (InvalidMessage, IllegalEvent) as problem:
            logger.warning("A request of %s for a lease: %s", sender, problem)
            lease_id = payload.get("id")
            if isinstance(lease_id, str):
                reason = f"the scheduler did not accept the request: {problem}"
                self.delivery.tell(sender, [Refused(lease_id, sender, reason)])
            return
        self.delivery.deliver(self._decisions(request, monotonic()))

    @_answers
    def _on_release(self, **payload: Any) -> Reply:
        message = messages.parse_releases(payload)
        now = monotonic()
        decisions: list[Decision] = []
        errors: list[str] = []
        for lease_id in message.ids:
            try:
                decisions += self.machine.release(lease_id, message.holder, now)
            except IllegalEvent as problem:
                errors.append(str(problem))
            else:
                self.delivery.abandon([lease_id], "it was released")
        self.delivery.deliver(decisions)
        logger.debug("%s released %s", message.holder, message.ids)
        return error_reply(errors) if errors else {"status": "ok"}

    @_without_answer
    def _on_release_stream(self, sender: str, **payload: Any) -> None:
        """The same on the stream of a worker or client, where no error may be raised."""
        reply = self._on_release(**{"holder": sender, **payload})
        if reply["status"] != "ok":
            logger.warning("Release by %s: %s", sender, reply["errors"])

    @_without_answer
    def _on_name_stream(self, sender: str, **payload: Any) -> None:
        """A worker tells which transformation a task runs; its key does not."""
        key, checksum = messages.parse_name(payload)
        if self._state_of(key) in UNFINISHED and is_transformation(key):
            self.live.name(key, checksum)

    @_without_answer
    def _on_fallback_stream(self, sender: str, **payload: Any) -> None:
        """A transformation that was refused runs in the process of a client."""
        self.machine.fell_back(messages.parse_key(payload))

    @_without_answer
    def _on_stores_stream(self, sender: str, **payload: Any) -> None:
        """The code of a task has ended, and its result is being stored."""
        key = messages.parse_key(payload)
        task = self.scheduler.tasks.get(key)
        ws = None if task is None else task.processing_on
        if ws is not None and ws.address == sender:
            self.delivery.deliver(self.machine.task_stores(key, monotonic()))

    @_answers
    def _on_cancel(self, **payload: Any) -> Reply:
        checksums = messages.parse_cancel(payload)
        keys = [key for checksum in checksums for key in self.live.of(checksum)]
        if keys:
            self._cancel(keys)
        return {"status": "ok", "cancelled": keys}

    # -- steps -------------------------------------------------------------------

    def _state_of(self, key: str | None) -> str | None:
        """The state of a task, None if the scheduler does not know it."""
        task = None if key is None else self.scheduler.tasks.get(key)
        return None if task is None else task.state

    def _impossible(self, message: messages.Requests) -> list[str]:
        """The reasons why a well-formed message cannot be carried out."""
        holder = message.holder
        if holder not in self.scheduler.workers and (
            holder not in self.scheduler.clients
        ):
            return [
                f"field 'holder': got {holder!r}, allowed: the address of a worker "
                "or the id of a client that is connected"
            ]
        errors = []
        for request in message.requests:
            try:
                self.machine.check_request(request)
            except IllegalEvent as problem:
                errors.append(str(problem))
        return errors

    def _ask(self, message: messages.Requests) -> dict[str, Granted | Refused]:
        """Put requests to the machine; return {id: decision} where there is one."""
        now = monotonic()
        asked = {request.lease_id for request in message.requests}
        answers: dict[str, Granted | Refused] = {}
        for request in message.requests:
            decisions = self._decisions(request, now)
            answers |= {
                d.lease_id: d
                for d in decisions
                if not isinstance(d, Start) and d.lease_id in asked
            }
            self.delivery.deliver(decisions, answered=asked)
        return answers

    def _decisions(self, request: Request, now: float) -> list[Decision]:
        """Put a request to the machine."""
        state = self._state_of(request.key)
        if state == "memory":
            # the result is there: it needs no slot, and no event would end a lease
            return [Granted(request.lease_id, request.holder)]
        decisions = self.machine.request(request, now)
        if request.key is not None and state in UNFINISHED:
            self.machine.key_seen(request.key)
        return decisions

    def _cancel(self, keys: list[str]) -> None:
        """Cancel tasks and their dependents for all clients.

        Like ``Scheduler.stimulus_cancel`` with force, which fails for tasks that only
        other tasks want.
        """
        scheduler = self.scheduler
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
            if self.machine.is_worker(address):
                scheduler.worker_send(address, messages.push_cancel(theirs))
        stimulus_id = f"{STIMULUS}{monotonic()}"
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

"""The RPC messages: names of the calls, and the checks of their arguments.

Each message is built here, beside the function that parses it. A function that builds
the arguments of a call returns them by keyword; a function that builds a message for a
stream adds its name.

Messages that arrive are not trusted. A ``parse_*`` function takes the raw keyword
arguments of one call and returns a frozen value, or raises
:class:`.fields.InvalidMessage` with *all* problems.

Calls to the scheduler (all return ``{"status": "ok", ...}`` or :func:`error_reply`):
the ``OP_*`` names. Messages on a stream have no answer. A worker sends OP_REQUEST (for
one lease), OP_RELEASE, OP_NAME and OP_STORES on its stream, where they arrive in order; a
client OP_RELEASE, OP_FUNCTION and OP_FALLBACK. Messages that the scheduler sends to
a worker that has registered: ``PUSH_DECISIONS`` with ``granted`` (ids) and ``refused``
({id: reason}), and ``PUSH_CANCEL`` with ``keys``.

A client may send OP_MARK with a ``number`` on its stream, and gets PUSH_SEEN with the same
number when the scheduler has taken in all earlier messages.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from . import fields
from .fields import Fields
from .permission.events import Request
from .permission.needs import needs_of

#: Raised with every change that an older worker or client would not understand
PROTOCOL = 6

OP_VERSION = "seamless_version"
OP_REGISTER_WORKER = "seamless_register_worker"
OP_REQUEST = "seamless_request"
OP_RELEASE = "seamless_release"
OP_STATUS = "seamless_status"
OP_ACTIVITY = "seamless_activity"
OP_CANCEL = "seamless_cancel"
OP_NAME = "seamless_name"
OP_WHY = "seamless_why"
OP_FAILURES = "seamless_failures"
OP_PROGRESS = "seamless_progress"
OP_REPORT = "seamless_report"
OP_FUNCTION = "seamless_function"
OP_MARK = "seamless_mark"
OP_STORES = "seamless_stores"
OP_FALLBACK = "seamless_fallback"

PUSH_DECISIONS = "seamless_decisions"
PUSH_CANCEL = "seamless_cancel"
PUSH_RESULT = "seamless_result"
PUSH_SEEN = "seamless_seen"

#: annotation of a task that another worker had before: its result may be stored
RUNS_AGAIN = "seamless_runs_again"

#: annotation of a task without a lease: the key of the transformation that called it
OWNER = "seamless_owner"


@dataclass(frozen=True)
class Registration:
    """The offer of a worker; ``resources`` are Dask's, by name.

    ``units`` is how many top-level transformations may execute there at the same time,
    None for any number; see :meth:`.permission.machine.PermissionMachine.add_worker`.
    """

    worker: str
    processes: int
    throttle: int
    ceiling: int | None
    units: float | None
    resources: Mapping[str, float]


@dataclass(frozen=True)
class Requests:
    """Leases that one holder asks for, and how many seconds it waits for the reply."""

    requests: tuple[Request, ...]
    holder: str
    wait_seconds: float


@dataclass(frozen=True)
class Releases:
    """Leases that one holder releases."""

    holder: str
    ids: tuple[str, ...]


def error_reply(errors: Iterable[str]) -> dict[str, Any]:
    """The reply to an invalid call."""
    return {"status": "error", "errors": list(errors)}


# -- calls and messages to the scheduler -------------------------------------------


def parse_nothing(payload: Mapping[str, Any]) -> None:
    """A call without arguments."""
    Fields(payload).finish()


def registration(
    worker: str,
    *,
    processes: int,
    throttle: int,
    ceiling: int | None = None,
    units: float | None = None,
    resources: Mapping[str, float],
) -> dict[str, Any]:
    """The arguments of OP_REGISTER_WORKER; see :class:`Registration`."""
    return {
        "worker": worker,
        "processes": processes,
        "throttle": throttle,
        "ceiling": ceiling,
        "units": units,
        "resources": dict(resources),
    }


def parse_registration(payload: Mapping[str, Any]) -> Registration:
    """The arguments of OP_REGISTER_WORKER."""
    arguments = Fields(payload)
    worker = arguments.take("worker", fields.text)
    processes = arguments.take("processes", fields.positive)
    throttle = arguments.take("throttle", fields.positive)
    ceiling = arguments.take("ceiling", fields.optional(fields.positive), None)
    units = arguments.take("units", fields.optional(fields.seconds), None)
    resources = arguments.take("resources", fields.optional(fields.resources), None)
    arguments.finish()
    return Registration(worker, processes, throttle, ceiling, units, resources or {})


def lease_request(
    lease_id: str,
    *,
    key: str | None = None,
    owner: str | None = None,
    depth: int = 0,
    wait: bool = True,
    resources: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """One of the requests of :func:`lease_requests`.

    For the fields see :class:`.permission.events.Request`; ``resources`` are the
    resource restrictions of the task, and are there only if they are not those of
    nested work.
    """
    request: dict[str, Any] = {
        "id": lease_id,
        "key": key,
        "owner": owner,
        "depth": depth,
        "wait": wait,
    }
    if resources:
        request["resources"] = dict(resources)
    return request


def lease_requests(
    holder: str, requests: Iterable[Mapping[str, Any]], wait_seconds: float = 0.0
) -> dict[str, Any]:
    """The arguments of OP_REQUEST; see :class:`Requests`."""
    return {
        "holder": holder,
        "requests": [dict(request) for request in requests],
        "wait_seconds": wait_seconds,
    }


def parse_requests(payload: Mapping[str, Any]) -> Requests:
    """The arguments of OP_REQUEST."""
    arguments = Fields(payload)
    holder = arguments.take("holder", fields.text)
    raw = arguments.take("requests", fields.list_of(fields.mapping))
    wait_seconds = arguments.take("wait_seconds", fields.seconds, 0.0)
    requests: dict[str, Request] = {}
    for number, each in enumerate(raw or ()):
        one = Fields(each, f"requests[{number}].")
        request = _request(one, holder)
        arguments.errors += one.all_errors()
        if requests.setdefault(request.lease_id, request) != request:
            arguments.errors.append(
                f"field 'requests[{number}].id': got {reprlib.repr(request.lease_id)} "
                "again, allowed: one content for each id"
            )
    arguments.finish()
    return Requests(tuple(requests.values()), holder, wait_seconds)


def request(lease: Mapping[str, Any]) -> dict[str, Any]:
    """The message OP_REQUEST on a worker's stream; for ``lease`` see `lease_request`."""
    return {"op": OP_REQUEST, **lease}


def parse_request(payload: Mapping[str, Any], holder: str) -> Request:
    """The arguments of OP_REQUEST on the stream of a worker, which is the holder."""
    arguments = Fields(payload)
    found = _request(arguments, holder)
    arguments.finish()
    return found


def _request(one: Fields, holder: str) -> Request:
    lease_id = one.take("id", fields.text)
    key = one.take("key", fields.optional(fields.text), None)
    owner = one.take("owner", fields.optional(fields.text), None)
    depth = one.take("depth", fields.natural, 0)
    wait = one.take("wait", fields.truth, True)
    needed = one.take("resources", fields.optional(fields.resources), None)
    return Request(lease_id, holder, key, owner, depth, wait, needs_of(needed or {}))


def release(holder: str, ids: Iterable[str]) -> dict[str, Any]:
    """The message OP_RELEASE on a stream; see :class:`Releases`."""
    ids = [str(lease_id) for lease_id in ids]
    return {"op": OP_RELEASE, "holder": holder, "ids": ids}


def parse_releases(payload: Mapping[str, Any]) -> Releases:
    """The arguments of OP_RELEASE."""
    arguments = Fields(payload)
    holder = arguments.take("holder", fields.text)
    ids = arguments.take("ids", fields.list_of(fields.text))
    arguments.finish()
    return Releases(holder, ids)


def cancel(checksums: Iterable[str]) -> dict[str, Any]:
    """The arguments of OP_CANCEL."""
    return {"checksums": list(checksums)}


def parse_cancel(payload: Mapping[str, Any]) -> tuple[str, ...]:
    """The arguments of OP_CANCEL: checksums of transformations."""
    arguments = Fields(payload)
    checksums = arguments.take("checksums", fields.list_of(fields.checksum))
    arguments.finish()
    return checksums


def why(what: str) -> dict[str, Any]:
    """The arguments of OP_WHY for what a person has said: see :func:`parse_why`."""
    arguments = {"name": what}
    if fields.is_prefix(what.lower()):
        arguments["checksum"] = what.lower()
    return arguments


def parse_why(payload: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The arguments of OP_WHY, of which there is at least one.

    ``checksum``: of a transformation, or its first digits. ``name``: of a function, for
    which there is a search if no transformation has the checksum.
    """
    arguments = Fields(payload)
    name = arguments.take("name", fields.optional(fields.text), None)
    default = {} if name is None else {"default": None}
    check = fields.prefix if name is None else fields.optional(fields.prefix)
    checksum = arguments.take("checksum", check, **default)
    arguments.finish()
    return checksum, name


def function(code: str, name: str) -> dict[str, Any]:
    """The message OP_FUNCTION on a client's stream.

    The name of the function in a code, which is given by its checksum.
    """
    return {"op": OP_FUNCTION, "code": code, "name": name}


def parse_function(payload: Mapping[str, Any]) -> tuple[str, str]:
    """The arguments of OP_FUNCTION: the checksum of a code, and the function's name."""
    arguments = Fields(payload)
    code = arguments.take("code", fields.checksum)
    name = arguments.take("name", fields.text)
    arguments.finish()
    return code, name


def name(key: str, checksum: str) -> dict[str, Any]:
    """The message OP_NAME on a worker's stream."""
    return {"op": OP_NAME, "key": key, "checksum": checksum}


def parse_name(payload: Mapping[str, Any]) -> tuple[str, str]:
    """The arguments of OP_NAME: the key of a task, and the checksum that it runs."""
    arguments = Fields(payload)
    key = arguments.take("key", fields.text)
    checksum = arguments.take("checksum", fields.checksum)
    arguments.finish()
    return key, checksum


def stores(key: str) -> dict[str, Any]:
    """The message OP_STORES on a worker's stream: a task's result is being stored."""
    return {"op": OP_STORES, "key": key}


def fallback(key: str) -> dict[str, Any]:
    """The message OP_FALLBACK on a client's stream: a refused task runs in the client."""
    return {"op": OP_FALLBACK, "key": key}


def parse_key(payload: Mapping[str, Any]) -> str:
    """The key in the message OP_STORES or OP_FALLBACK."""
    arguments = Fields(payload)
    key = arguments.take("key", fields.text)
    arguments.finish()
    return str(key)


def mark(number: int, held: int) -> dict[str, Any]:
    """The message OP_MARK on a client's stream.

    ``number`` is that of its submissions, ``held`` that of transformations that it has not
    submitted yet.
    """
    return {"op": OP_MARK, "number": number, "held": held}


def parse_mark(payload: Mapping[str, Any]) -> tuple[int, int]:
    """The arguments of OP_MARK."""
    arguments = Fields(payload)
    number = arguments.take("number", fields.total)
    held = arguments.take("held", fields.total)
    arguments.finish()
    return number, held


# -- messages of the scheduler; the fields arrive as keyword arguments ---------------


def push_decisions(
    granted: Iterable[str], refused: Mapping[str, str]
) -> dict[str, Any]:
    """The message PUSH_DECISIONS to a worker."""
    return {"op": PUSH_DECISIONS, "granted": list(granted), "refused": dict(refused)}


def push_cancel(keys: Iterable[str]) -> dict[str, Any]:
    """The message PUSH_CANCEL to a worker."""
    return {"op": PUSH_CANCEL, "keys": list(keys)}


def push_result(key: str, result: Any) -> dict[str, Any]:
    """The message PUSH_RESULT to a client: the result in a worker's :func:`.reports.parcel`."""
    return {"op": PUSH_RESULT, "key": key, "result": result}


def push_seen(number: int, held: int, capacity: int) -> dict[str, Any]:
    """The message PUSH_SEEN to a client: the answer to :func:`mark`.

    ``held`` is the number of tasks that wait for a slot on the scheduler, ``capacity``
    that of all slots.
    """
    return {"op": PUSH_SEEN, "number": number, "held": held, "capacity": capacity}

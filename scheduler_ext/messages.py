"""What goes over the wire: names of the calls, and what their arguments must be.

Nothing that arrives is trusted. A ``parse_*`` function takes the raw keyword arguments
of one call and returns a frozen value, or raises :class:`InvalidMessage` with *all*
problems. Lists arrive as tuples, so both are accepted.

Calls to the scheduler (all return ``{"status": "ok", ...}`` or :func:`error_reply`):
the ``OP_*`` names. On the stream of a worker OP_RELEASE is possible as well, and
OP_NAME only there; such messages have no answer. Messages that the scheduler sends to
a worker that has registered: ``PUSH_DECISIONS`` with ``granted`` (ids) and ``refused``
({id: reason}), and ``PUSH_CANCEL`` with ``keys``. Decisions travel on another
connection than the reply to the request, and may overtake it.

A client may send OP_MARK with a ``number`` on its stream, and gets PUSH_SEEN with the same
number when the scheduler has taken in all that was sent before.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from .permission.events import Request

#: Raised with every change that an older worker or client would not understand
PROTOCOL = 4

OP_VERSION = "seamless_version"
OP_REGISTER_WORKER = "seamless_register_worker"
OP_REQUEST = "seamless_request"
OP_RELEASE = "seamless_release"
OP_STATUS = "seamless_status"
OP_ACTIVITY = "seamless_activity"
OP_CANCEL = "seamless_cancel"
OP_NAME = "seamless_name"
OP_WHY = "seamless_why"
OP_MARK = "seamless_mark"

PUSH_DECISIONS = "seamless_decisions"
PUSH_CANCEL = "seamless_cancel"
PUSH_RESULT = "seamless_result"
PUSH_SEEN = "seamless_seen"

#: annotation of a task that was with a worker before: its result may be stored
RUNS_AGAIN = "seamless_runs_again"

#: name under which a worker reports in the metadata of a task how its run ended:
#: {"ending": see scheduler_ext.view.history.REPORTED, "cache_hits": nested ones,
#: "begun": how often its code began, "resume_wait": seconds that it could go on after
#: its calls and waited for its process}; the last two only if its code ran
REPORT = "seamless"

#: name under which a worker puts a small result there, for the client that submitted the
#: task: {"client": its id, "result": whatever the two of them understand}
RESULT = "seamless_result"

#: name of a worker's figures in its heartbeat:
#: {"processes": Seamless processes that it has now}
METRICS = "seamless"

#: Limits that keep one message from occupying the scheduler for long
MAX_ITEMS = 10_000
MAX_TEXT = 1_000
MAX_COUNT = 1_000_000
MAX_AMOUNT = 1e15
MAX_WAIT_SECONDS = 86_400.0
#: Digits of a checksum that are enough to ask for it
MIN_PREFIX = 6

_T = TypeVar("_T")


class InvalidMessage(ValueError):
    """A message with problems; ``errors`` has one sentence for each of them."""

    def __init__(self, errors: Iterable[str]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(self.errors))


@dataclass(frozen=True)
class Registration:
    """What a worker offers; ``resources`` are Dask's units by name."""

    worker: str
    processes: int
    throttle: int
    ceiling: int | None
    resources: Mapping[str, float]


@dataclass(frozen=True)
class Requests:
    """Leases that one holder asks for, and how many seconds it waits for the reply."""

    requests: tuple[Request, ...]
    holder: str
    wait_seconds: float


@dataclass(frozen=True)
class Releases:
    """Leases that one holder gives back."""

    holder: str
    ids: tuple[str, ...]


def error_reply(errors: Iterable[str]) -> dict[str, Any]:
    """The reply to a call that makes no sense."""
    return {"status": "error", "errors": list(errors)}


def parse_nothing(payload: Mapping[str, Any]) -> None:
    """A call without arguments."""
    _Fields(payload).finish()


def parse_registration(payload: Mapping[str, Any]) -> Registration:
    """The arguments of OP_REGISTER_WORKER."""
    fields = _Fields(payload)
    worker = fields.take("worker", _text)
    processes = fields.take("processes", _positive)
    throttle = fields.take("throttle", _positive)
    ceiling = fields.take("ceiling", _optional(_positive), None)
    resources = fields.take("resources", _optional(_resources), None)
    fields.finish()
    return Registration(worker, processes, throttle, ceiling, resources or {})


def parse_requests(payload: Mapping[str, Any]) -> Requests:
    """The arguments of OP_REQUEST."""
    fields = _Fields(payload)
    holder = fields.take("holder", _text)
    raw = fields.take("requests", _list_of(_mapping))
    wait_seconds = fields.take("wait_seconds", _seconds, 0.0)
    requests: dict[str, Request] = {}
    for number, each in enumerate(raw or ()):
        one = _Fields(each, f"requests[{number}].")
        lease_id = one.take("id", _text)
        key = one.take("key", _optional(_text), None)
        owner = one.take("owner", _optional(_text), None)
        depth = one.take("depth", _natural, 0)
        wait = one.take("wait", _truth, True)
        fields.errors += one.all_errors()
        request = Request(lease_id, holder, key, owner, depth, wait)
        if requests.setdefault(lease_id, request) != request:
            fields.errors.append(
                f"field 'requests[{number}].id': got {reprlib.repr(lease_id)} again, "
                "allowed: one content for each id"
            )
    fields.finish()
    return Requests(tuple(requests.values()), holder, wait_seconds)


def parse_releases(payload: Mapping[str, Any]) -> Releases:
    """The arguments of OP_RELEASE."""
    fields = _Fields(payload)
    holder = fields.take("holder", _text)
    ids = fields.take("ids", _list_of(_text))
    fields.finish()
    return Releases(holder, ids)


def parse_cancel(payload: Mapping[str, Any]) -> tuple[str, ...]:
    """The arguments of OP_CANCEL: checksums of transformations."""
    fields = _Fields(payload)
    checksums = fields.take("checksums", _list_of(_checksum))
    fields.finish()
    return checksums


def parse_why(payload: Mapping[str, Any]) -> str:
    """The argument of OP_WHY: the checksum of a transformation, or how it begins."""
    fields = _Fields(payload)
    checksum = fields.take("checksum", _prefix)
    fields.finish()
    return checksum


def parse_name(payload: Mapping[str, Any]) -> tuple[str, str]:
    """The arguments of OP_NAME: the key of a task, and what it runs."""
    fields = _Fields(payload)
    key = fields.take("key", _text)
    checksum = fields.take("checksum", _checksum)
    fields.finish()
    return key, checksum


# -- fields ------------------------------------------------------------------------


class _Wrong(Exception):
    """A value is not what a field allows; the argument says what is allowed."""


_MISSING = object()


class _Fields:
    """The arguments of one call, taken one by one; problems are collected."""

    def __init__(self, payload: Mapping[str, Any], prefix: str = "") -> None:
        self._left = dict(payload)
        self._known: list[str] = []
        self._prefix = prefix
        self.errors: list[str] = []

    def take(
        self, name: str, check: Callable[[Any], _T], default: Any = _MISSING
    ) -> _T:
        """The checked value of a field.

        After a problem the result is meaningless; :meth:`finish` then raises.
        """
        self._known.append(name)
        value = self._left.pop(name, default)
        try:
            return check(value)
        except _Wrong as wrong:
            got = "nothing" if value is _MISSING else reprlib.repr(value)
            self.errors.append(
                f"field '{self._prefix}{name}': got {got}, allowed: {wrong}"
            )
            return None  # type: ignore[return-value]  # never used: finish() raises

    def all_errors(self) -> list[str]:
        """The problems so far and the arguments that nobody took."""
        unknown = [
            f"field '{self._prefix}{reprlib.repr(name)[1:-1]}': unknown, "
            f"allowed: {', '.join(self._known) or 'no arguments'}"
            for name in self._left
        ]
        return self.errors + unknown

    def finish(self) -> None:
        """Raise InvalidMessage if there was any problem."""
        errors = self.all_errors()
        if errors:
            raise InvalidMessage(errors)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT:
        raise _Wrong(f"text of 1 to {MAX_TEXT} characters")
    return value


def _checksum(value: Any) -> str:
    if (
        not isinstance(value, str)
        or len(value) != 64
        or not set(value) <= set("0123456789abcdef")
    ):
        raise _Wrong("64 hexadecimal digits in lower case")
    return value


def _prefix(value: Any) -> str:
    if (
        not isinstance(value, str)
        or not MIN_PREFIX <= len(value) <= 64
        or not set(value) <= set("0123456789abcdef")
    ):
        raise _Wrong(f"{MIN_PREFIX} to 64 hexadecimal digits in lower case")
    return value


def _whole(value: Any, least: int) -> int:
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or not least <= value <= MAX_COUNT
    ):
        raise _Wrong(f"whole number from {least} to {MAX_COUNT}")
    return value


def _natural(value: Any) -> int:
    return _whole(value, 0)


def _positive(value: Any) -> int:
    return _whole(value, 1)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Wrong("true or false")
    return value


def _is_amount(value: Any) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and 0 <= value <= MAX_AMOUNT
    )


def _seconds(value: Any) -> float:
    if not _is_amount(value) or value > MAX_WAIT_SECONDS:
        raise _Wrong(f"seconds from 0 to {MAX_WAIT_SECONDS:.0f}")
    return float(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _Wrong("dictionary")
    return value


def _resources(value: Any) -> Mapping[str, float]:
    if not isinstance(value, dict) or not all(
        isinstance(name, str) and 0 < len(name) <= MAX_TEXT and _is_amount(amount)
        for name, amount in value.items()
    ):
        raise _Wrong(f"dictionary of names to amounts from 0 to {MAX_AMOUNT:g}")
    return {name: float(amount) for name, amount in value.items()}


def _optional(check: Callable[[Any], _T]) -> Callable[[Any], _T | None]:
    def checked(value: Any) -> _T | None:
        return None if value is None else check(value)

    return checked


def _list_of(check: Callable[[Any], _T]) -> Callable[[Any], tuple[_T, ...]]:
    def checked(value: Any) -> tuple[_T, ...]:
        if not isinstance(value, (list, tuple)) or len(value) > MAX_ITEMS:
            raise _Wrong(f"list of up to {MAX_ITEMS} items")
        items = []
        for number, item in enumerate(value):
            try:
                items.append(check(item))
            except _Wrong as wrong:
                got = reprlib.repr(item)
                raise _Wrong(f"{wrong}; item {number} is {got}") from None
        return tuple(items)

    return checked

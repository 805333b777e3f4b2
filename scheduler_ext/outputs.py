"""The output of transformations on its way through the scheduler, and what it keeps.

A worker reports output as an event of Dask (:func:`event`), under the topic of the driver
script that shows it (:func:`topic_of`), or under :data:`TOPIC` if only the status command
has asked. Dask gives it to the client that has subscribed. The scheduler keeps the newest
of all events here, bounded in number and size, and nothing in Dask's topics.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from . import fields
from .fields import Fields, InvalidMessage
from .functions import MAX_NAME, clean
from .task_keys import code_of

#: Call of a person: what transformations have written
OP_OUTPUT = "seamless_output"
#: Call of the scheduler to a worker: what running transformations have written
WORKER_OUTPUT = "seamless_worker_output"

#: Topic of events that no driver script shows; the others begin with it
TOPIC = "seamless-output"

#: Bytes of the text of one piece; longer ones are cut
MAX_TEXT = 8 * 1024
#: Pieces of one event
MAX_PIECES = 8
#: Characters of the text that is kept, of one transformation and of all
MAX_KEPT = 64 * 1024
MAX_TOTAL = 16 * 1024 * 1024
#: Transformations whose output is kept, and pieces of one of them
MAX_KEYS = 10_000
MAX_KEPT_PIECES = 200
#: Running transformations that one call asks for
MAX_ASKED = 20

#: stream, text, and the number of bytes before it that are left out. 1 is the standard
#: output and 2 the standard error of Python; 3 and 4 are those of the process
Piece = tuple[int, str, int]
STREAMS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Event:
    """Some output of one transformation."""

    key: str
    checksum: str | None
    name: str
    #: from 0; it begins again when the code does
    number: int
    pieces: tuple[Piece, ...]
    #: whether it has ended
    ended: bool


def topic_of(client: str | None) -> str:
    """The topic of the events that a driver script shows, which has this client."""
    return TOPIC if client is None else f"{TOPIC}/{client}"


def event(
    key: str,
    checksum: str | None,
    name: str,
    number: int,
    pieces: Iterable[Piece],
    ended: bool,
) -> dict[str, Any]:
    """The message of an event; see :class:`Event`."""
    return {
        "key": key,
        "checksum": checksum,
        "name": name,
        "number": number,
        "pieces": [list(piece) for piece in pieces],
        "ended": ended,
    }


def parse_event(message: Any) -> Event:
    """The content of an event; Dask adds ``worker``. Raises InvalidMessage."""
    if not isinstance(message, dict):
        raise InvalidMessage([f"got {type(message).__name__}, allowed: dictionary"])
    arguments = Fields({k: v for k, v in message.items() if k != "worker"})
    key = arguments.take("key", fields.text)
    checksum = arguments.take("checksum", fields.optional(fields.checksum), None)
    name = arguments.take("name", fields.text)
    number = arguments.take("number", _count)
    pieces = arguments.take("pieces", fields.list_of(_piece))
    ended = arguments.take("ended", fields.truth)
    arguments.finish()
    shown = clean(name, MAX_NAME)
    return Event(key, checksum, shown, number, tuple(pieces[:MAX_PIECES]), ended)


def _piece(value: Any) -> Piece:
    if not (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and value[0] in STREAMS
        and isinstance(value[1], str)
    ):
        raise fields.Wrong("[1 to 4, text, bytes left out]")
    return int(value[0]), value[1][-MAX_TEXT:], _count(value[2])


def _count(value: Any) -> int:
    """A number of bytes or events, which may be large."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**62:
        raise fields.Wrong("whole number from 0")
    return value


def question(what: str, *, since: int | None, follow: bool) -> dict[str, Any]:
    """The arguments of OP_OUTPUT; see :func:`parse_question`."""
    arguments: dict[str, Any] = {"name": what, "since": since, "follow": follow}
    if fields.is_prefix(what.lower()):
        arguments["checksum"] = what.lower()
    return arguments


def parse_question(
    payload: Mapping[str, Any],
) -> tuple[str | None, str, int | None, bool]:
    """The arguments of OP_OUTPUT.

    ``checksum`` and ``name``: as for :func:`.messages.parse_why`. ``since``: the
    ``number`` of the answer before, None at first. ``follow``: whether the caller asks
    again, so that running transformations are to send their output.
    """
    arguments = Fields(payload)
    checksum = arguments.take("checksum", fields.optional(fields.prefix), None)
    name = arguments.take("name", fields.text)
    since = arguments.take("since", fields.optional(_count), None)
    follow = arguments.take("follow", fields.truth, False)
    arguments.finish()
    return checksum, name, since, follow


def request(keys: Iterable[str], stream: bool) -> dict[str, Any]:
    """The arguments of WORKER_OUTPUT; see :func:`parse_request`."""
    return {"keys": list(keys), "stream": stream}


def parse_request(payload: Mapping[str, Any]) -> tuple[tuple[str, ...], bool]:
    """The arguments of WORKER_OUTPUT: keys of tasks, and whether they are to send on."""
    arguments = Fields(payload)
    keys = arguments.take("keys", fields.list_of(fields.text))
    stream = arguments.take("stream", fields.truth, False)
    arguments.finish()
    return keys, stream


def parse_answer(answer: Any) -> dict[str, tuple[Piece, ...]]:
    """What a worker answers to WORKER_OUTPUT: {key: pieces}. Raises InvalidMessage.

    A task that no process runs is left out.
    """
    arguments = Fields(answer if isinstance(answer, dict) else {})
    arguments.take("status", fields.text)
    outputs = arguments.take("outputs", fields.mapping)
    arguments.finish()
    one = Fields(outputs, "outputs.")
    pieces = {key: one.take(key, fields.list_of(_piece)) for key in outputs}
    one.finish()
    return pieces


class Outputs:
    """The newest output of each transformation that has sent some; pure and bounded."""

    def __init__(
        self, *, total: int = MAX_TOTAL, each: int = MAX_KEPT, keys: int = MAX_KEYS
    ) -> None:
        self._limits = total, each, keys
        #: {key: its events with their numbers here}, the latest ones at the end
        self._events: OrderedDict[str, deque[tuple[int, Event]]] = OrderedDict()
        #: {key: characters of its text}
        self._sizes: dict[str, int] = {}
        #: the sum of these
        self.size = 0
        #: events ever added
        self.added = 0

    def add(self, arrived: Event) -> None:
        """Keep an event; forget the oldest ones if there is too much."""
        total, each, keys = self._limits
        key = arrived.key
        if arrived.number == 0:
            self.forget(key)
        self.added += 1
        events = self._events.setdefault(key, deque())
        self._events.move_to_end(key)
        events.append((self.added, arrived))
        self._resize(key, _length(arrived))
        while len(events) > 1 and (
            self._sizes[key] > each or len(events) > MAX_KEPT_PIECES
        ):
            self._resize(key, -_length(events.popleft()[1]))
        while self.size > total or len(self._events) > keys:
            self.forget(next(iter(self._events)))

    def forget(self, key: str) -> None:
        """Forget the output of a transformation, if there is any."""
        if self._events.pop(key, None) is not None:
            self.size -= self._sizes.pop(key)

    def _resize(self, key: str, change: int) -> None:
        self._sizes[key] = self._sizes.get(key, 0) + change
        self.size += change

    def since(self, number: int, keys: Iterable[str]) -> list[tuple[int, Event]]:
        """The events of these transformations after that number, in order."""
        found = [
            each
            for key in keys
            for each in self._events.get(key, ())
            if each[0] > number
        ]
        return sorted(found, key=lambda each: each[0])

    def last(self, key: str) -> Event | None:
        """The last event of a transformation."""
        events = self._events.get(key)
        return events[-1][1] if events else None

    def of_checksum(self, prefix: str) -> list[str]:
        """The keys of the transformations whose checksums begin so."""
        return [
            key
            for key, events in self._events.items()
            if (events[-1][1].checksum or "").startswith(prefix)
        ]

    def of_code(self, codes: Collection[str]) -> list[str]:
        """The keys of the transformations that run one of these codes."""
        return [key for key in self._events if code_of(key) in codes]

    def clear(self) -> None:
        """Forget everything, except how many events there were."""
        self._events.clear()
        self._sizes.clear()
        self.size = 0


def _length(arrived: Event) -> int:
    return sum(len(piece[1]) for piece in arrived.pieces)

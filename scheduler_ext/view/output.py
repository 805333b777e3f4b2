"""Shows people what transformations write: from their processes, and from events.

A running transformation that is not streamed is asked through its worker; if the caller
follows it, it sends what it has written, and what it writes from then on, as events. See
:mod:`scheduler_ext.outputs`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from distributed.scheduler import Scheduler

from .. import outputs
from ..fields import InvalidMessage
from ..functions import DIGITS, Functions
from ..outputs import Outputs, Piece
from ..task_keys import code_of
from . import search
from .explain import MAX_NAMED, Subject
from .phrases import listed

logger = logging.getLogger(__name__)

#: Seconds in which workers must answer
TIMEOUT = 4.0
#: Events in one answer, and characters of their text
MAX_EVENTS = 1_000
MAX_CHARACTERS = 1024 * 1024


class OutputView:
    """Answers questions about the output of transformations."""

    def __init__(
        self, scheduler: Scheduler, subject: Subject, functions: Functions
    ) -> None:
        self._scheduler = scheduler
        self._subject = subject
        self._functions = functions
        self.outputs = Outputs()
        #: {key: the worker that sends its output because of a question}
        self._asked: OrderedDict[str, str] = OrderedDict()

    def arrived(self, topic: str, message: Any) -> None:
        """Keep an event; Dask's topic keeps none."""
        # Dask would keep as many as `distributed.admin.low-level-log-length` says.
        client = topic.removeprefix(f"{outputs.TOPIC}/")
        if topic == outputs.TOPIC or client in self._scheduler.clients:
            self._scheduler._broker.truncate(topic)
        else:
            self.client_left(client)
        try:
            self.outputs.add(outputs.parse_event(message))
        except InvalidMessage as problem:
            logger.warning("Output of a transformation: %s", problem)

    def client_left(self, client: str) -> None:
        """Forget the topic of a driver script that has ended."""
        self._scheduler._broker._topics.pop(outputs.topic_of(client), None)

    def clear(self) -> None:
        """All tasks are gone."""
        self.outputs.clear()
        self._asked.clear()

    async def answer(
        self, checksum: str | None, name: str, since: int | None, follow: bool
    ) -> dict[str, Any]:
        """The output of the transformations with this checksum or name.

        Returns::

            found      whether any is known that runs, or whose output is kept
            number     to be passed as ``since`` to the next question
            running    number of them that are with a worker
            asked      of these, the number that this answer looks at
            outputs    list of {"key", "label", "begins", "ended", "pieces"}, in order;
                       pieces are those of :class:`.outputs.Event`

        Without ``since``: the newest output of each; otherwise all since then.
        Raises InvalidMessage if several transformations have such checksums.
        """
        running, kept = self._find(checksum, name)
        number = self.outputs.added
        fresh = [key for key in running if self._is_new(key, since)]
        found = await self._ask(fresh[: outputs.MAX_ASKED], follow)
        rows = [
            _row(key, self._label(key), True, False, pieces)
            for key, pieces in found.items()
        ]
        for _, event in self._events(kept, running, since, number, found):
            begins = event.number == 0
            label = f"{event.name} {(event.checksum or '')[:DIGITS]}".rstrip()
            rows.append(_row(event.key, label, begins, event.ended, event.pieces))
        return {
            "found": bool(running or kept),
            "number": number,
            "running": len(running),
            "asked": min(len(running), outputs.MAX_ASKED),
            "outputs": rows,
        }

    def _find(self, checksum: str | None, name: str) -> tuple[list[str], list[str]]:
        """Keys of those that are with a worker, and of those with kept output."""
        if checksum is not None:
            known = search.begin_so(self._subject, checksum)
            if len(known) > 1:
                raise InvalidMessage(
                    [
                        f"field 'checksum': got {checksum!r}, allowed: more digits, "
                        f"since {len(known)} transformations begin so: "
                        f"{listed(known[:MAX_NAMED], len(known))}"
                    ]
                )
            keys = [key for each in known for key in self._subject.live.of(each)]
            running = [k for k in keys if k in self._subject.journal.with_worker]
            kept = self.outputs.of_checksum(checksum)
            if known or kept:
                return running, kept
        codes = self._functions.named(name)
        if not codes:
            return [], []
        journal = self._subject.journal
        running = [key for key in journal.with_worker if code_of(key) in codes]
        return running, self.outputs.of_code(codes)

    def _is_new(self, key: str, since: int | None) -> bool:
        """Whether its process must be asked, since no events tell its output."""
        last = self.outputs.last(key)
        streams = last is not None and not last.ended
        asked = self._asked.get(key)
        if asked is not None and asked != self._worker(key):
            return True  # its worker was lost, and could not say that the output ends
        return not streams and not (since is not None and asked)

    def _events(
        self,
        kept: list[str],
        running: list[str],
        since: int | None,
        number: int,
        found: Iterable[str],
    ) -> list[tuple[int, outputs.Event]]:
        """The events that belong into an answer."""
        keys = [key for key in kept if key not in found]
        events = self.outputs.since(0 if since is None else since, keys)
        events = [each for each in events if each[0] <= number]
        if since is None and running:
            # those that have ended would hide what is running
            events = [each for each in events if each[1].key in running]
        size, first = 0, len(events)
        while first and len(events) - first < MAX_EVENTS and size < MAX_CHARACTERS:
            first -= 1
            size += sum(len(piece[1]) for piece in events[first][1].pieces)
        return events[first:]

    async def _ask(self, keys: list[str], follow: bool) -> dict[str, tuple[Piece, ...]]:
        """Ask the processes of running transformations through their workers."""
        by_worker: dict[str, list[str]] = {}
        for key in keys:
            worker = self._worker(key)
            if worker is not None and self._subject.machine.is_worker(worker):
                by_worker.setdefault(worker, []).append(key)
        answers = await asyncio.gather(
            *(self._ask_one(worker, each, follow) for worker, each in by_worker.items())
        )
        found = {key: pieces for answer in answers for key, pieces in answer.items()}
        return {key: found[key] for key in keys if found.get(key)}

    async def _ask_one(
        self, worker: str, keys: list[str], follow: bool
    ) -> dict[str, tuple[Piece, ...]]:
        call = getattr(self._scheduler.rpc(worker), outputs.WORKER_OUTPUT)
        try:
            answer = await asyncio.wait_for(
                call(**outputs.request(keys, follow)), TIMEOUT
            )
            found = outputs.parse_answer(answer)
        except Exception as problem:  # noqa: BLE001 - whatever the worker makes of it
            logger.info("%s does not tell what its tasks write: %r", worker, problem)
            return {}
        if follow:
            self._note_asked(worker, found)
        return found

    def _note_asked(self, worker: str, keys: Iterable[str]) -> None:
        """These send their output; one whose code has not begun is asked again."""
        for key in keys:
            self._asked[key] = worker
            self._asked.move_to_end(key)
        while len(self._asked) > outputs.MAX_KEYS:
            self._asked.popitem(last=False)

    def _worker(self, key: str) -> str | None:
        task = self._scheduler.tasks.get(key)
        ws = None if task is None else task.processing_on
        return None if ws is None else ws.address

    def _label(self, key: str) -> str:
        return self._subject.labels.short(key)


def _row(
    key: str, label: str, begins: bool, ended: bool, pieces: Iterable[Piece]
) -> dict[str, Any]:
    return {
        "key": key,
        "label": label,
        "begins": begins,
        "ended": ended,
        "pieces": [list(piece) for piece in pieces],
    }

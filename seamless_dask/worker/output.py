"""Sends the output of transformations from a Dask worker to those who watch them.

As events of Dask: see `scheduler_ext.outputs`. A worker sends at most `RATE` a second,
apart from the last one of each transformation.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from scheduler_ext import outputs
from scheduler_ext.fields import InvalidMessage

if TYPE_CHECKING:
    from distributed import Worker

    from ..pool.pool import Pool
    from ..submit.tasks import Job

logger = logging.getLogger(__name__)

#: seconds between two messages about one transformation, at least
INTERVAL = 2.0
#: messages a second of one worker, about transformations that run
RATE = 8
#: the last message about a transformation that could not send it itself
CUT_OFF = {"number": 1, "pieces": [], "ended": True}


class OutputSender:
    """Sends the output of the transformations of one worker; lives on its event loop.

    Parameters
    ----------
    worker
        The Dask worker.
    pool
        The Seamless processes.
    shown
        Returns the name of the function that a task runs.
    """

    def __init__(self, worker: Worker, pool: Pool, shown: Callable[[str], str]) -> None:
        self._worker = worker
        self._pool = pool
        self._shown = shown
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        #: {key of a task that has sent output and not ended: topic, checksum}
        self._sending: dict[str, tuple[str, str]] = {}
        worker.handlers[outputs.WORKER_OUTPUT] = self._recent

    def of(self, job: Job, tf_checksum: str) -> Callable[[dict[str, Any]], float]:
        """Return the function that a process calls with output of a transformation.

        Any thread may call it. It returns the seconds until the next message.
        """
        topic = outputs.topic_of(job.script if job.streams else None)

        def send(message: dict[str, Any]) -> float:
            if threading.get_ident() == self._thread:
                self._send(topic, tf_checksum, job.key, message)
            else:
                self._loop.call_soon_threadsafe(
                    self._send, topic, tf_checksum, job.key, message
                )
            return max(INTERVAL, len(self._sending) / RATE)

        return send

    def _send(
        self, topic: str, tf_checksum: str, key: str, message: dict[str, Any]
    ) -> None:
        ended = bool(message["ended"])
        if ended:
            self._sending.pop(key, None)
        else:
            self._sending[key] = topic, tf_checksum
        event = outputs.event(
            key,
            tf_checksum,
            self._shown(key),
            message["number"],
            message["pieces"],
            ended,
        )
        self._worker.log_event(topic, event)

    def forget(self, key: str) -> None:
        """Note that a task has ended, in whatever way; tell it if it has not."""
        sending = self._sending.get(key)
        if sending is not None:
            self._send(*sending, key, CUT_OFF)

    async def _recent(self, **payload: Any) -> dict[str, Any]:
        """Answer the scheduler: the newest output of running transformations."""
        try:
            keys, stream = outputs.parse_request(payload)
        except InvalidMessage as problem:
            return {"status": "error", "errors": list(problem.errors)}
        asked: list[Awaitable[list[Any] | None]] = [
            self._pool.recent_output(key, stream=stream)
            for key in keys[: outputs.MAX_ASKED]
        ]
        answers = await asyncio.gather(*asked)
        found = dict(zip(keys, answers, strict=False))
        return {
            "status": "ok",
            "outputs": {k: pieces for k, pieces in found.items() if pieces is not None},
        }

    def close(self) -> None:
        """Answer no more."""
        self._worker.handlers.pop(outputs.WORKER_OUTPUT, None)

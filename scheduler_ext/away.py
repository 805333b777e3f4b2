"""Keeps the transformations of a client whose connection has timed out.

Dask forgets a client with its connection, and ends the tasks that only that client wants.
If the client is gone, that is right. But a connection also ends if no packet arrives for 30 s
(``distributed.comm.timeouts.tcp``), for instance while a laptop changes its network. The
client then connects again and submits the same tasks. Here a client of our own wants them
until that has happened, for a while.
"""

from __future__ import annotations

import errno
import logging
from collections import Counter
from typing import Any, cast

from distributed.scheduler import Scheduler

from .activity import UNFINISHED
from .task_keys import is_transformation

logger = logging.getLogger(__name__)

#: seconds for which the tasks of a client that is away are kept
PATIENCE = 120.0
#: how the names of our own clients begin
PREFIX = "seamless-away-"
#: errors of a connection whose other end cannot be reached any more
_UNREACHABLE = {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH}


class Away:
    """The clients that are away."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        #: {client: its connections that the scheduler has not given up}
        self._connections: Counter[str] = Counter()
        #: {client: the stream of its connection, whose `error` is why it ended}
        self._streams: dict[str, Any] = {}
        #: {client: `time.monotonic` until which its tasks are kept}
        self._until: dict[str, float] = {}

    def saw(self, event: Any, now: float) -> None:
        """The scheduler logged an event under the topic "all"."""
        action = event.get("action") if isinstance(event, dict) else None
        if action == "add-client":
            client = str(event["client"])
            if client in self._scheduler.clients:
                # It is here again before its old connection has ended.
                self._keep(client, now)
                self._release(client, self._wanted(client))
            self._connections[client] += 1
        elif action == "remove-client":
            client = str(event["client"])
            stream = self._streams.pop(client, None)
            self._connections[client] -= 1
            is_here_again = self._connections[client] > 0
            if not is_here_again:
                del self._connections[client]
            error = getattr(getattr(stream, "error", None), "errno", None)
            if is_here_again or error in _UNREACHABLE:
                self._keep(client, now)

    def beat(self, now: float) -> None:
        """Learn of new connections; give up what clients want again, or for ever."""
        for client, comm in self._scheduler.client_comms.items():
            if client not in self._streams:
                self._streams[client] = getattr(comm.comm, "stream", None)
        for client, until in list(self._until.items()):
            ours = PREFIX + client
            tasks = self._scheduler.clients[ours].wants_what
            self._release(
                ours,
                [
                    cast(str, task.key)
                    for task in tasks
                    if now >= until or len(task.who_wants or ()) > 1
                ],
            )
            if not tasks:
                del self._until[client]
                del self._scheduler.clients[ours]

    def clear(self) -> None:
        """No task is left."""
        for client in self._until:
            self._scheduler.clients.pop(PREFIX + client, None)
        self._until.clear()

    def _wanted(self, client: str) -> list[str]:
        found = self._scheduler.clients.get(client)
        return [] if found is None else [cast(str, t.key) for t in found.wants_what]

    def _keep(self, client: str, now: float) -> None:
        tasks = self._scheduler.tasks
        keys = [
            key
            for key in self._wanted(client)
            if is_transformation(key) and tasks[key].state in UNFINISHED
        ]
        if keys:
            logger.info("%s is away: its %d tasks are kept", client, len(keys))
            self._scheduler.client_desires_keys(keys=keys, client=PREFIX + client)
            self._until[client] = now + PATIENCE

    def _release(self, client: str, keys: list[str]) -> None:
        if keys:
            self._scheduler.client_releases_keys(keys=keys, client=client)

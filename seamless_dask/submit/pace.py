"""Submits no faster than the scheduler processes submissions.

The scheduler processes them one by one, and reads nothing else from a client meanwhile.
With thousands of them that takes longer than the operating system lets a connection
wait. The system then cuts the connection, and the tasks of the client are lost. So the
client regularly asks the scheduler, on the same connection, how many it has processed.
"""

from __future__ import annotations

import asyncio
import threading

from distributed import Client

from scheduler_ext.messages import PUSH_SEEN, mark

#: submissions, at most, that the scheduler has not confirmed yet
AHEAD = 500
#: submissions after which the scheduler is asked
EVERY = 50
#: seconds without an answer after which it is asked again: the question may have been
#: lost with the connection
AGAIN = 5.0


class Pace:
    """Counts the submissions of one client.

    Parameters
    ----------
    client
        The client that makes them.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        #: tasks that wait for a slot on the scheduler, by its last answer
        self.held = 0
        self._sent = 0
        self._seen = 0
        self._waiters: set[asyncio.Future[None]] = set()
        client._stream_handlers[PUSH_SEEN] = self._on_seen

    @property
    def ahead(self) -> int:
        """Submissions that the scheduler has not confirmed yet."""
        return self._sent - self._seen

    def sent(self) -> None:
        """Count a submission; from any thread, after it was made."""
        with self._lock:
            self._sent += 1
            ask = self._sent % EVERY == 0
        if ask:
            self._ask()

    def _ask(self) -> None:
        self._client._send_to_scheduler(mark(self._sent))

    def _on_seen(self, number: int, held: int) -> None:
        self._seen, self.held = max(self._seen, number), held
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def keep(self) -> None:
        """Wait until the scheduler is not too far behind; on the client's loop."""
        while self.ahead >= AHEAD and self._client.status in ("running", "connecting"):
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                done, _ = await asyncio.wait({waiter}, timeout=AGAIN)
                if not done:
                    self._ask()
            finally:
                self._waiters.discard(waiter)

"""Submits no faster than the scheduler takes submissions in.

The scheduler takes them in one by one, and reads nothing else from a client meanwhile.
With thousands before it that takes longer than the system lets a connection wait: it is
cut, with all that the client has submitted. So every now and then the scheduler is asked,
on the same connection, to say how far it is.
"""

from __future__ import annotations

import asyncio
import threading

from distributed import Client

from scheduler_ext.messages import PUSH_SEEN, mark

#: submissions that the scheduler may not have seen yet
AHEAD = 500
#: submissions after which it is asked
EVERY = 50
#: seconds without an answer after which it is asked again: the connection may have been
#: lost, with the question
AGAIN = 5.0


class Pace:
    """Counts the submissions of one client.

    Parameters
    ----------
    client
        By which they are made.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._sent = 0
        self._seen = 0
        self._waiters: set[asyncio.Future[None]] = set()
        client._stream_handlers[PUSH_SEEN] = self._on_seen

    @property
    def ahead(self) -> int:
        """Submissions that the scheduler has not said to have seen."""
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

    def _on_seen(self, number: int) -> None:
        self._seen = max(self._seen, number)
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

"""Submits no more, and no faster, than the scheduler can use.

The scheduler processes submissions one by one, and reads nothing else from a client
meanwhile. With thousands of them that takes longer than the operating system lets a
connection wait. The system then cuts the connection, and the tasks of the client are lost.
So the client regularly asks the scheduler, on the same connection, how many it has
processed.

A task that cannot run soon costs memory and time of the scheduler, for nothing. So the
client keeps back what goes beyond some thousands, in order of arrival, until tasks that it
has submitted have ended; the scheduler is told how many that are.

Nothing that the scheduler has can wait for something that is kept back: a transformation
is submitted after its inputs, and neither the calls of transformations nor optional work
that has its slot are kept back.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable

from distributed import Client

from scheduler_ext.messages import PUSH_SEEN, mark
from scheduler_ext.sent_messages import keep_few

#: submissions, at most, that the scheduler has not confirmed yet
AHEAD = 500
#: submissions after which the scheduler is asked
EVERY = 50
#: seconds without an answer after which it is asked again: the question may have been
#: lost with the connection
AGAIN = 5.0
#: tasks, at most, that are submitted and have not ended, besides `PER_SLOT` for each slot
#: of the cluster
UNENDED = 2_000
PER_SLOT = 2


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
        #: slots of the cluster, by the same answer
        self._capacity = 0
        self._sent = 0
        self._seen = 0
        #: submissions whose task has not ended
        self._unended = 0
        #: transformations that have room, and are about to be submitted
        self._admitted = 0
        #: transformations that are kept back
        self._line: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        #: how many are kept back, as the scheduler was told
        self._told = 0
        #: those in `keep`, in order: a task is submitted after those that it needs
        self._waiters: dict[asyncio.Future[None], None] = {}
        #: called when fewer are kept back
        self.on_room: Callable[[], object] = lambda: None
        #: further transformations, which have not even begun to be evaluated
        self.not_begun: Callable[[], int] = lambda: 0
        client._stream_handlers[PUSH_SEEN] = self._on_seen

    @property
    def ahead(self) -> int:
        """Submissions that the scheduler has not confirmed yet."""
        return self._sent - self._seen

    @property
    def kept_back(self) -> int:
        """Transformations that wait until others have ended."""
        return len(self._line)

    def sent(self) -> None:
        """Count a submission; from any thread, after it was made."""
        with self._lock:
            self._sent += 1
            ask = self._sent % EVERY == 0
        keep_few(self._client.scheduler_comm)  # there is another after an outage
        if ask:
            self._ask()

    def _not_submitted(self) -> int:
        return self.kept_back + self.not_begun()

    def _ask(self) -> None:
        self._told = self._not_submitted()
        self._client._send_to_scheduler(mark(self._sent, self._told))

    def _on_seen(self, number: int, held: int, capacity: int) -> None:
        self._seen, self.held = max(self._seen, number), held
        self._capacity = capacity
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._let_in()

    def _connected(self) -> bool:
        return self._client.status in ("running", "connecting")

    async def keep(self) -> None:
        """Wait until the scheduler is not too far behind; on the client's loop."""
        while self.ahead >= AHEAD and self._connected():
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters[waiter] = None
            try:
                done, _ = await asyncio.wait({waiter}, timeout=AGAIN)
                if not done:
                    self._ask()
            finally:
                del self._waiters[waiter]

    # -- how many there are at the scheduler -------------------------------------

    def _full(self) -> bool:
        there = self._unended + self._admitted
        return there >= UNENDED + PER_SLOT * self._capacity and self._connected()

    def began(self) -> None:
        """Count a task that has not ended; from any thread."""
        with self._lock:
            self._unended += 1

    def ended(self) -> None:
        """A task that was counted has ended; on the client's loop."""
        with self._lock:
            self._unended -= 1
        self._let_in()

    async def admit(self) -> bool:
        """Wait until there is room for another task; on the client's loop.

        `submitted` must follow, whether the task was submitted or not.

        Returns
        -------
        bool
            Whether that took time.
        """
        if not (self.kept_back or self._full()):
            self._admitted += 1
            return False
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line[waiter] = None
        self.tell()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                self._line.pop(waiter, None)
                self._let_in()
            else:
                self.submitted()
            raise
        return True

    def submitted(self) -> None:
        """A transformation that was admitted has its task, or needs none."""
        self._admitted -= 1
        self._let_in()

    def _let_in(self) -> None:
        while self._line and not self._full():
            waiter, _ = self._line.popitem(last=False)
            if not waiter.done():
                self._admitted += 1
                waiter.set_result(None)
        self.tell()
        self.on_room()

    def tell(self) -> None:
        """Tell the scheduler how many are kept back, if that has changed much.

        Called on the client's loop.
        """
        now, told = self._not_submitted(), self._told
        if abs(now - told) > told // 10 if now else told:
            if self._connected():
                self._ask()

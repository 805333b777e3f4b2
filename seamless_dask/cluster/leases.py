"""How a Dask worker asks the permission manager for leases and gives them back."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from scheduler_ext import messages

from ..errors import LeaseRefused

if TYPE_CHECKING:
    from distributed import Worker

logger = logging.getLogger(__name__)

#: seconds between tries to reach a scheduler that does not answer
RETRY_INTERVAL = 1.0
#: leases that one message asks for, at the most
MAX_BATCH = 1000

#: Numbers the leases of this process. Module-wide, because an id that was given back is
#: never granted again, and a worker that is reconfigured makes new `Leases`.
_numbers = itertools.count(1)


def ignore(**_message: Any) -> None:
    """Handle a message for which it is too late."""


class Lease(str):
    """The id of a held lease; when this object is deleted, the lease is given back.

    A caller that is cancelled at the moment of the grant may never receive the object.
    """

    #: the object that acquired it; None once the lease is over
    leases: Leases | None = None

    def __del__(self) -> None:
        if self.leases is not None:
            self.leases.thrown_away(str(self))


class Leases:
    """Asks the scheduler for leases, many in one message.

    Lives on the event loop of the Dask worker. Requests and releases travel on
    different connections. So if the caller no longer wants a lease, it is released only
    after its request was answered; a request that was not sent yet is dropped.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._loop: asyncio.AbstractEventLoop | None = None
        #: {lease id: set when there is a decision}
        self._undecided: dict[str, asyncio.Future[None]] = {}
        #: {lease id: its request}, in the order of asking
        self._unsent: dict[str, dict[str, Any]] = {}
        #: ids whose request was sent and is not answered yet
        self._asked: set[str] = set()
        #: ids in `_asked` that their callers no longer want
        self._given_up: set[str] = set()
        #: live ids whose request was sent more than once: a copy that arrives after the
        #: lease is over would occupy a slot that no caller uses
        self._repeated: set[str] = set()
        self._sending: asyncio.Task[None] | None = None
        worker.stream_handlers[messages.PUSH_DECISIONS] = self.decided

    @property
    def _holder(self) -> str:
        """The name under which the scheduler knows this worker."""
        return cast(str, self._worker.contact_address)

    def close(self) -> None:
        """Stop taking decisions; requests that still wait are refused."""
        # A decision may be on its way, and an unknown message ends the connection.
        self._worker.stream_handlers[messages.PUSH_DECISIONS] = ignore
        for lease_id in self._undecided:
            self._give_up(lease_id)
        if self._sending is not None:
            self._sending.cancel()
        self._refuse(list(self._undecided), "the worker is closing")
        self._undecided.clear()

    async def acquire(
        self,
        key: str,
        owner: str | None,
        depth: int,
        resources: Mapping[str, float] | None = None,
    ) -> Lease:
        """Wait for the permission to run a nested transformation.

        Parameters
        ----------
        key
            Key of the Dask task that the lease is for.
        owner
            Key of the transformation that asks; None if that is not known.
        depth
            Depth in the tree of transformations, at least 1.
        resources
            Dask resources that the task needs on its worker.

        Returns
        -------
        Lease
            The caller gives it back with `release`, or calls `ended` if the lease has
            ended with its task.

        Raises
        ------
        LeaseRefused
        """
        lease_id = f"{self._worker.id}-{next(_numbers)}"
        self._loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = self._loop.create_future()
        self._undecided[lease_id] = future
        self._unsent[lease_id] = messages.lease_request(
            lease_id, key=key, owner=owner, depth=depth, resources=resources
        )
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        try:
            await future
        except LeaseRefused:
            if lease_id in self._repeated:
                self.release(lease_id)
            raise
        except BaseException:
            self._give_up(lease_id)
            raise
        finally:
            self._undecided.pop(lease_id, None)
        lease = Lease(lease_id)
        lease.leases = self
        return lease

    def _give_up(self, lease_id: str) -> None:
        """Drop or release a lease that its caller no longer waits for."""
        if self._unsent.pop(lease_id, None) is not None:
            return
        if lease_id in self._asked:
            self._given_up.add(lease_id)
        else:
            self.release(lease_id)

    def release(self, *lease_ids: str) -> None:
        """Give leases back; unknown or ended leases are ignored."""
        for lease in lease_ids:
            if isinstance(lease, Lease):
                lease.leases = None
        self._repeated.difference_update(lease_ids)
        comm = self._worker.batched_stream
        if lease_ids and comm is not None and not comm.closed():
            comm.send(messages.release(self._holder, lease_ids))

    def ended(self, lease: str) -> None:
        """Note that a lease has ended with its task, so it need not be released.

        If its request was repeated, it is released all the same, so that no late copy
        of the request is granted.
        """
        if lease in self._repeated:
            self.release(lease)
        elif isinstance(lease, Lease):
            lease.leases = None

    def thrown_away(self, lease_id: str) -> None:
        """Give back a lease whose `Lease` was deleted; called in any thread."""
        loop = self._loop
        if loop is not None and loop.is_running():
            loop.call_soon_threadsafe(self.release, lease_id)

    async def _send(self) -> None:
        try:
            while self._unsent:
                ids = list(itertools.islice(self._unsent, MAX_BATCH))
                batch = [self._unsent.pop(lease_id) for lease_id in ids]
                self._asked.update(ids)
                try:
                    await self._ask(batch)
                finally:
                    given_up = [i for i in ids if i in self._given_up]
                    self._given_up.difference_update(ids)
                    self._asked.difference_update(ids)
                    self.release(*given_up)
        finally:
            self._sending = None

    async def _ask(self, batch: list[dict[str, Any]]) -> None:
        """Ask for leases, and process the scheduler's answer."""
        try:
            answer = await self._ask_until_answered(batch)
        except Exception as error:
            # whatever the error is, no caller may wait for ever
            logger.exception("%d leases cannot be asked for", len(batch))
            answer = {"status": "error", "errors": [repr(error)]}
        if answer.get("status") == "ok":
            self.decided(answer["granted"], answer["refused"])
        elif len(batch) == 1:
            reason = f"the scheduler did not accept the request: {answer}"
            self._refuse([batch[0]["id"]], reason)
        else:  # a faulty request must not make the others fail
            half = len(batch) // 2
            await self._ask(batch[:half])
            await self._ask(batch[half:])

    async def _ask_until_answered(self, batch: list[dict[str, Any]]) -> dict[str, Any]:
        arguments = messages.lease_requests(self._holder, batch)
        while True:
            try:
                ask = getattr(self._worker.scheduler, messages.OP_REQUEST)
                return await ask(**arguments)
            except OSError as error:
                # Requests have ids, so asking twice changes nothing.
                logger.warning(
                    "The scheduler does not answer (%r), trying again", error
                )
                self._repeated.update(request["id"] for request in batch)
                await asyncio.sleep(RETRY_INTERVAL)

    def decided(
        self,
        granted: list[str] | tuple[str, ...] = (),
        refused: dict[str, str] | None = None,
    ) -> None:
        """Process decisions, from an answer or pushed by the scheduler."""
        for lease_id in granted:
            future = self._undecided.get(lease_id)
            if future is not None and not future.done():
                future.set_result(None)
        for lease_id, reason in (refused or {}).items():
            self._refuse([lease_id], reason)

    def _refuse(self, lease_ids: list[str], reason: str) -> None:
        for lease_id in lease_ids:
            future = self._undecided.get(lease_id)
            if future is not None and not future.done():
                future.set_exception(LeaseRefused(reason))

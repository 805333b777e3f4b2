"""How a Dask worker asks the permission manager for leases and gives them back."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from scheduler_ext import messages

from ..errors import LeaseRefused

if TYPE_CHECKING:
    from distributed import Worker

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
    """Asks the scheduler for leases; lives on the event loop of the Dask worker.

    Requests and releases travel on the worker's stream, so they arrive in order. If the
    stream is lost, the scheduler ends all leases of the worker, and the worker closes.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._loop: asyncio.AbstractEventLoop | None = None
        #: {lease id: set when there is a decision}
        self._undecided: dict[str, asyncio.Future[None]] = {}
        worker.stream_handlers[messages.PUSH_DECISIONS] = self.decided

    @property
    def _holder(self) -> str:
        """The name under which the scheduler knows this worker."""
        return cast(str, self._worker.contact_address)

    def close(self) -> None:
        """Stop taking decisions; requests that still wait are refused."""
        # A decision may be on its way, and an unknown message ends the connection.
        self._worker.stream_handlers[messages.PUSH_DECISIONS] = ignore
        self.release(*self._undecided)
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
        request = messages.lease_request(
            lease_id, key=key, owner=owner, depth=depth, resources=resources
        )
        self._undecided[lease_id] = future
        try:
            if not self._send(messages.request(request)):
                raise LeaseRefused("the connection to the scheduler is lost")
            try:
                await future
            except LeaseRefused:
                raise
            except BaseException:
                self.release(lease_id)
                raise
        finally:
            self._undecided.pop(lease_id, None)
        lease = Lease(lease_id)
        lease.leases = self
        return lease

    def release(self, *lease_ids: str) -> None:
        """Give leases back; unknown or ended leases are ignored."""
        for lease in lease_ids:
            if isinstance(lease, Lease):
                lease.leases = None
        if lease_ids:
            self._send(messages.release(self._holder, lease_ids))

    def _send(self, message: dict[str, Any]) -> bool:
        """Send a message to the scheduler; False if the stream is closed."""
        comm = self._worker.batched_stream
        if comm is None or comm.closed():
            return False
        comm.send(message)
        return True

    def ended(self, lease: str) -> None:
        """Note that a lease has ended with its task, so it need not be released."""
        if isinstance(lease, Lease):
            lease.leases = None

    def thrown_away(self, lease_id: str) -> None:
        """Give back a lease whose `Lease` was deleted; called in any thread."""
        loop = self._loop
        if loop is not None and loop.is_running():
            loop.call_soon_threadsafe(self.release, lease_id)

    def decided(
        self,
        granted: list[str] | tuple[str, ...] = (),
        refused: dict[str, str] | None = None,
    ) -> None:
        """Process decisions of the scheduler."""
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

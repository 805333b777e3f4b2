"""A worker's side of the permission manager: asks for leases, learns decisions."""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Worker

logger = logging.getLogger(__name__)

DECISIONS = "seamless_decisions"
RELEASE = "seamless_release"
#: seconds between tries to reach a scheduler that does not answer
RETRY_INTERVAL = 1.0


class LeaseRefused(RuntimeError):
    """The permission manager refused a nested transformation; the text says why."""


class Leases:
    """Asks the scheduler for leases, many in one message.

    Lives on the event loop of the Dask worker.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._ids = itertools.count(1)
        self._undecided: dict[str, asyncio.Future[None]] = {}
        self._unsent: list[dict[str, Any]] = []
        self._sending: asyncio.Task[None] | None = None
        worker.stream_handlers[DECISIONS] = self.decided

    def close(self) -> None:
        """Stop listening; whoever still waits is told."""
        self._worker.stream_handlers.pop(DECISIONS, None)
        if self._sending is not None:
            self._sending.cancel()
        for future in self._undecided.values():
            if not future.done():
                future.set_exception(LeaseRefused("the worker is closing"))
        self._undecided.clear()

    async def acquire(self, key: str, owner: str | None, depth: int) -> str:
        """Wait for the permission to run a nested transformation.

        Parameters
        ----------
        key
            Key of the Dask task that it is for.
        owner
            Key of the transformation that asks; None if that is not known.
        depth
            Depth in the tree of transformations, at least 1.

        Returns
        -------
        str
            The id of the lease, to be given back with `release`.

        Raises
        ------
        LeaseRefused
        """
        lease_id = f"{self._worker.id}-{next(self._ids)}"
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._undecided[lease_id] = future
        self._unsent.append(
            {"id": lease_id, "key": key, "owner": owner, "depth": depth, "wait": True}
        )
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        try:
            await future
        except BaseException:
            self.release(lease_id)
            raise
        finally:
            self._undecided.pop(lease_id, None)
        return lease_id

    def release(self, lease_id: str) -> None:
        """Give a lease back; unknown or ended ones change nothing."""
        comm = self._worker.batched_stream
        if comm is not None and not comm.closed():
            comm.send(
                {
                    "op": RELEASE,
                    "holder": self._worker.contact_address,
                    "ids": [lease_id],
                }
            )

    async def _send(self) -> None:
        try:
            while self._unsent:
                batch, self._unsent = self._unsent, []
                answer = await self._ask(batch)
                if answer.get("status") != "ok":
                    reason = f"the scheduler did not accept the request: {answer}"
                    self.decided(refused={r["id"]: reason for r in batch})
                    continue
                self.decided(answer["granted"], answer["refused"])
        finally:
            self._sending = None

    async def _ask(self, batch: list[dict[str, Any]]) -> dict[str, Any]:
        while True:
            try:
                return await self._worker.scheduler.seamless_request(
                    holder=self._worker.contact_address, requests=batch
                )
            except OSError as exc:
                # Requests have ids, so asking twice changes nothing.
                logger.warning("The scheduler does not answer (%r), trying again", exc)
                await asyncio.sleep(RETRY_INTERVAL)

    def decided(
        self,
        granted: list[str] | tuple[str, ...] = (),
        refused: dict[str, str] | None = None,
    ) -> None:
        """Take note of decisions, from an answer or pushed by the scheduler."""
        for lease_id in granted:
            future = self._undecided.get(lease_id)
            if future is not None and not future.done():
                future.set_result(None)
        for lease_id, reason in (refused or {}).items():
            future = self._undecided.get(lease_id)
            if future is not None and not future.done():
                future.set_exception(LeaseRefused(reason))

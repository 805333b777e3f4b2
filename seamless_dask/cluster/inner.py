"""Nested work of processes that a transformation has started.

``seamless-run`` in a bash transformation, for instance, is not a Seamless process, so
the Dask worker does not notice that the transformation waits for nested work. Such a
process therefore tells the Dask worker under which it runs, and asks for its leases
itself.

It finds in its environment the address of the Dask worker, the name of the Seamless
process and, in bash transformations, the key of the task.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scheduler_ext.fields import MAX_WAIT_SECONDS
from scheduler_ext.messages import lease_request

from ..errors import LeaseRefused
from . import scheduler
from .environment import OWNER_ENV, PROCESS_ENV, WORKER_ENV

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger(__name__)

#: RPC call of a Dask worker; see `seamless_dask.worker.callers`
CALLER_WAITS = "seamless_caller_waits"


@dataclass(frozen=True)
class InnerLease:
    """Permission for one nested transformation, and its depth in the tree."""

    id: str
    depth: int


@dataclass(frozen=True)
class _Caller:
    """The transformation that waits; the key is None if that is not known."""

    key: str | None = None
    depth: int = 0


class InnerLeases:
    """Asks the permission manager for leases; lives on the client's event loop."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ids = itertools.count(1)
        self._announcement: asyncio.Task[_Caller] | None = None

    async def acquire(self, key: str, resources: Mapping[str, float]) -> InnerLease:
        """Wait for a lease for a nested transformation.

        Parameters
        ----------
        key
            Key of its Dask task.
        resources
            Dask resources that the task needs on its worker.

        Raises
        ------
        LeaseRefused
        """
        if self._announcement is None:
            self._announcement = asyncio.create_task(self._announce())
        caller = await asyncio.shield(self._announcement)
        lease = InnerLease(f"{self._client.id}-{next(self._ids)}", caller.depth + 1)
        request = lease_request(
            lease.id,
            key=key,
            owner=caller.key,
            depth=lease.depth,
            resources=resources,
        )
        try:
            answer = await scheduler.ask_for_lease(
                self._client, request, MAX_WAIT_SECONDS
            )
        except RuntimeError as error:
            raise LeaseRefused(str(error)) from error
        if lease.id in answer["refused"]:
            self.release(lease)  # no copy of the request may be granted later
            raise LeaseRefused(answer["refused"][lease.id])
        return lease

    def release(self, lease: InnerLease) -> None:
        """Give a lease back, without waiting; any thread may call."""
        scheduler.release_lease(self._client, lease.id)

    async def _announce(self) -> _Caller:
        """Tell the Dask worker that a transformation waits for this process."""
        address = os.environ.get(WORKER_ENV)
        if address is None:
            return _Caller()
        try:
            worker: Any = self._client.rpc(address)
            answer = await getattr(worker, CALLER_WAITS)(
                process=os.environ.get(PROCESS_ENV), key=os.environ.get(OWNER_ENV)
            )
        except OSError as error:
            logger.warning("The Dask worker %s does not answer: %r", address, error)
            return _Caller()
        return _Caller(answer["key"], answer["depth"])

"""RPC calls of clients to the scheduler: leases, cancellation, status."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from distributed import Client
from distributed.client import ClosedClientError

from scheduler_ext import messages
from scheduler_ext.task_keys import TOP_LEVEL_RESOURCE

logger = logging.getLogger(__name__)

#: key of the scheduler's metadata: Seamless processes that each Dask worker is to run,
#: if the cluster says so
PROCESSES = "seamless-processes"
#: seconds between tries to reach a scheduler that does not answer
RETRY_INTERVAL = 1.0


def rpc(client: Client) -> Any:
    """Return the object whose attributes are the scheduler's RPC calls."""
    return client.scheduler


def call(client: Client, op: str, **arguments: Any) -> Any:
    """Call the scheduler and wait; in any thread except that of the client's loop."""

    async def answer() -> Any:
        return await getattr(rpc(client), op)(**arguments)

    return client.sync(answer)


async def ask_for_lease(
    client: Client, request: Mapping[str, Any], wait_seconds: float = 0.0
) -> dict[str, Any]:
    """Ask the permission manager for one lease on behalf of a client.

    The request is repeated until the scheduler answers or the client ends. If the caller
    is cancelled before the answer, the lease is given back, whether the request has
    arrived or not.

    Parameters
    ----------
    client
        The client that will hold the lease; the call must run on its event loop.
    request
        See `scheduler_ext.messages.lease_request`.
    wait_seconds
        How long the scheduler may wait for a slot before it answers.

    Returns
    -------
    dict
        ``granted`` (ids) and ``refused`` ({id: reason}).

    Raises
    ------
    RuntimeError
        If the scheduler did not accept the request.
    OSError
        If it does not answer, and the client has ended.
    """
    try:
        answer = await _until_answered(client, request, wait_seconds)
    except BaseException:
        release_lease(client, request["id"])
        raise
    if answer.get("status") != "ok":
        raise RuntimeError(f"The scheduler rejected a permission request: {answer}")
    return answer


async def _until_answered(
    client: Client, request: Mapping[str, Any], wait_seconds: float
) -> dict[str, Any]:
    arguments = messages.lease_requests(client.id, [request], wait_seconds)
    while True:
        try:
            return await getattr(rpc(client), messages.OP_REQUEST)(**arguments)
        except OSError as error:
            if client.status in ("closing", "closed"):
                raise
            # Requests have ids, so asking twice changes nothing.
            logger.warning("The scheduler does not answer (%r), trying again", error)
            await asyncio.sleep(RETRY_INTERVAL)


def release_lease(client: Client, lease_id: str) -> None:
    """Give a lease of a client back, without waiting; any thread may call.

    The message travels on the client's stream. If that is lost, the scheduler ends all
    leases of the client.
    """
    _tell(client, messages.release(client.id, [lease_id]))


def fell_back(client: Client, key: str) -> None:
    """Tell the scheduler that a task for which there was no room runs here."""
    _tell(client, messages.fallback(key))


def _tell(client: Client, message: Mapping[str, Any]) -> None:
    """Send a message that has no answer; a closed client sends none."""
    try:
        client._send_to_scheduler(message)
    except ClosedClientError as error:
        logger.debug("%s is not sent: %s", message, error)


async def has_room(
    client: Client, key: str, resources: Mapping[str, float]
) -> str | None:
    """Ask for a lease for a top-level task that need not run on the cluster.

    Parameters
    ----------
    client
        The client that will submit the task.
    key
        Key of the task; the lease ends with it.
    resources
        Dask resources that the task needs on its worker.

    Returns
    -------
    str or None
        The id of the lease, for `release_lease` if the task is not submitted after
        all. None if there is no room.
    """
    lease_id = f"{client.id}-{key}-{uuid.uuid4().hex}"
    needed = {TOP_LEVEL_RESOURCE: 1.0, **resources}
    request = messages.lease_request(lease_id, key=key, wait=False, resources=needed)
    answer = await ask_for_lease(client, request)
    return lease_id if answer["granted"] else None


async def status(client: Client) -> dict[str, Any]:
    """Return the status of the scheduler's plugin."""
    return await getattr(rpc(client), messages.OP_STATUS)()


async def cancel(client: Client, checksums: Iterable[str]) -> list[str]:
    """Cancel transformations; return the keys of the tasks that were cancelled."""
    call = getattr(rpc(client), messages.OP_CANCEL)
    answer = await call(**messages.cancel(checksums))
    if answer.get("status") != "ok":
        raise RuntimeError(f"The scheduler refused to cancel: {answer}")
    return list(answer["cancelled"])

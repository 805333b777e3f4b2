"""What clients ask of the scheduler: the plugin, the worker plugin, RPC calls."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from distributed import Client
from distributed.client import ClosedClientError

import scheduler_ext
from scheduler_ext import messages

from .leases import RETRY_INTERVAL
from .record_mode import RECORD_MODE, RecordModeMismatch

logger = logging.getLogger(__name__)

#: where a cluster remembers how its workers were configured (Dask metadata)
CONFIGURATION = "seamless-worker-configuration"
#: where it remembers the cluster and queue that records name
SELECTION = "seamless-selection"
PRELOAD = "dask scheduler --preload scheduler_ext.preload"


def rpc(client: Client) -> Any:
    """Return the object whose attributes are the scheduler's RPC calls."""
    return client.scheduler


def _sync(client: Client, op: str, **arguments: Any) -> Any:
    async def call() -> Any:
        return await getattr(rpc(client), op)(**arguments)

    return client.sync(call)


def ensure_plugin(client: Client) -> None:
    """Make sure that the scheduler runs our plugin in our version.

    Raises
    ------
    RuntimeError
        If it does not and cannot be made to; the message says what to do.
    """
    answer = _sync(client, messages.OP_VERSION)
    if answer is None:
        try:
            client.run_on_scheduler(scheduler_ext.install)
        except Exception as exc:
            raise RuntimeError(
                "The Dask scheduler runs without the Seamless plugin and does not let "
                f"a client install it ({exc!r}). Start it as: {PRELOAD}"
            ) from exc
        answer = _sync(client, messages.OP_VERSION)
        if answer is None:
            raise RuntimeError(
                "The Seamless plugin was installed in the Dask scheduler but does not "
                f"answer. Start the scheduler as: {PRELOAD}"
            )
    if answer.get("protocol") != scheduler_ext.PROTOCOL:
        raise RuntimeError(
            "The Dask scheduler's Seamless plugin has version "
            f"{answer.get('version')} (protocol {answer.get('protocol')}), this "
            f"client has {scheduler_ext.__version__} (protocol "
            f"{scheduler_ext.PROTOCOL}): restart the cluster with the same version"
        )


def ensure_record_mode(client: Client, record: bool) -> None:
    """Make sure that cluster and client agree on whether full records are written.

    The wrapper has told the scheduler; otherwise the first client decides.

    Raises
    ------
    RecordModeMismatch
        If they differ.
    """
    present = client.get_metadata([RECORD_MODE], default=None)
    if present is None:
        client.set_metadata([RECORD_MODE], record)
    elif present != record:
        raise RecordModeMismatch(client=record, cluster=present)


def ensure_worker_plugin(
    client: Client,
    *,
    processes: int,
    remote_clients: Mapping[str, Any] | None,
    record: bool = False,
    selection: Mapping[str, Any] | None = None,
) -> None:
    """Make sure that every Dask worker, present or future, runs our worker plugin.

    A client without `remote_clients` never changes a cluster that somebody else has
    configured. One with other services than the cluster's reconfigures the workers:
    a hashserver that was restarted has another port. One that selects another cluster
    or queue does not: the workers stay where they are.

    Raises
    ------
    RuntimeError
        In record mode, if the workers' cluster or queue is another than `selection`.
    """
    from ..worker.plugin import SeamlessWorkerPlugin

    configuration = {
        "processes": processes,
        "remote_clients": None if remote_clients is None else dict(remote_clients),
    }
    text = json.dumps(configuration, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    present = client.get_metadata([CONFIGURATION], default=None)
    if present is not None and remote_clients is None:
        return
    selected = _selected(selection)
    if present is not None:
        _check_selection(client, selected, record)
    if present == digest:
        return
    if present is not None:
        logger.info("The services of the cluster have changed: configuring workers")
    plugin = SeamlessWorkerPlugin(
        processes, remote_clients, record=record, selection=selection
    )
    client.register_plugin(plugin)
    client.set_metadata([CONFIGURATION], digest)
    client.set_metadata([SELECTION], selected)


def _selected(selection: Mapping[str, Any] | None) -> str | None:
    if selection is None:
        return None
    return f"cluster {selection['cluster']!r}, queue {selection['queue']!r}"


def _check_selection(client: Client, selected: str | None, record: bool) -> None:
    present = client.get_metadata([SELECTION], default=None)
    if selected == present:
        return
    message = (
        f"The Dask cluster runs in {present}, this client selects {selected}: restart "
        "the daskserver to change that"
    )
    if record:
        raise RuntimeError(message)
    logger.warning(message)


async def ask_for_lease(
    client: Client, request: Mapping[str, Any], wait_seconds: float = 0.0
) -> dict[str, Any]:
    """Ask the permission manager for one lease on behalf of a client.

    It asks again while the scheduler does not answer and the client has not ended. A
    lease whose answer nobody awaits any more is given back, whether the request has
    arrived or not.

    Parameters
    ----------
    client
        The client that will hold the lease; on its event loop.
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
    try:
        client._send_to_scheduler(messages.release(client.id, [lease_id]))
    except ClosedClientError as error:
        logger.debug("Lease %s ended with its client: %s", lease_id, error)


async def has_room(client: Client, key: str) -> str | None:
    """Ask for a lease for a top-level task that need not run on the cluster.

    Parameters
    ----------
    client
        The client that will submit the task.
    key
        Key of the task; the lease ends with it.

    Returns
    -------
    str or None
        The id of the lease, for `release_lease` if the task is not submitted after
        all. None if there is no room.
    """
    lease_id = f"{client.id}-{key}-{uuid.uuid4().hex}"
    request = messages.lease_request(lease_id, key=key, wait=False)
    answer = await ask_for_lease(client, request)
    return lease_id if answer["granted"] else None


async def status(client: Client) -> dict[str, Any]:
    """Return what the scheduler's plugin knows."""
    return await getattr(rpc(client), messages.OP_STATUS)()


async def cancel(client: Client, checksums: Iterable[str]) -> list[str]:
    """Cancel transformations; return the keys of the tasks that were cancelled."""
    call = getattr(rpc(client), messages.OP_CANCEL)
    answer = await call(**messages.cancel(checksums))
    if answer.get("status") != "ok":
        raise RuntimeError(f"The scheduler refused to cancel: {answer}")
    return list(answer["cancelled"])

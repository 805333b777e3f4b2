"""Permission to run a nested transformation, as seamless-transformer asks for it.

The permission manager itself lives in the Dask scheduler
(``scheduler_ext.permission.machine``) and is reached by RPC. This module only keeps the
ids of the leases that were granted. Seamless calls these functions without arguments, so
a lease made here is bound to no task; it ends with its release, with its process, or by
timeout.

The light import matters: every Seamless process imports this module.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .submit.submitter import Submitter

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Settings:
    rpc_timeout: float = 5.0


_settings = _Settings()
#: leases that were granted and not released; appending and popping are atomic
_leases: deque[str] = deque()
_ids = itertools.count(1)


def configure(*, rpc_timeout: float = 5.0) -> None:
    """Set how long a call may take.

    Parameters
    ----------
    rpc_timeout
        Seconds, above 0, for an answer of the scheduler. A request that gets none is
        denied.

    Raises
    ------
    ValueError
    """
    global _settings
    if not rpc_timeout > 0:
        raise ValueError(f"rpc_timeout: got {rpc_timeout!r}, allowed is more than 0")
    _settings = _Settings(rpc_timeout=float(rpc_timeout))


def _client() -> Submitter | None:
    from .transformer_client import get_seamless_dask_client

    return get_seamless_dask_client()


def try_request_permission() -> bool:
    """Ask for a permission without waiting for one.

    Returns
    -------
    bool
        False if the cluster is at capacity or the scheduler does not answer. Without a
        cluster there is nothing to protect: True.
    """
    return _request(0.0)


def request_permission(timeout: float = 60.0) -> bool:
    """Ask for a permission and wait for it.

    Parameters
    ----------
    timeout
        Seconds to wait at the most.

    Returns
    -------
    bool
        Whether it was granted.
    """
    return _request(timeout)


def _request(wait_seconds: float) -> bool:
    client = _client()
    if client is None:
        return True
    from scheduler_ext.messages import lease_request

    from .cluster.scheduler import ask_for_lease, release_lease

    lease = f"{client.client.id}-{os.getpid()}-{next(_ids)}"
    request = lease_request(lease, depth=1, wait=wait_seconds > 0)

    async def ask() -> dict[str, Any]:
        return await asyncio.wait_for(
            ask_for_lease(client.client, request, wait_seconds),
            timeout=wait_seconds + _settings.rpc_timeout,
        )

    asking = client.start(ask())
    try:
        answer = asking.result(timeout=wait_seconds + 2 * _settings.rpc_timeout)
    except BaseException as error:
        # The answer may have arrived although the caller was interrupted.
        if not asking.cancel():
            release_lease(client.client, lease)
        if not isinstance(error, (OSError, TimeoutError, asyncio.TimeoutError)):
            raise
        logger.warning("Permission denied: the scheduler does not answer (%r)", error)
        return False
    granted = lease in answer["granted"]
    if granted:
        _leases.append(lease)
    return granted


def release_permission() -> None:
    """Give back one permission; does not wait for the scheduler.

    The leases of this process are interchangeable: the oldest one is released. Without
    a lease, nothing happens.
    """
    client = _client()
    try:
        lease = _leases.popleft()
    except IndexError:
        return
    if client is None:
        return
    from .cluster.scheduler import release_lease

    release_lease(client.client, lease)


def shutdown_permission_manager() -> None:
    """Do nothing: the permission manager lives in the scheduler.

    seamless-transformer calls this whenever a Transformation is garbage collected, in
    any thread and in every process.
    """


__all__ = [
    "configure",
    "release_permission",
    "request_permission",
    "shutdown_permission_manager",
    "try_request_permission",
]

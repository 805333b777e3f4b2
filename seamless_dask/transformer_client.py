"""The client of this process, by which seamless-transformer finds us."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from .submit.forked_drivers import ForkedClient

if TYPE_CHECKING:
    from .submit.submitter import Submitter

_lock = threading.Lock()
_client: Submitter | None = None
#: id of the process that has set it
_process = 0


def get_seamless_dask_client() -> Submitter | None:
    """Return the client of this process, or None when Dask is not in use."""
    return _client


def set_seamless_dask_client(client: Submitter | None) -> None:
    """Make `client` the one that transformations of this process use.

    Parameters
    ----------
    client
        A `SeamlessDaskClient`, or any object with its documented methods. None ends
        the use of Dask in this process. The client that was set before is closed if it
        owns its cluster (as one made by ``create_dummy_client`` does); otherwise it is
        only forgotten.
    """
    global _client, _process
    if client is not None:
        from .neighbours import transformation_methods
        from .storage import outages
        from .submit import forked_drivers

        transformation_methods.install()
        outages.install()
        forked_drivers.install(forked)
    with _lock:
        previous, _client = _client, client
        _process = os.getpid()
    if previous is not None and previous is not client:
        detached = getattr(previous, "detached", None)
        if detached is not None:
            detached()


def forked() -> None:
    """Replace the client of the process from which this one was forked.

    Called in the new process, in which nobody else runs.
    """
    global _client, _lock, _process
    _lock = threading.Lock()  # a thread that is gone may have held it
    if _client is not None and not isinstance(_client, ForkedClient):
        _client = ForkedClient(_process)  # type: ignore[assignment]

"""The client of this process; seamless-transformer looks it up here."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from .submit.forked_drivers import ForkedClient

if TYPE_CHECKING:
    from .submit.submitter import Submitter

_lock = threading.Lock()
_client: Submitter | None = None
#: id of the process that has set the client
_process = 0


def get_seamless_dask_client() -> Submitter | None:
    """Return the client of this process, or None when Dask is not in use."""
    return _client


def set_seamless_dask_client(client: Submitter | None) -> None:
    """Set the client that transformations of this process use.

    Parameters
    ----------
    client
        A `SeamlessDaskClient`, or any object with its documented methods. None ends
        the use of Dask in this process. The previous client is closed if it owns its
        cluster (as a client made by ``create_dummy_client`` does); otherwise only the
        reference to it is dropped.
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

    Called in the new process, before it has any other thread.
    """
    global _client, _lock, _process
    _lock = threading.Lock()  # a thread of the parent process may have held it
    if _client is not None and not isinstance(_client, ForkedClient):
        _client = ForkedClient(_process)  # type: ignore[assignment]

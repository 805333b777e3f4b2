"""Makes the changes in other packages that a process with a client needs."""

from __future__ import annotations

from . import (
    bounded_tables,
    connections,
    event_loops,
    fewer_requests,
    own_random,
    write_order,
)


def prepare(*, worker: bool = False) -> None:
    """Make the changes in this process; idempotent.

    Parameters
    ----------
    worker
        Whether it is a Dask worker, which keeps fewer buffers.
    """
    bounded_tables.bound_tables(worker=worker)
    event_loops.install()
    own_random.install()
    fewer_requests.install()
    connections.install()
    write_order.install()

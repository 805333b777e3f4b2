"""Ways to cancel, and what is left after that."""

from __future__ import annotations

from typing import Any

from distributed import Client
from seamless.transformer import Transformation

from seamless_dask import SeamlessDaskClient

#: a guard, not the promise: tests share their machine
SOON = 20.0


def checksum_of(transformation: Transformation) -> str:
    return transformation.construct().hex()


def unfinished(client: SeamlessDaskClient) -> dict[str, str]:
    """Return the scheduler's transformations that have not ended."""

    def look(dask_scheduler: Any = None) -> dict[str, str]:
        return {
            key: task.state
            for key, task in dask_scheduler.tasks.items()
            if key.startswith("base") and task.state not in ("memory", "erred")
        }

    return client.client.run_on_scheduler(look)


def by_another_client(client: SeamlessDaskClient, tf: Transformation) -> None:
    """What ``seamless-cancel`` does, in a process of its own."""
    scheduler = client.client.scheduler.address
    with Client(scheduler, set_as_default=False) as dask_client:
        other = SeamlessDaskClient(dask_client, role="driver")
        assert other.cancel_by_checksum(checksum_of(tf))

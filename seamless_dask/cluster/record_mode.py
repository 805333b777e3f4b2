"""How the clients and the workers of a cluster agree on record mode.

In record mode each execution leaves a full record; otherwise a minimal one. The mode is
a property of the cluster: the wrapper receives it on launch and publishes it as Dask
metadata.
"""

from __future__ import annotations

from typing import Any

from ..errors import RecordModeMismatch

#: key of the scheduler's metadata; absent until the mode is decided
RECORD_MODE = "seamless-record-mode"


def publish(scheduler: Any, record: bool) -> None:
    """Set the mode of a cluster, in the process of its `distributed.Scheduler`."""
    scheduler.set_metadata(keys=[RECORD_MODE], value=record)


def check(cluster: bool | None) -> None:
    """Compare the record modes of this process and its cluster, if that has one.

    Raises
    ------
    RecordModeMismatch
    """
    if cluster is not None:
        record = of_this_process()
        if record != cluster:
            raise RecordModeMismatch(client=record, cluster=cluster)


def of_this_process() -> bool:
    """Return the record mode that seamless-config has here."""
    from seamless_transformer.record_runtime import get_record_mode

    return get_record_mode()


def set_in_this_process(record: bool) -> None:
    """Give a worker the record mode of its cluster."""
    from seamless_config.select import get_record, select_record

    if get_record() != record:
        select_record(record)

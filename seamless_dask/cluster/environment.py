"""The environment variables through which our processes pass on settings."""

from __future__ import annotations

import os

#: address of the scheduler: set in Seamless processes and their child processes
SCHEDULER_ENV = "SEAMLESS_DASK_SCHEDULER"
#: address of the Dask worker, set there as well
WORKER_ENV = "SEAMLESS_DASK_WORKER_ADDRESS"
#: number of Seamless processes of the Dask worker, set there as well
WORKERS_ENV = "SEAMLESS_DASK_WORKERS"
#: name of the Seamless process, for the processes that its jobs start
PROCESS_ENV = "SEAMLESS_DASK_PROCESS"
#: key of the Dask task, for the command of a bash transformation
OWNER_ENV = "SEAMLESS_DASK_OWNER"
#: cluster and queue of a worker, as JSON: see `seamless_dask.cluster.selection`
SELECTION_ENV = "SEAMLESS_DASK_SELECTION"
#: how many threads the libraries of a transformation may use, for Seamless processes
THREADS_ENV = "SEAMLESS_DASK_LIBRARY_THREADS"
#: the same text in all processes of a pool and their descendants; identifies them, also
#: when their parent process has ended
MARKER_ENV = "SEAMLESS_DASK_MARKER"
#: seconds without a sign of life after which a Seamless process is taken for dead; users
#: may set it
UNRESPONSIVE_LIMIT_ENV = "SEAMLESS_DASK_UNRESPONSIVE_LIMIT"
#: "1": a driver script shows the output of all its transformations while they run; "0",
#: the default: of those that ask for it. Users may set it
STREAMING_ENV = "SEAMLESS_DASK_STREAMING"
#: "1": a driver script that waits shows its progress; "0": it does not. Without it, it
#: does so on a terminal and in a notebook. Users may set it
PROGRESS_ENV = "SEAMLESS_DASK_PROGRESS"
#: "1" if the workers' queue assigns whole nodes, so that a worker may end as soon as its
#: work is done
EXCLUSIVE_ENV = "SEAMLESS_DASK_QUEUE_EXCLUSIVE"
#: hashservers and databases, as JSON; seamless-config reads it
REMOTE_CLIENTS_ENV = "SEAMLESS_REMOTE_CLIENTS"


def switch(name: str) -> bool | None:
    """Return whether a variable that users may set is "1"; None if it is not set.

    Raises
    ------
    ValueError
        If it is neither "0" nor "1".
    """
    value = os.environ.get(name)
    if value in (None, "0", "1"):
        return None if value is None else value == "1"
    raise ValueError(f"{name}: got {value!r}, allowed are '0' and '1'")

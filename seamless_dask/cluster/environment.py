"""The environment variables by which our processes tell each other what they must know."""

from __future__ import annotations

#: address of the scheduler: set in Seamless processes and what they start
SCHEDULER_ENV = "SEAMLESS_DASK_SCHEDULER"
#: address of the Dask worker, set there as well
WORKER_ENV = "SEAMLESS_DASK_WORKER_ADDRESS"
#: number of Seamless processes of the Dask worker, set there as well
WORKERS_ENV = "SEAMLESS_DASK_WORKERS"
#: set in each Seamless process, for the processes that jobs start: its name
PROCESS_ENV = "SEAMLESS_DASK_PROCESS"
#: set for the command of a bash transformation: the key of its Dask task
OWNER_ENV = "SEAMLESS_DASK_OWNER"
#: cluster and queue of a worker, as JSON: see `seamless_dask.cluster.selection`
SELECTION_ENV = "SEAMLESS_DASK_SELECTION"
#: how many threads the libraries of a transformation may use, for Seamless processes
THREADS_ENV = "SEAMLESS_DASK_LIBRARY_THREADS"
#: the same text in all processes of a pool and their descendants, by which these are
#: recognised, also when they have lost their parent
MARKER_ENV = "SEAMLESS_DASK_MARKER"
#: seconds without a sign of life after which a Seamless process is taken for dead; users
#: may set it
UNRESPONSIVE_LIMIT_ENV = "SEAMLESS_DASK_UNRESPONSIVE_LIMIT"
#: "1" if the workers' queue gives whole nodes, which end with the work
EXCLUSIVE_ENV = "SEAMLESS_DASK_QUEUE_EXCLUSIVE"
#: hashservers and databases, as JSON; seamless-config reads it
REMOTE_CLIENTS_ENV = "SEAMLESS_REMOTE_CLIENTS"

"""How many cores the libraries of a transformation may use: OpenMP, MKL, OpenBLAS.

Dask's nanny allows one thread, since many tasks run at the same time. If the node runs
one transformation at a time, or the worker has fewer threads than cores, more are free.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

from ..cluster.environment import THREADS_ENV

#: environment variables that the libraries read when they are loaded
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
#: value to which Dask's nanny sets them
DEFAULT = "1"
#: cores of the job, in the job scripts of SLURM
JOB_CORES_ENV = "PYTHON_CPU_COUNT"


def threads_per_transformation(
    *, cores: int, slots: int, threads: int, exclusive: bool
) -> int:
    """Return how many threads the libraries of one transformation may use.

    Parameters
    ----------
    cores
        CPU cores that the Dask worker may use.
    slots
        Transformations that its Seamless processes may execute at a time.
    threads
        Threads of the Dask worker, a limit for top-level transformations.
    exclusive
        Whether one top-level transformation executes at a time.

    Examples
    --------
    >>> threads_per_transformation(cores=72, slots=72, threads=72, exclusive=False)
    1
    >>> threads_per_transformation(cores=72, slots=72, threads=8, exclusive=False)
    9
    >>> threads_per_transformation(cores=64, slots=3, threads=3, exclusive=True)
    64
    """
    at_a_time = 1 if exclusive else max(1, min(slots, threads))
    return max(1, cores // at_a_time)


def cores_of_job(environment: Mapping[str, str], machine: int) -> int:
    """Return how many CPU cores a Dask worker may use.

    Parameters
    ----------
    environment
        Environment variables of the Dask worker.
    machine
        Cores that the system lets this process use.
    """
    said = environment.get(JOB_CORES_ENV, "")
    # SLURM writes "72(x2)" for jobs of several nodes; a Dask worker has one node.
    number = said.partition("(")[0]
    if number.isascii() and number.isdigit() and int(number) > 0:
        return min(int(number), machine)
    return machine


def allow(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set `VARIABLES` to the number of threads that the Dask worker allows.

    A value other than Dask's default, which a user has set, is kept.
    """
    threads = environment.get(THREADS_ENV)
    if threads is not None:
        for name in VARIABLES:
            if environment.get(name, DEFAULT) == DEFAULT:
                environment[name] = threads

"""Copies parts of our environment to jobs if the batch system does not.

SLURM and LSF start jobs in the environment of the submitting process. The others give
them the environment of a fresh login or less: without our PATH, and without variables
that this Python and its packages need.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from ..settings.parameters import Parameters

_INHERITING = ("slurm", "lsf")

#: Variables that Python, conda or the linker need to find the same files as here.
_FORWARDED = (
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "CONDA_EXE",
    "LANG",
    "LC_ALL",
)
#: Variables of Seamless that belong to one process, or that we set ourselves.
_PRIVATE = (
    "SEAMLESS_DASK_",
    "SEAMLESS_REMOTE_CLIENTS",
    "SEAMLESS_ALLOW_REMOTE_CLIENTS_IN_WORKER",
    "SEAMLESS_QUEUE_FILE",
    "SEAMLESS_WORKER_",
)
#: Settings whose names look private.
_PUBLIC = ("SEAMLESS_DASK_UNRESPONSIVE_LIMIT",)

#: Shell expressions for the number of CPU cores of a job, for Python >= 3.13.
_CPU_COUNT = {
    "slurm": "$SLURM_JOB_CPUS_PER_NODE",
    "sge": "$NSLOTS",
    "oar": '$(wc -l < "$OAR_NODEFILE")',
    "pbs": "$NCPUS",
    "lsf": "$LSB_DJOB_NUMPROC",
}


def inherited(
    parameters: Parameters, system: str, environment: Mapping[str, str]
) -> list[str]:
    """Shell lines that give a job on `system` the variables that it needs."""
    if system in _INHERITING:
        return []
    lines = [f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"]
    for name, value in sorted(environment.items()):
        wanted = name in _FORWARDED
        if name.startswith("SEAMLESS_") and not parameters.pure_dask:
            wanted = name in _PUBLIC or not name.startswith(_PRIVATE)
        if wanted and value.isprintable():
            lines.append(f"export {name}={shlex.quote(value)}")
    return lines


def cpu_count(system: str) -> list[str]:
    """Shell line that tells Python how many CPU cores the job has."""
    if system not in _CPU_COUNT:
        return []
    return [f"export PYTHON_CPU_COUNT={_CPU_COUNT[system]}"]

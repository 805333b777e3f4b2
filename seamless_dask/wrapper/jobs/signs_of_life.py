"""Detects whether the script of a job makes progress before its worker connects.

A prologue may take long: it unpacks, installs, loads modules. Meanwhile it writes into the
output of its job, or executes one command after the other and touches a file at each. Both
are in the directory for the output of jobs, which all nodes see.
"""

from __future__ import annotations

import asyncio
import logging
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

logger = logging.getLogger(__name__)

#: Least time between two checks, in seconds.
PAUSE = 5.0
SUFFIX = ".alive"
#: Shell expressions for the id of a job, in the job.
_IDS = {
    "slurm": "${SLURM_ARRAY_JOB_ID:-${SLURM_JOB_ID-}}",
    "sge": "$JOB_ID",
    "oar": "$OAR_JOB_ID",
    "pbs": "${PBS_JOBID%%.*}",
    "moab": "${PBS_JOBID%%.*}",
    "lsf": "$LSB_JOBID",
}
#: Expressions that are empty if there is no id; no errors after "set -u".
_GIVEN = {
    "slurm": "${SLURM_ARRAY_JOB_ID:-${SLURM_JOB_ID-}}",
    "sge": "${JOB_ID-}",
    "oar": "${OAR_JOB_ID-}",
    "pbs": "${PBS_JOBID-}",
    "moab": "${PBS_JOBID-}",
    "lsf": "${LSB_JOBID-}",
}


def around(prologue: list[str], system: str, directory: Path | None) -> list[str]:
    """The prologue, between lines that make each of its commands touch a file.

    They have no effect if the script is not run by bash.
    """
    if not prologue or directory is None or system not in _IDS:
        return prologue
    file = f"{shlex.quote(str(directory))}/job-{_IDS[system]}{SUFFIX}"
    # never fails, which "set -e" would take for a failure of the prologue: the directory
    # may be missing, or the id. Not ":", whose failure ends a shell in POSIX mode.
    known = f'[ -z "{_GIVEN[system]}" ]'
    touch = shlex.quote(f"{{ {known} || true >|{file}; }} 2>/dev/null || true")
    return [
        f"trap {touch} DEBUG 2>/dev/null || :",
        *prologue,
        "trap - DEBUG 2>/dev/null || :",
    ]


class Signs:
    """Watches the files of jobs in `directory`, where their output goes."""

    def __init__(self, directory: Path | None):
        self._directory = directory
        self._seen: dict[str, tuple[float, int]] = {}
        self._looked_at = float("-inf")
        self._complained = False

    async def look(self, job_ids: list[str], now: float) -> list[str]:
        """The ids of the jobs that have written something since the last check.

        The first check of a job only remembers its files. Does nothing if the last check
        was a moment ago.
        """
        if self._directory is None or not job_ids or now - self._looked_at < PAUSE:
            return []
        self._looked_at = now
        try:
            # the home directory may be slow, or hang
            found = await asyncio.to_thread(_latest, self._directory, job_ids)
        except (OSError, RuntimeError) as error:  # the latter: no thread can be started
            if not self._complained:
                self._complained = True
                logger.warning("The output of jobs cannot be looked at: %s", error)
            return []
        before, self._seen = self._seen, found
        return [
            job_id
            for job_id, trace in found.items()
            if job_id in before and trace != before[job_id]
        ]


def _latest(directory: Path, job_ids: Iterable[str]) -> dict[str, tuple[float, int]]:
    """{job id: latest change and total size of its files}."""
    found = dict.fromkeys(job_ids, (0.0, 0))
    numbers = {job_id.partition(".")[0]: job_id for job_id in found}
    for path in directory.iterdir():
        for number in numbers.keys() & set(re.findall(r"\d+", path.name)):
            status = path.stat()
            latest, size = found[numbers[number]]
            latest = max(latest, status.st_mtime)
            found[numbers[number]] = (latest, size + status.st_size)
    return found

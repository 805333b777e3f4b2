"""The name of jobs: the user's name for them, and a tag that only one cluster uses.

A job whose submission seemed to fail is found by this name. Pure.
"""

from __future__ import annotations

import re
import uuid

DEFAULT_NAME = "dask-worker"
#: Directives that set a name.
_OPTIONS = {
    "slurm": r"(?:--job-name(?:=|\s+)|-J\s*)(.+)",
    "sge": r"-N\s+(.+)",
    "oar": r"(?:--name(?:=|\s+)|-n\s+)(.+)",
    "pbs": r"-N\s*(.+)",
    "moab": r"-N\s*(.+)",
    "lsf": r"-J\s*(.+)",
    "htcondor": r"(?i:batch_name|JobBatchName)\s*=\s*(.+)",
}
#: Longer names are cut or refused by the batch system.
_LONGEST = {"pbs": 15, "moab": 15}
LONGEST = 48


def new_tag() -> str:
    """A tag that no other cluster has."""
    return uuid.uuid4().hex[:8]


def split_name(directives: list[str], system: str) -> tuple[str, list[str]]:
    """The name that directives give to jobs, "" without one, and the other directives."""
    name, others = "", []
    for item in directives:
        match = re.fullmatch(_OPTIONS.get(system, "(?!)"), item.strip())
        if match:
            name = match[1].strip().strip("'\"")
        else:
            others.append(item)
    return name, others


def job_name(base: str, system: str, tag: str) -> str:
    """The name of all jobs of a cluster.

    Parameters
    ----------
    base
        The part that people recognize.
    system
        The batch system.
    tag
        From `new_tag`; empty: the name is only displayed.
    """
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", base) or DEFAULT_NAME
    if not plain[0].isalpha():  # Grid Engine and PBS refuse it
        plain = f"j{plain}"
    if not tag:
        return plain
    room = _LONGEST.get(system, LONGEST) - len(tag) - 1
    return f"{plain[:room].rstrip('-')}-{tag}"

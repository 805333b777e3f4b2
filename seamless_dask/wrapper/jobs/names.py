"""The name of jobs: what people recognize, and a tag that only one cluster uses.

A job whose submission seemed to fail is found by this name. Pure.
"""

from __future__ import annotations

import re
import uuid

from .options import named

DEFAULT_NAME = "dask-worker"
#: {batch system: the option that sets a name}
_OPTIONS = {
    "slurm": "--job-name",
    "sge": "-N",
    "oar": "--name",
    "pbs": "-N",
    "moab": "-N",
    "lsf": "-J",
}
_OF_CONDOR = re.compile(r"(?i:batch_name|JobBatchName)\s*=\s*(.+)")
#: The names that seamless-config gives to the services of a project, and of a queue.
_OF_PROJECT = re.compile(r"daskserver-.+?-(?:rw|ro)-(.+)")
_OF_QUEUE = re.compile(r"pure-daskserver-(.+)")
PREFIX = "seamless-"
#: Longer names are cut or refused by the batch system.
_LONGEST = {"pbs": 15, "moab": 15}
LONGEST = 48


def new_tag() -> str:
    """A tag that no other cluster has."""
    return uuid.uuid4().hex[:8]


def service_base(service: str) -> str:
    """The name for jobs of a service; "" if it was not started by seamless-config.

    Parameters
    ----------
    service
        The name of the status file without its ending, such as
        ``daskserver-bigcluster-rw-first``: it says the project, and in pure Dask, which
        has no project, the cluster and the queue.
    """
    match = _OF_PROJECT.fullmatch(service) or _OF_QUEUE.fullmatch(service)
    # a double hyphen is between project and subproject
    return PREFIX + re.sub("-+", "-", match[1]) if match else ""


def split_name(directives: list[str], system: str) -> tuple[str, list[str]]:
    """The name that directives give to jobs, "" without one, and the other directives.

    Each of the directives has one option, see `options.separated`.
    """
    name, others = "", []
    for item in directives:
        option, value = named(item, system)
        match = _OF_CONDOR.fullmatch(item.strip()) if system == "htcondor" else None
        if match:
            name = match[1].strip().strip("'\"")
        elif option and option == _OPTIONS.get(system) and value:
            name = value
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

    A name that is too long loses the word that all of them have, then its end.
    """
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", base) or DEFAULT_NAME
    if not plain[0].isalpha():  # Grid Engine and PBS refuse it
        plain = f"j{plain}"
    if not tag:
        return plain
    room = _LONGEST.get(system, LONGEST) - len(tag) - 1
    rest = plain.removeprefix(PREFIX)
    if len(plain) > room and rest[:1].isalpha():
        plain = rest
    return f"{plain[:room].rstrip('-')}-{tag}"

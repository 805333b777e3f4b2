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
#: {batch system: how dask_jobqueue begins the line with the name}. On HTCondor our
#: directives have the name, and nothing of them is left out.
_LINES = {
    "slurm": "#SBATCH -J ",
    "sge": "#$ -N ",
    "oar": "#OAR -n ",
    "pbs": "#PBS -N ",
    "moab": "#PBS -N ",
    "lsf": "#BSUB -J ",
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


def skip_problems(left_out: list[str], system: str, field: str) -> list[str]:
    """Problems with parts of lines that dask_jobqueue leaves out of job scripts.

    Parameters
    ----------
    left_out
        A line that contains one of them is left out.
    system
        The batch system.
    field
        The name of the setting that has them.
    """
    line = _LINES.get(system)
    if line is None:
        return []
    option = line.partition(" ")[2]
    return [
        f"{field} = {part!r}: would leave out the line {line + 'NAME'!r}, and jobs are found "
        "by their name; allowed is what only other lines contain, and a name of your own "
        "goes into job_extra_directives"
        for part in left_out
        if part in line or option in part
    ]


def left_out_name(name: str, left_out: list[str], system: str) -> list[str]:
    """The directive with the name, if dask_jobqueue leaves out its own; otherwise []."""
    line = _LINES.get(system, "") + name
    if system not in _LINES or not any(part in line for part in left_out):
        return []
    return [line.partition(" ")[2]]

"""Finds directives for something that a parameter sets already.

The batch system would use one of them, or refuse both, while the wrapper relies on the
parameter: its workers would expect an hour in a job of ten minutes. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..settings.parameters import Parameters
from .directive_checks import unmarked
from .options import options

#: {batch system: {option by its name in `options`: the parameter that sets it}}
_OPTIONS = {
    "slurm": {
        "--time": "walltime",
        **dict.fromkeys(("--mem", "--mem-per-cpu", "--mem-per-gpu"), "memory"),
        **dict.fromkeys(("--cpus-per-task", "--cpus-per-gpu", "--ntasks"), "cores"),
        **{"--partition": "partition", "--account": "project"},
    },
    "sge": {"-pe": "cores", "-q": "partition", "-P": "project"},
    "oar": {"--queue": "partition", "--project": "project"},
    "pbs": {"-q": "partition", "-A": "project"},
    "moab": {"-q": "partition", "-A": "project"},
    "lsf": {
        **{"-W": "walltime", "-M": "memory", "-n": "cores"},
        **{"-q": "partition", "-P": "project"},
    },
}
#: Options that are followed by a list such as ``walltime=1:00,mem=4gb``.
_RESOURCES = ("-l", "--resource")
_OF_PBS = {
    "walltime": "walltime",
    "mem": "memory",
    **dict.fromkeys(("select", "ncpus", "nodes", "ppn", "procs"), "cores"),
}
#: {batch system: {name in such a list: the parameter}}
_NAMES = {
    "sge": {"h_rt": "walltime"},
    "oar": {
        "walltime": "walltime",
        **dict.fromkeys(("nodes", "host", "network_address", "cpu", "core"), "cores"),
    },
    "pbs": _OF_PBS,
    "moab": _OF_PBS,
}
_OF_CONDOR = {"requestcpus": "cores", "requestmemory": "memory"}
#: In place of a parameter: OAR takes one list only, whatever is in it. With a second one the
#: job is moldable: OAR chooses one of the lists, perhaps that without our walltime.
_ANYTHING = ""
#: How the line begins that dask_jobqueue writes for a parameter.
_OURS = {
    ("slurm", "walltime"): "#SBATCH -t ",
    ("slurm", "memory"): "#SBATCH --mem=",
    ("slurm", "cores"): "#SBATCH --cpus-per-task=",
    ("sge", "walltime"): "#$ -l h_rt=",
    ("pbs", "walltime"): "#PBS -l walltime=",
    ("pbs", "memory"): "#PBS -l select=1:ncpus=",
    ("pbs", "cores"): "#PBS -l select=1:ncpus=",
    ("oar", "walltime"): "#OAR -l ",
    ("oar", "cores"): "#OAR -l ",
    ("oar", _ANYTHING): "#OAR -l ",
    ("lsf", "walltime"): "#BSUB -W ",
    ("lsf", "memory"): "#BSUB -M ",
    ("lsf", "cores"): "#BSUB -n ",
}
#: Options with the number of CPU cores of a job, which may be said again.
_OF_CORES = {"slurm": "--cpus-per-task", "lsf": "-n"}
#: Batch systems with one option for all resources of a job.
_WITH_RESOURCE_SPEC = ("oar", "pbs", "moab")


@dataclass(frozen=True)
class _Said:
    """A parameter that a directive sets, by which option, and the value."""

    parameter: str
    option: str
    value: str


def repeated(
    directives: list[str],
    parameters: Parameters,
    system: str,
    field: str,
    left_out: list[str],
) -> list[str]:
    """Directives that repeat or contradict parameters, as problems.

    Parameters
    ----------
    directives
        As the user wrote them.
    parameters
        Parameters of which each is valid by itself.
    system
        The batch system.
    field
        The name of the setting that has the directives.
    left_out
        Parts of lines that dask_jobqueue leaves out of scripts; directives may replace
        these lines.
    """
    problems = []
    for written in directives:
        names: list[str] = []
        for said in _said(unmarked(written, system), system):
            line = _OURS.get((system, said.parameter), "")
            if any(part and part in line for part in left_out):
                continue
            if said.parameter == _ANYTHING and names:
                continue
            if said.parameter not in names and not _agrees(said, parameters, system):
                names.append(said.parameter)
        if names == [_ANYTHING]:
            problems.append(
                f"{field} = {written!r}: is a second request, and OAR would choose one of "
                "both, perhaps the one without walltime; allowed is resource_spec with "
                "all that a job needs"
            )
        elif names:
            known = " and ".join(_known(name, parameters) for name in names)
            problems.append(
                f"{field} = {written!r}: says what {known} is for; allowed is only the "
                f"latter{_advice(names, system)}"
            )
    return problems


def repeated_in_request(parameters: Parameters, system: str) -> list[str]:
    """The same for `resource_spec`, which must not contain a walltime."""
    names = _resources(parameters.resource_spec or "", system)
    if "walltime" not in [said.parameter for said in names]:
        return []
    return [
        f"resource_spec = {parameters.resource_spec!r}: says what "
        f"{_known('walltime', parameters)} is for; allowed is only the latter"
    ]


def _known(name: str, parameters: Parameters) -> str:
    """A parameter and its value."""
    if name != "cores":
        value = getattr(parameters, name)
        return name if value is None else f"{name} = {value!r}"
    if parameters.job_cores is not None:
        return f"job_cores = {parameters.job_cores}"
    return f"cores = {parameters.cores} ({parameters.cores_per_job} CPU cores per job)"


def _advice(names: list[str], system: str) -> str:
    if "cores" not in names:
        return ""
    if system in _WITH_RESOURCE_SPEC:
        return "; job_cores says the CPU cores, and resource_spec all that a job needs"
    return "; job_cores says the CPU cores of a job"


def _agrees(said: _Said, parameters: Parameters, system: str) -> bool:
    """Whether a directive is compatible with its parameter."""
    if said.parameter in ("partition", "project"):
        return getattr(parameters, said.parameter) is None
    if system == "slurm" and said.parameter == "memory":
        # all memory of the node, never less
        return (said.option, said.value) == ("--mem", "0")
    if system == "slurm" and (said.option, said.value) == ("--ntasks", "1"):
        return True
    if said.parameter == "cores" and said.option == _OF_CORES.get(system):
        return said.value == str(parameters.cores_per_job)
    if system == "sge" and said.parameter == "cores":
        # the name of a parallel environment, without a number or with ours
        return said.value.split()[1:] in ([], [str(parameters.cores_per_job)])
    return False


def _said(item: str, system: str) -> Iterator[_Said]:
    """The settings of a directive that parameters can make as well."""
    if system == "htcondor":
        name = item.partition("=")[0].strip().lower().replace("_", "")
        if name in _OF_CONDOR:
            yield _Said(_OF_CONDOR[name], name, item)
        return
    for option in options(item, system):
        for name in option.names:
            if name in _RESOURCES:
                yield from _resources(option.value, system)
                if system == "oar":
                    yield _Said(_ANYTHING, name, "")
            elif name in _OPTIONS.get(system, {}):
                yield _Said(_OPTIONS[system][name], name, option.value)


def _resources(request: str, system: str) -> list[_Said]:
    """The settings in a list such as ``select=1:ncpus=4,walltime=1:00``."""
    names = re.findall(r"(?:^|[\s,:+/{}])([\w.]+)\s*=", request)
    known = _NAMES.get(system, {})
    return [_Said(known[name], name, request) for name in names if name in known]

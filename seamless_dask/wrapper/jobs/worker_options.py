"""Options of ``dask worker`` that a site may not add, since something else sets them.

The last option of a name counts, so ``--name x`` would give all workers one name.
"""

from __future__ import annotations

from ..settings.parameters import Parameters

#: {option: what sets it}
_SET = {
    "--name": "the wrapper, which gives each worker a name of its own",
    "--nthreads": "worker_threads",
    "--nworkers": "processes",
    "--local-directory": "tmpdir",
    "--resources": "dask_resources",
    "--death-timeout": "jobqueue.{system}.death-timeout",
    "--scheduler-file": "the wrapper, whose scheduler the workers belong to",
    "--nanny": "the wrapper: each worker has a nanny",
    "--no-nanny": "the wrapper: each worker has a nanny",
}
#: Options that the parameter of ports sets.
_PORTS = ("--worker-port", "--nanny-port")
#: Options after which no worker starts.
_NO_WORKER = ("--version", "--help")


def worker_option_problems(
    items: list[str], system: str, field: str, parameters: Parameters
) -> list[str]:
    """Why options cannot be added; an item may hold several, or only a value."""
    problems = []
    for item in items:
        for word in item.split():
            name = word.partition("=")[0].strip("\"'")
            if name in _SET:
                reason = "is set by " + _SET[name].format(system=system)
            elif name in _PORTS and parameters.internal_port_range is not None:
                reason = "is set by internal-port-range"
            elif name in _NO_WORKER:
                reason = "starts no worker"
            else:
                continue
            problems.append(f"{field} = {item!r}: {name} {reason}; leave it out here")
    return problems

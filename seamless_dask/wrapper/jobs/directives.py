"""Directives for the head of a job script that need special treatment."""

from __future__ import annotations

import logging
import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from ..settings.durations import parse_memory
from ..settings.parameters import Parameters
from .directive_checks import needs_condition, unmarked
from .logs import configured as log_directory_of
from .logs import is_left_to_dask, output_directives
from .options import named, separated
from .queues import QUEUES
from .surroundings import clusters

logger = logging.getLogger(__name__)

#: Options for the destination of output; on OAR for the start directory, see `logs`.
_OUTPUT_OPTIONS = {
    **{"slurm": {"--output"}, "oar": {"--directory"}, "htcondor": {"output"}},
    **{"sge": {"-o"}, "pbs": {"-o"}, "moab": {"-o"}, "lsf": {"-o", "-oo"}},
}


def extra_directives(
    parameters: Parameters,
    system: str,
    log_directory: Path | None,
    configured: list[str],
) -> list[str]:
    """All directives beyond those that dask_jobqueue makes from its arguments.

    Each has one option. `configured` are the directives in Dask's configuration; the
    parameters have passed `arguments.batch_problems`.
    """
    directives = [
        text
        for item in [*configured, *parameters.job_extra_directives]
        for text in separated(unmarked(item, system), system)
    ]
    if system == "oar":
        directives = oar_directives(parameters, directives)
    elif system == "sge":
        directives = sge_directives(parameters, directives)
    # the user's directives come last, and so take precedence if an option is repeated
    return _output(directives, system, log_directory) + directives


def with_cluster(
    directives: list[str], system: str, environment: Mapping[str, str]
) -> list[str]:
    """The directives, and the cluster that the user's environment chooses on SLURM.

    Without the directive, jobs would be submitted there but queried elsewhere.
    """
    chosen = clusters(system, environment)
    if not chosen or QUEUES[system].options_of(directives):
        return directives
    return [*directives, f"--clusters={chosen}"]


def _output(
    directives: list[str], system: str, log_directory: Path | None
) -> list[str]:
    chosen = log_directory_of(system)
    if chosen is not None:
        if is_left_to_dask(system, chosen):
            return []
        return output_directives(system, Path(chosen))
    if system == "htcondor":
        given = {item.partition("=")[0].strip().lower() for item in directives}
    else:
        given = {named(item, system)[0] for item in directives}
    if log_directory is None or given & _OUTPUT_OPTIONS[system]:
        return []
    return output_directives(system, log_directory)


def oar_directives(parameters: Parameters, given: list[str]) -> list[str]:
    """The given directives, with all ``-p`` conditions in one, the memory included.

    OAR uses only the last ``-p``. Conditions are SQL with quotes of its own, which must
    survive the shell rules by which directives become arguments of ``oarsub``.
    A condition arrives as ``-p CONDITION`` or as two directives in a row.
    """
    directives: list[str] = []
    conditions: list[str] = []
    items = iter(given)
    for item in items:
        if needs_condition(item, "oar"):
            conditions.append(next(items))
        elif named(item, "oar")[0] != "--property":
            directives.append(item)
        else:
            text = re.sub(r"^(?:-p|--\w+)=?", "", item)
            conditions.append(_unquoted(text.strip()))
    name = parameters.memory_per_core_property_name
    # for a whole node of unknown size the memory per core is not known
    known = parameters.cores is not None or parameters.job_cores is not None
    if known and name not in (None, "not_applicable"):
        total = parse_memory(parameters.memory or 0)
        per_core = math.ceil(total / (parameters.cores_per_job * 2**20))
        conditions.append(f"{name}>={per_core}")
    if len(conditions) > 1:
        conditions = [
            f"({condition})" if re.search(r"(?i)\bor\b", condition) else condition
            for condition in conditions
        ]
    if conditions:
        directives.append(f"-p {_quoted(' AND '.join(conditions))}")
    return directives


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        if text[0] not in text[1:-1]:
            return text[1:-1]
    return text


def _quoted(text: str) -> str:
    if "'" in text and not set(text) & set('"\\$`'):
        return f'"{text}"'
    return shlex.quote(text)


def sge_directives(parameters: Parameters, given: list[str]) -> list[str]:
    """The given directives, with the number of slots behind a bare ``-pe NAME``.

    Grid Engine has no request for cores. A job asks for slots in a parallel environment
    whose name every site chooses for itself.
    """
    slots = parameters.cores_per_job
    directives = []
    asks = parameters.resource_spec is not None
    for item in given:
        option, value = named(item, "sge")
        if option == "-pe":
            asks = True
            if len(value.split()) == 1:
                item = f"{item.strip()} {slots}"
        directives.append(item)
    if slots > 1 and not asks:
        logger.warning(
            'Grid Engine gives each job one slot, but it will use %d. Add "-pe NAME" to '
            "job_extra_directives, with the name of a parallel environment (qconf -spl "
            "lists them) whose slots are on one node; the number is added to it.",
            slots,
        )
    return directives


def htcondor_directives(directives: list[str]) -> dict[str, str]:
    """The same as the mapping that dask_jobqueue wants for HTCondor."""
    pairs = (item.partition("=") for item in directives)
    return {name.strip(): value.strip() for name, _, value in pairs}

"""The environment of the commands of batch systems. Pure.

Variables of a batch system stand for options, and mostly take precedence over the job
script: a ``SBATCH_TIMELIMIT`` from a login file would overrule the walltime, a
``SQUEUE_STATES`` hide jobs, ``SBATCH_WAIT`` keep the command from returning. So the
commands do not get them, except variables that locate the batch system, and defaults of a
site for options that the job script does not have.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

#: {batch system: (names of its variables, names of the variables that are kept)}
_VARIABLES = {
    "slurm": (
        r"(?:SBATCH|SQUEUE|SCANCEL|SALLOC|SRUN|SLURM|SLURMD)_\w+",
        r"SLURM_(?:CONF|CONF_SERVER|JWT|CONFIG_DIR|ROOT|HOME|PREFIX|DIR|PATH|VERSION)",
    ),
    "sge": (
        r"SGE_\w+",
        r"SGE_(?:ROOT|CELL|ARCH|CLUSTER_NAME|QMASTER_PORT|EXECD_PORT|QMASTER)",
    ),
    "oar": (r"OAR_\w+", r"OAR_(?:CONF|API)\w*"),
    "pbs": (
        r"PBS_\w+",
        r"PBS_(?:DEFAULT|SERVER\w*|PRIMARY|SECONDARY|CONF_\w+|CONF_FILE|EXEC|HOME|"
        r"CLIENTRETRY|AUTH\w*|ENCRYPT\w*|ACCOUNT|LEAF\w*|BATCH_SERVICE_PORT\w*)",
    ),
    "lsf": (r"BSUB_\w+|LSB_(?:BJOBS_FORMAT|JOB\w+|SUB_\w+|DJOB\w+|INTERACTIVE\w*)", ""),
}
_VARIABLES["moab"] = _VARIABLES["pbs"]
_MARKS = {"slurm": "#SBATCH"}
#: {variable with a default for jobs: the options that replace it in a script}
_SITE_DEFAULTS = {
    "SBATCH_ACCOUNT": "-A|--account",
    "SBATCH_PARTITION": "-p|--partition",
    "SBATCH_QOS": "-q|--qos",
    "SBATCH_RESERVATION": "--reservation",
    "SBATCH_CONSTRAINT": "-C|--constraint",
    "SBATCH_WCKEY": "--wckey",
}
#: After the loss of a node SLURM would restart its job some minutes later, with the walltime
#: that it had; a new job starts sooner.
_ADDED = {"slurm": {"SBATCH_NO_REQUEUE": "1"}}


def for_commands(system: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for commands that ask about jobs, or cancel them.

    Parameters
    ----------
    system
        The batch system.
    environment
        The environment of the wrapper.
    """
    theirs, stay = _VARIABLES.get(system, ("(?!)", ""))
    return {
        name: value
        for name, value in environment.items()
        if not re.fullmatch(theirs, name) or re.fullmatch(stay, name)
    }


def for_submission(
    system: str, environment: Mapping[str, str], script: str
) -> dict[str, str]:
    """The environment for the command that submits; `script` is the job script."""
    kept = for_commands(system, environment)
    head = [line for line in script.splitlines() if line.startswith("#")]
    if system == "slurm":
        for name, options in _SITE_DEFAULTS.items():
            said = rf"{_MARKS[system]}\s+(?:{options})"
            if name in environment and not any(re.match(said, line) for line in head):
                kept[name] = environment[name]
    return kept | _ADDED.get(system, {})


def clusters(system: str, environment: Mapping[str, str]) -> str:
    """The SLURM clusters that the environment selects; empty: none."""
    if system != "slurm":
        return ""
    return environment.get("SBATCH_CLUSTERS") or environment.get("SLURM_CLUSTERS") or ""


def withheld(
    system: str, before: Mapping[str, str], after: Mapping[str, str]
) -> list[str]:
    """Names of variables of the batch system that its commands do not get."""
    theirs, _ = _VARIABLES.get(system, ("(?!)", ""))
    return sorted(
        name for name in before if name not in after and re.fullmatch(theirs, name)
    )

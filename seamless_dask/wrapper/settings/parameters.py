"""The parameters of the status file, as one typed model.

Use `read_parameters`. It reports all problems at once, each with the field, its value
and the allowed values, and returns the names of unknown fields.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from scheduler_ext.task_keys import NESTED_RESOURCE, TOP_LEVEL_RESOURCE

from ...command.spelling import misspelt
from ..exit_codes import ParametersError
from .hidden_parameters import extract
from .parameter_types import (
    Configuration,
    Duration,
    DurationOrZero,
    Line,
    Lines,
    Memory,
    Path,
    PortRange,
    PositiveFloat,
    PositiveInt,
    Resources,
    Walltime,
    Word,
)
from .value_schemas import flat

#: Time between the end of the longest worker lifetime and the walltime, in seconds.
GRACE_PERIOD = 60
DEFAULT_LIFETIME_STAGGER = "4m"
DEFAULT_THROTTLE = 3
DEFAULT_PURE_THREADS = 2
DEFAULT_TMPDIR = "/tmp"


WHOLE = "a whole number, at least 1"
TEXT = "a text of one line"
TEXTS = "a text, or a list of texts, each of one line"
SWITCH = "true or false"
DURATION = 'a duration such as "10m", "90s" or "01:00:00", or a number of seconds'
WALLTIME = 'a duration with a unit such as "90m" or "4h", or "HH:MM:SS", in quotes'


def _field(
    description: str, allowed: str, *, unit: str | None = None, **kwargs: Any
) -> Any:
    kwargs.setdefault("default", None)
    extra: dict[str, Any] = {"allowed": allowed}
    if unit:
        extra["unit"] = unit
    return Field(description=description, json_schema_extra=extra, **kwargs)


class Parameters(BaseModel):
    """The parameters of a cluster that the caller can set. Absent and null are the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # --- the job that each Dask worker runs in
    walltime: Walltime | None = _field(
        "longest run time of a batch job; required on batch systems",
        WALLTIME,
        unit="seconds",
    )
    cores: PositiveInt | None = _field(
        "Seamless worker processes per Dask worker; in pure Dask the CPU cores per job."
        " Default 1 on a local cluster and for whole nodes, otherwise required",
        WHOLE,
        unit="Seamless processes; in pure Dask CPU cores",
    )
    job_cores: PositiveInt | None = _field(
        "CPU cores per batch job. Default: cores x transformation_throttle, "
        "in pure Dask: cores",
        WHOLE,
        unit="CPU cores",
    )
    memory: Memory | None = _field(
        "memory per job; on a local cluster the limit of the Dask worker "
        "process. Default: no limit; required on batch systems",
        'an amount of memory with its unit such as "54000MB" or "16GiB"',
        unit="bytes",
    )
    tmpdir: Path | None = _field(
        f"directory for temporary files of workers. Default {DEFAULT_TMPDIR}",
        "an absolute path; it may begin with ~ or a $VARIABLE",
    )
    partition: Word | None = _field("partition or queue of the batch system", TEXT)
    project: Word | None = _field("account or project to charge for jobs", TEXT)
    job_extra_directives: Lines = _field(
        "more directives for the head of the job script; the mark such as #SBATCH may be left"
        ' out. On Grid Engine, "-pe NAME" names the parallel environment for more than one core; '
        "the number of slots is added",
        TEXTS,
        default=[],
    )
    job_script_prologue: Lines = _field(
        "shell lines to run in the job before the worker starts", TEXTS, default=[]
    )
    memory_per_core_property_name: Line | None = _field(
        "OAR: name of the property with the memory per core, or not_applicable", TEXT
    )
    resource_spec: Line | None = _field(
        "resource request in the syntax of OAR, PBS, Moab or Grid Engine", TEXT
    )
    processes: PositiveInt = _field(
        "Dask workers per job",
        WHOLE,
        default=1,
        unit="Dask workers",
    )
    worker_threads: PositiveInt | None = _field(
        "threads per Dask worker. Default: cores x transformation_throttle, "
        f"in pure Dask: {DEFAULT_PURE_THREADS}",
        WHOLE,
        unit="threads",
    )
    exclusive: StrictBool = _field(
        "a worker runs one top-level transformation at a time, on a node of its own",
        SWITCH,
        default=False,
    )

    # --- the scheduler and the life of workers
    unknown_task_duration: Duration = _field(
        "assumed duration of tasks never seen before",
        DURATION,
        default="1m",
        unit="seconds",
    )
    target_duration: Duration = _field(
        "how long the work at hand may take before workers are added; a tenth of it is"
        " how long a worker stays idle before it is ended",
        DURATION,
        default="10m",
        unit="seconds",
    )
    internal_port_range: PortRange | None = _field(
        "ports that workers and nannies listen on. Default: any",
        'a range such as "40000:40100" or [40000, 40100], START below END, '
        "both between 1024 and 65535",
        unit="TCP ports",
    )
    lifetime: Duration | None = _field(
        "time after which a worker is replaced. Default: walltime - lifetime-stagger -"
        f" {GRACE_PERIOD} s if maximum_jobs is over 1, never in pure Dask",
        DURATION,
        unit="seconds",
    )
    lifetime_stagger: DurationOrZero | None = _field(
        "random amount by which lifetimes differ. "
        f"Default {DEFAULT_LIFETIME_STAGGER} if there is a lifetime, less if walltime is "
        "short",
        DURATION,
        unit="seconds",
    )

    # --- Seamless on a worker
    transformation_throttle: PositiveInt = _field(
        "factor: a worker executes up to cores x transformation_throttle transformations at "
        "a time, each in a process of its own",
        WHOLE,
        default=DEFAULT_THROTTLE,
        unit="transformations",
    )
    dask_resources: Resources = _field(
        "Dask resources of each worker, name to units",
        'a mapping from names to numbers, such as {"GPU": 1}',
        default={},
    )
    pure_dask: StrictBool = _field(
        "plain Dask workers without anything of Seamless", SWITCH, default=False
    )
    record: StrictBool = _field(
        "write full execution records; clients must have the same setting",
        SWITCH,
        default=False,
    )

    # --- the life of the cluster
    interactive: StrictBool = _field(
        "keep one worker (job) even when idle", SWITCH, default=False
    )
    maximum_jobs: PositiveInt = _field(
        "largest number of jobs at a time",
        WHOLE,
        default=1,
        unit="jobs",
    )
    extra_dask_config: Configuration = _field(
        "any Dask configuration, merged last. The keys seamless.transformation-throttle "
        "and seamless.timeout in it are read as the parameters of these names",
        "a mapping; nested, or with dotted keys at the top",
        default={},
    )
    timeout: PositiveFloat | None = _field(
        "seconds without any work after which the cluster ends. "
        "Default: --timeout of the command line",
        "a number of seconds above zero",
        unit="seconds",
    )

    @property
    def seamless_processes(self) -> int:
        """Seamless processes per Dask worker; driver scripts assume the same default 1."""
        return self.cores or 1

    @property
    def threads(self) -> int:
        """Threads of each Dask worker."""
        if self.worker_threads is not None:
            return self.worker_threads
        if self.pure_dask:
            return DEFAULT_PURE_THREADS
        return self.seamless_processes * self.transformation_throttle

    @property
    def cores_per_job(self) -> int:
        """CPU cores to ask the batch system for."""
        if self.job_cores is not None:
            return self.job_cores
        if self.pure_dask:
            return self.cores or 1
        return self.seamless_processes * self.transformation_throttle

    @property
    def queue_exclusive(self) -> bool:
        """Exclusive mode, which pure Dask does not have."""
        return self.exclusive and not self.pure_dask

    @property
    def resources(self) -> dict[str, float]:
        """Dask resources of each worker."""
        if self.queue_exclusive:
            return {TOP_LEVEL_RESOURCE: 1.0, **self.dask_resources}
        return dict(self.dask_resources)

    @property
    def minimum_workers(self) -> int:
        """Dask workers to keep when idle."""
        return self.processes if self.interactive else 0

    @property
    def maximum_workers(self) -> int:
        """Most Dask workers at a time."""
        return self.maximum_jobs * self.processes


def json_schema() -> dict[str, Any]:
    """JSON schema of the parameters, each name in both spellings.

    Unknown names are allowed: the wrapper only warns about them. Which parameters are
    required depends on the batch system; the wrapper checks that, and which values go
    together.
    """
    schema = Parameters.model_json_schema()
    for content in schema["properties"].values():
        options = [each for each in flat(content) if each.get("type") != "null"]
        names = ("anyOf", "type", "pattern", "propertyNames", "additionalProperties")
        if "anyOf" not in content:
            options = [{name: content.pop(name) for name in names if name in content}]
        content["anyOf"] = [*options, {"type": "null"}]
    twice = [name for name in schema["properties"] if "_" in name]
    value = {"not": {"type": "null"}}
    schema["properties"] |= {
        name.replace("_", "-"): {"$ref": f"#/properties/{name}"} for name in twice
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "description": "Parameters of a cluster. null means the same as absence.",
        "additionalProperties": True,
        # no parameter in both spellings
        "allOf": [
            {
                "not": {
                    "required": [name, name.replace("_", "-")],
                    "properties": {name: value, name.replace("_", "-"): value},
                }
            }
            for name in twice
        ],
    }


_ALLOWED: dict[str, str] = {
    name: field.json_schema_extra["allowed"]  # type: ignore[index,misc]
    for name, field in Parameters.model_fields.items()
}


def read_parameters(raw: dict[str, Any]) -> tuple[Parameters, list[str]]:
    """Return the parameters and the names of unknown fields.

    Names may be written with hyphens or underscores. Raises `ParametersError`.

    Parameters
    ----------
    raw
        As in the status file: {name: value}. Parameters inside `extra_dask_config`, see
        `hidden_parameters`, are taken out of it.
    """
    spelling: dict[str, str] = {}
    values: dict[str, Any] = {}
    problems: list[str] = []
    unknown: list[str] = []
    for written, value in raw.items():
        name = written.replace("-", "_")
        if value is None:
            continue
        if name not in Parameters.model_fields:
            unknown.append(written)
        elif name in values:
            problems.append(f"{written}: is written twice, also as {spelling[name]}")
        else:
            spelling[name] = written
            values[name] = value
    hidden = extract(values.get("extra_dask_config"))
    if "extra_dask_config" in values:
        values["extra_dask_config"] = hidden.rest
    unknown += hidden.unknown
    problems += hidden.problems
    for name, (written, value) in hidden.found.items():
        if values.setdefault(name, value) != value:
            problems.append(
                f"{written} = {_short(value)}: contradicts "
                f"{spelling[name]} = {_short(values[name])}"
            )
        spelling.setdefault(name, written)
    wrong: set[str] = set()
    try:
        parameters = Parameters(**values)
    except ValidationError as error:
        wrong = set(_first_reasons(error))
        parameters = Parameters(
            **{name: value for name, value in values.items() if name not in wrong}
        )
        for name, reason in _first_reasons(error).items():
            problems.append(
                f"{spelling[name]} = {_short(values[name])}: allowed is "
                f"{_ALLOWED[name]}{reason}"
            )
    problems += _problems_of_units(parameters, spelling.get("dask_resources", ""))
    if problems:
        problems += misspelt(unknown, Parameters.model_fields)
        raise ParametersError(problems, wrong, parameters)
    return parameters, unknown


def _problems_of_units(parameters: Parameters, written: str) -> list[str]:
    """What is wrong with the units of transformations, each of which takes one."""
    if parameters.pure_dask:
        return []
    name = f"{written} = {_short(parameters.dask_resources)}"
    if NESTED_RESOURCE in parameters.dask_resources:
        return [
            f"{name}: allowed are other names than {NESTED_RESOURCE}, with which "
            "nested transformations are counted"
        ]
    units = parameters.dask_resources.get(TOP_LEVEL_RESOURCE)
    if units is None:
        return []
    if parameters.exclusive and units != 1:
        return [
            f"{name}: allowed is {TOP_LEVEL_RESOURCE} of 1 on an exclusive queue, where a "
            "worker executes one top-level transformation at a time"
        ]
    if units < 1:
        return [
            f"{name}: allowed is {TOP_LEVEL_RESOURCE} of at least 1, since a top-level "
            "transformation takes one unit; with less, none could ever start"
        ]
    return []


def _first_reasons(error: ValidationError) -> dict[str, str]:
    """One reason per field; a union reports one error per member."""
    reasons: dict[str, str] = {}
    for detail in error.errors(include_url=False):
        reason = ""
        if detail["type"] == "value_error":
            reason = f" ({detail['ctx']['error']})"
        name = str(detail["loc"][0])
        reasons[name] = reasons.get(name) or reason
    return reasons


def _short(value: Any, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."

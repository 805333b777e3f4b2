"""Makes submissions of transformations, and fills in the results of dependencies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from seamless import Checksum
from seamless_transformer.remote_job import parse_remote_job_written

from ..errors import DependencyFailed, Unavailable
from ..neighbours import transformation as definition
from ..neighbours.pins import checksums_in, pins
from ..storage.recent import recent_buffers
from ..types import TransformationFutures, TransformationInputSpec, TransformationResult
from ..types import TransformationSubmission as Submission

if TYPE_CHECKING:
    from .tasks import Job


def with_dependencies(job: Job, results: Sequence[TransformationResult]) -> Job:
    if not results:
        return job
    transformation_dict = dict(job.transformation_dict)
    dependencies = {}
    for name, result in zip(job.dependencies, results, strict=True):
        if result.error is not None or result.result_checksum is None:
            raise DependencyFailed(
                f"Dependency '{name}' has an exception:\n{result.error}"
            )
        if parse_remote_job_written(result.result_checksum) is not None:
            raise DependencyFailed(
                f"Dependency '{name}' has no result: it was written as a remote job"
            )
        celltype, subcelltype, _ = transformation_dict[name]
        transformation_dict[name] = celltype, subcelltype, result.result_checksum
        dependencies[name] = result.tf_checksum
    known = job.tf_dunder.get("__deps__") or {}
    tf_dunder = {**job.tf_dunder, "__deps__": {**known, **dependencies}}
    return replace(job, transformation_dict=transformation_dict, tf_dunder=tf_dunder)


def without_value(names: Sequence[str]) -> str:
    """Return the message about inputs that have neither a checksum nor a task.

    Only None leaves an input without a checksum.
    """
    inputs = ", ".join(repr(name) for name in names)
    subject = f"Input {inputs} is" if len(names) == 1 else f"Inputs {inputs} are"
    return (
        f"{subject} None: for Seamless None means that there is no value, so it has no "
        "checksum, and a transformation cannot start without it. Pass another value, "
        "give the function a default and leave the argument out, or put None into a "
        "list or dictionary"
    )


def submission_of(
    transformation_dict: dict[str, Any],
    *,
    tf_checksum: str,
    tf_dunder: dict[str, Any],
    scratch: bool,
    strict_dunder: bool,
) -> Submission:
    """Return the submission of a transformation whose inputs are all known.

    Raises
    ------
    ValueError
        If a pin has no checksum; all of them are named.
    """
    inputs = {}
    missing = []
    for name, (celltype, subcelltype, checksum) in pins(transformation_dict):
        if checksum is None:
            missing.append(name)
            continue
        inputs[name] = TransformationInputSpec(
            name=name,
            celltype=celltype,
            subcelltype=subcelltype,
            checksum=Checksum(checksum).hex(),
            kind="checksum",
        )
    if missing:
        raise ValueError(without_value(missing))
    meta = transformation_dict.get("__meta__") or {}
    return Submission(
        transformation_dict=transformation_dict,
        inputs=inputs,
        input_futures={},
        tf_checksum=tf_checksum,
        tf_dunder=tf_dunder,
        scratch=scratch,
        require_value=False,
        allow_input_fingertip=bool(meta.get("allow_input_fingertip")),
        strict_dunder=strict_dunder,
    )


def deferred_submission_of(
    transformation: Any,
    pending: dict[str, TransformationFutures],
    *,
    driver_context: bool,
) -> Submission:
    """Return the submission of a Transformation with inputs still to be computed.

    Parameters
    ----------
    transformation
        A `seamless_transformer.Transformation`.
    pending
        The futures of these inputs, by name.
    driver_context
        Whether a driver transformation asks for it.

    Raises
    ------
    Unavailable
        If a pin has neither a checksum nor a task; all of them are named.
    """
    transformation_dict, tf_dunder = definition.template(
        transformation, driver_context=driver_context
    )
    inputs = {}
    dependencies = definition.dependencies(transformation)
    names = [name for name in transformation_dict if not name.startswith("__")]
    missing = [
        name
        for name in names
        if transformation_dict[name][2] is None and name not in dependencies
    ]
    if missing:
        raise Unavailable(without_value(missing))
    for name in names:
        celltype, subcelltype, checksum = transformation_dict[name]
        if name in pending:
            checksum = None
        elif checksum is None:
            checksum = dependencies[name].result_checksum.hex()
            transformation_dict[name] = celltype, subcelltype, checksum
        inputs[name] = TransformationInputSpec(
            name=name,
            celltype=celltype,
            subcelltype=subcelltype,
            checksum=checksum,
            kind="transformation" if checksum is None else "checksum",
        )
    recent_buffers.keep_uploaded(checksums_in(transformation_dict))
    return Submission(
        transformation_dict=transformation_dict,
        inputs=inputs,
        input_futures=pending,
        tf_checksum=None,
        tf_dunder=tf_dunder,
        scratch=transformation.scratch,
        require_value=False,
        allow_input_fingertip=definition.may_recompute_inputs(transformation),
        strict_dunder=bool(transformation._strict_dunder),
    )


def checksums_of(submission: Submission) -> set[str]:
    """Return the checksums of the buffers that a submission refers to."""
    checksums = {spec.checksum for spec in submission.inputs.values()}
    checksums.add(submission.tf_checksum)
    return {checksum for checksum in checksums if checksum is not None}

"""Puts the outcome of a task into the Transformation object that it was for."""

from __future__ import annotations

import traceback
from typing import Any

from seamless import Buffer, Checksum
from seamless.caching.buffer_cache import get_buffer_cache
from seamless.checksum.calculate_checksum import TRIVIAL_CHECKSUMS
from seamless_transformer.remote_job import RemoteJobWritten, parse_remote_job_written
from seamless_transformer.transformation_cache import get_transformation_cache

from ..types import TransformationResult


def is_settled(transformation: Any) -> bool:
    """Whether there is nothing to do; an exception stays until it is cleared."""
    return (
        transformation._evaluated
        or transformation._cancelled
        or transformation._exception is not None
    )


def apply(transformation: Any, result: TransformationResult) -> None:
    """Put the outcome of a task into a transformation, unless it was cancelled."""
    if transformation._cancelled:
        return
    if result.tf_checksum is not None:
        transformation._transformation_checksum = Checksum(result.tf_checksum)
        transformation._constructed = True
    if result.error is not None or result.result_checksum is None:
        fail(transformation, result.error or "Result checksum unavailable")
        return
    directory = parse_remote_job_written(result.result_checksum)
    if directory is not None:
        written = traceback.format_exception(RemoteJobWritten(directory), limit=0)
        fail(transformation, "".join(written))
        return
    checksum = Checksum(result.result_checksum)
    _keep_trivial(checksum)
    if transformation.scratch and result.tf_checksum is not None:
        # Its buffer is stored nowhere; this lets the driver recompute it.
        get_transformation_cache()._register_transformation_result(
            Checksum(result.tf_checksum), checksum
        )
    transformation._result_checksum = checksum
    transformation._exception = None
    transformation._evaluated = True


def _keep_trivial(checksum: Checksum) -> None:
    """Keep the value of a trivial checksum: no server has it."""
    content = TRIVIAL_CHECKSUMS.get(checksum.hex())
    cache = get_buffer_cache()
    if content is not None and cache.get(checksum) is None:
        cache.incref(checksum, buffer=Buffer(content, checksum=checksum), scratch=True)


def fail(transformation: Any, error: str) -> None:
    """Let a transformation have failed, unless it was cancelled."""
    if transformation._cancelled:
        return
    transformation._exception = error
    transformation._constructed = True
    # `clear_exception` resets one of the two: without a checksum, the construction.
    transformation._evaluated = transformation._transformation_checksum is not None

"""Reads the definition and the outcome of a `Transformation` of seamless-transformer."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any

from seamless import Buffer, Checksum
from seamless.caching.buffer_cache import get_buffer_cache
from seamless.checksum.calculate_checksum import TRIVIAL_CHECKSUMS
from seamless_transformer.remote_job import RemoteJobWritten, parse_remote_job_written
from seamless_transformer.transformation_cache import get_transformation_cache
from seamless_transformer.transformation_utils import extract_tf_dunder

from ..types import TransformationResult

# -- its definition ----------------------------------------------------------------


def dependencies(transformation: Any) -> Mapping[str, Any]:
    """Return {pin name: Transformation}."""
    return transformation._upstream_dependencies


def _needed(transformation: Any) -> Iterable[Any]:
    return dependencies(transformation).values()


def upstream_first(
    root: Any,
    ends: Callable[[Any], bool],
    needed: Callable[[Any], Iterable[Any]] = _needed,
) -> Iterator[Any]:
    """Yield a transformation and what it depends on, each after its dependencies.

    There may be more of them in a row than Python has room for nested calls.

    Parameters
    ----------
    root
        A `seamless_transformer.Transformation`; or whatever `needed` knows.
    ends
        Whether a transformation is left out, with what only it depends on.
    needed
        What it depends on.
    """
    seen: set[int] = set()
    stack: list[tuple[Any, bool]] = [(root, False)]
    while stack:
        transformation, expanded = stack.pop()
        if expanded:
            yield transformation
            continue
        if id(transformation) in seen or ends(transformation):
            continue
        seen.add(id(transformation))
        stack.append((transformation, True))
        for dependency in needed(transformation):
            stack.append((dependency, False))


def may_recompute_inputs(transformation: Any) -> bool:
    """Whether inputs may be computed again if their buffer is stored nowhere.

    True if the user allows it, or if an input comes from a scratch transformation, whose
    result is intentionally not stored.
    """
    return transformation.allow_input_fingertip or any(
        dependency.scratch for dependency in dependencies(transformation).values()
    )


def is_streamed(transformation: Any) -> bool:
    """Whether its output is shown in the driver script while it runs.

    The property is that of our mixin, or of a seamless-transformer that has it.
    """
    return bool(getattr(transformation, "streaming", False))


def has_post_prepare_hook(transformation: Any) -> bool:
    """Whether constructing the transformation needs the results it depends on.

    Compiled transformers read the prepared transformation, including its inputs.
    """
    constructor = transformation._constructor_sync
    return any(
        _enclosed(constructor, name) is not None
        for name in ("post_prepare_sync", "post_prepare_async")
    )


def _enclosed(function: Any, name: str) -> Any:
    """Return a variable of the function that encloses `function`, or None."""
    names = function.__code__.co_freevars
    return (
        function.__closure__[names.index(name)].cell_contents if name in names else None
    )


def prepared(transformation: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return transformation dict and dunder of a constructed transformation."""
    evaluator = transformation._evaluator_sync
    prepared_dict = _enclosed(evaluator, "prepared_execution_dict")
    if prepared_dict is None:
        raise RuntimeError(
            "The transformation has not been constructed, or was made by something "
            "other than transformation_from_pretransformation"
        )
    tf_dunder = deepcopy(_enclosed(evaluator, "prepared_tf_dunder") or {})
    known = {
        name: dependency._transformation_checksum.hex()
        for name, dependency in dependencies(transformation).items()
        if dependency._transformation_checksum is not None
    }
    if known:
        tf_dunder["__deps__"] = known
    return deepcopy(prepared_dict), tf_dunder


def template(
    transformation: Any, *, driver_context: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return transformation dict and dunder while inputs are still to be computed.

    The pins of these inputs are left as they are, without checksum.

    Parameters
    ----------
    transformation
        A transformation with dependencies.
    driver_context
        Whether the caller is a driver transformation.
    """
    transformation_dict = deepcopy(transformation._definition_payload_template)
    if transformation_dict is None:
        raise RuntimeError("The transformation has no definition payload")
    tf_dunder = extract_tf_dunder(transformation_dict)
    tf_dunder.update(deepcopy(transformation._tf_dunder))
    meta = {**(tf_dunder.get("__meta__") or {}), **deepcopy(transformation._meta)}
    if driver_context:
        meta["driver"] = True
    if meta:
        tf_dunder["__meta__"] = meta
    return transformation_dict, tf_dunder


# -- its outcome -------------------------------------------------------------------


def is_settled(transformation: Any) -> bool:
    """Whether it has ended; an exception stays until it is cleared."""
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
    """Mark a transformation as failed, unless it was cancelled."""
    if transformation._cancelled:
        return
    transformation._exception = error
    transformation._constructed = True
    # `clear_exception` resets one of the two: the construction if there is no checksum.
    transformation._evaluated = transformation._transformation_checksum is not None

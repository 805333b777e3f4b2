"""Determines the Dask task of a submission.

`scheduler_ext.task_keys` makes the key of the task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scheduler_ext.task_keys import base_key, deferred_key

from ..neighbours.pins import code_checksum
from .registry import Entry

if TYPE_CHECKING:
    from ..types import TransformationSubmission


def deferred_base_key(
    transformation_dict: Mapping[str, Any],
    dependencies: Mapping[str, str],
    resources: Mapping[str, float],
    *,
    driver: bool = False,
    scratch: bool = False,
) -> str:
    """Return the key of a transformation with inputs that are still to be computed.

    Parameters
    ----------
    transformation_dict
        Pins and dunders; checksums of pins in `dependencies` are ignored.
    dependencies
        Pin name to key of the task that computes that input.
    """
    from seamless_transformer.transformation_utils import (
        TRANSFORMATION_LOAD_BEARING_DUNDER_KEYS,
    )

    identity: dict[str, Any] = {}
    for name, value in transformation_dict.items():
        if name.startswith("__"):
            if name in TRANSFORMATION_LOAD_BEARING_DUNDER_KEYS:
                identity[name] = value
        elif name in dependencies:
            identity[name] = [*value[:2], {"result of": dependencies[name]}]
        else:
            identity[name] = list(value)
    code = None if "code" in dependencies else code_checksum(transformation_dict)
    return deferred_key(identity, resources, code=code, driver=driver, scratch=scratch)


def required_resources(
    transformation_dict: Mapping[str, Any], tf_dunder: Mapping[str, Any] | None
) -> dict[str, float]:
    """Return the Dask resources that a transformation asks for.

    They are given as ``meta["resources"]``: a mapping of the name of a Dask worker
    resource to an amount.

    Raises
    ------
    ValueError
        If it is anything else; the message names every entry that is wrong.
    """
    from seamless_transformer.transformation_utils import merge_transformation_meta

    meta = merge_transformation_meta(
        dict(transformation_dict), dict(tf_dunder) if tf_dunder else None
    )
    resources = meta.get("resources")
    if resources is None:
        return {}
    if not isinstance(resources, Mapping):
        raise ValueError(
            f"meta 'resources': got {resources!r}, allowed is a mapping of the name "
            "of a Dask worker resource to a positive number"
        )
    problems = []
    result: dict[str, float] = {}
    for name, amount in resources.items():
        try:
            value = float(amount)
        except (TypeError, ValueError):
            value = float("nan")
        if not isinstance(name, str) or not 0 < value < float("inf"):
            problems.append(f"meta 'resources': {name!r}: got {amount!r}")
        else:
            result[name] = value
    if problems:
        problems.append("allowed: name of a Dask worker resource to a positive number")
        raise ValueError("; ".join(problems))
    return result


def is_driver(
    transformation_dict: Mapping[str, Any], tf_dunder: Mapping[str, Any] | None
) -> bool:
    """Tell whether this is a driver transformation, which needs no lease."""
    from seamless_transformer.transformation_utils import merge_transformation_meta

    meta = merge_transformation_meta(
        dict(transformation_dict), dict(tf_dunder) if tf_dunder else None
    )
    return bool(meta.get("driver"))


@dataclass(frozen=True)
class Identity:
    """The properties that determine the task of a submission."""

    key: str
    resources: dict[str, float]
    driver: bool
    dependencies: dict[str, Entry]


def identify(submission: TransformationSubmission) -> Identity:
    """Determine the task of a submission.

    Raises
    ------
    ValueError
        If the required resources are malformed.
    """
    transformation_dict = submission.transformation_dict
    resources = required_resources(transformation_dict, submission.tf_dunder)
    driver = is_driver(transformation_dict, submission.tf_dunder)
    dependencies: dict[str, Entry] = {}
    for name, spec in submission.inputs.items():
        if spec.kind == "transformation":
            dependencies[name] = submission.input_futures[name].entry
    if dependencies or submission.tf_checksum is None:
        keys = {name: entry.key for name, entry in dependencies.items()}
        key = deferred_base_key(
            transformation_dict,
            keys,
            resources,
            driver=driver,
            scratch=submission.scratch,
        )
    else:
        key = base_key(
            submission.tf_checksum,
            resources,
            code=code_checksum(transformation_dict),
            driver=driver,
            scratch=submission.scratch,
        )
    return Identity(key, resources, driver, dependencies)

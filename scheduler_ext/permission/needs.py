"""What a transformation needs on its worker, apart from a slot. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..task_keys import NESTED_RESOURCE, TOP_LEVEL_RESOURCE

#: (resource of Dask, amount) pairs, sorted by name
Resources = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Needs:
    """The needs of a transformation.

    ``top_level`` is whether it takes one of the worker's units for top-level work.
    """

    top_level: bool = False
    resources: Resources = ()


NESTED = Needs()
TOP_LEVEL = Needs(top_level=True)


def needs_of(restrictions: Mapping[str, float]) -> Needs:
    """The needs of a task with these resource restrictions of Dask."""
    top_level = TOP_LEVEL_RESOURCE in restrictions
    resources = further(restrictions)
    if not resources:
        return TOP_LEVEL if top_level else NESTED
    return Needs(top_level, tuple(sorted(resources.items())))


def further(resources: Mapping[str, float]) -> dict[str, float]:
    """The resources that do not concern slots."""
    ours = (TOP_LEVEL_RESOURCE, NESTED_RESOURCE)
    return {name: amount for name, amount in resources.items() if name not in ours}

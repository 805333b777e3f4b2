"""Replaces functions and attributes of other packages: the one way to do so.

What has been replaced is seen by what is there now, so it does not matter who else has
replaced it before or after, or has put it back.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType, MethodType, ModuleType
from typing import Any

from ..errors import NeighbourChanged
from .names import Name, Use
from .table import BY_NAME

#: of a function or class of ours: whose place it has taken
_PLACE_OF = "__seamless_dask_in_place_of__"
_NOTHING = object()


def replace(owner: Any, name: str, new: Any) -> Any:
    """Put something of ours in the place of something of another package.

    Does nothing where it is there already: the same object, or a function or class with
    the same code, also if others were put on top of it.

    Parameters
    ----------
    owner
        A module, a class, or an object of one.
    name
        Of its attribute. `seamless_dask.neighbours.table` must have it.
    new
        What takes its place.

    Returns
    -------
    object
        What was there before.

    Raises
    ------
    NeighbourChanged
        If there is nothing of that name.
    LookupError
        If the table has no such entry.
    """
    present = current(owner, name)
    layer = present
    while layer is not _NOTHING:
        if _is_same(layer, new):
            return _place_of(layer, present)
        layer = _place_of(layer, _NOTHING)
    if isinstance(new, FunctionType | type):
        setattr(new, _PLACE_OF, present)
    setattr(owner, name, new)
    return present


def extend(owner: Any, name: str, make: Callable[[Any], Any]) -> Any:
    """Like `replace`, by what is made of what is there.

    Parameters
    ----------
    owner, name
        As for `replace`.
    make
        Gets what is there and returns what takes its place.
    """
    return replace(owner, name, make(current(owner, name)))


def current(owner: Any, name: str) -> Any:
    """Return what is there, for one who is going to replace it.

    Raises
    ------
    NeighbourChanged
        If there is nothing of that name.
    LookupError
        If the table has no such entry.
    """
    entry = _entry(owner, name)
    try:
        return getattr(owner, name)
    except AttributeError:
        raise NeighbourChanged(
            f"{entry.distribution} has no {entry} here ({entry.reason}): "
            "python -m seamless_dask.status --check says what to install"
        ) from None


def _entry(owner: Any, name: str) -> Name:
    for module, path in _descriptions(owner, name):
        entry = BY_NAME.get((module, path))
        if entry is not None and entry.use is Use.REPLACED:
            return entry
    raise LookupError(
        f"seamless_dask.neighbours.table does not say why {owner!r}.{name} is replaced"
    )


def _descriptions(owner: Any, name: str) -> list[tuple[str, str]]:
    """How the table may describe it: by the module, or by each class it comes from."""
    if isinstance(owner, ModuleType):
        return [(owner.__name__, name)]
    kind = owner if isinstance(owner, type) else type(owner)
    return [(each.__module__, f"{each.__qualname__}.{name}") for each in kind.__mro__]


def _is_same(layer: Any, new: Any) -> bool:
    if layer is new:
        return True
    if isinstance(layer, FunctionType) and isinstance(new, FunctionType):
        return layer.__code__ is new.__code__
    if isinstance(layer, MethodType) and isinstance(new, MethodType):
        return layer == new
    if isinstance(layer, type) and isinstance(new, type):
        return (layer.__module__, layer.__qualname__) == (
            new.__module__,
            new.__qualname__,
        )
    return False


def _place_of(layer: Any, default: Any) -> Any:
    return (
        vars(layer).get(_PLACE_OF, default) if hasattr(layer, "__dict__") else default
    )

"""Replaces functions and attributes of other packages; no other module does so.

The current object shows whether a name is replaced already, so other packages may replace
the same name before or after us, or put it back.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType, MethodType, ModuleType
from typing import Any

from ..errors import NeighbourChanged
from .names import Name, Use
from .table import BY_NAME

#: attribute of our function or class: the object that it has replaced
_PLACE_OF = "__seamless_dask_in_place_of__"
_NOTHING = object()


def replace(owner: Any, name: str, new: Any) -> Any:
    """Replace an attribute of another package by an object of ours.

    Does nothing if it is replaced already, by the same object or by a function or class
    with the same code, even if it was replaced again on top of that.

    Parameters
    ----------
    owner
        A module, a class, or an instance of a class.
    name
        The name of its attribute. `seamless_dask.neighbours.table` must have it.
    new
        The replacement.

    Returns
    -------
    object
        The replaced object.

    Raises
    ------
    NeighbourChanged
        If there is no such attribute.
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
    """Like `replace`, with a replacement that is made from the current object.

    Parameters
    ----------
    owner, name
        As for `replace`.
    make
        Gets the current object and returns the replacement.
    """
    return replace(owner, name, make(current(owner, name)))


def current(owner: Any, name: str) -> Any:
    """Return the current object of a name that is going to be replaced.

    Raises
    ------
    NeighbourChanged
        If there is no such attribute.
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
    """The keys that the table may use: of the module, or of each class in the MRO."""
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

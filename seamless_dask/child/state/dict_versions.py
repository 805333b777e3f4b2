"""Tells whether dictionaries have changed, without reading their entries.

CPython up to 3.13 counts the changes of all dictionaries, see PEP 509, and keeps the
count at its last change in each. Comparing these numbers takes two microseconds for the
names of thirty modules; comparing the values touches thousands of objects, which on a
busy machine are not in the caches of the processor.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType, ModuleType
from typing import Any

from .part import identities

#: offset of the number in a dictionary: behind the header of objects and the length
_OFFSET = object.__basicsize__ + ctypes.sizeof(ctypes.c_ssize_t)


class DictVersions:
    """Remembers the present state of dictionaries, and tells which have changed since.

    Where Python has no reliable counts (see `ARE_TOLD`), the values are compared.

    Parameters
    ----------
    dictionaries
        Dictionaries, or the ``__dict__`` of classes. They must exist as long as this
        object.

    Examples
    --------
    >>> names = {"one": 1}
    >>> versions = DictVersions([names, {}])
    >>> names["two"] = 2
    >>> versions.changed()
    [0]
    """

    def __init__(self, dictionaries: Iterable[Mapping[str, Any]]) -> None:
        self._dictionaries = [_behind(each) for each in dictionaries]
        if ARE_TOLD:
            self._numbers = [_number_of(each) for each in self._dictionaries]
        self.remember()

    def remember(self) -> None:
        """Remember the present state of the dictionaries instead."""
        self._known = self._present()

    def are_unchanged(self) -> bool:
        """Say whether no entry was added, removed or replaced since.

        Calls no builtin function if `ARE_TOLD`.
        """
        return self._present() == self._known

    def changed(self) -> list[int]:
        """Return which dictionaries may have changed since, by their positions."""
        present = self._present()
        if present == self._known:  # nearly always, and fast
            return []
        pairs = zip(present, self._known, strict=True)
        return [index for index, (now, known) in enumerate(pairs) if now != known]

    def _present(self) -> list[Any]:
        if ARE_TOLD:
            return [number.value for number in self._numbers]
        # Not all keys are compared: a new key would be the last.
        return [
            (identities(each.values()), next(reversed(each), None))
            for each in self._dictionaries
        ]


def _behind(mapping: Mapping[str, Any]) -> Any:
    """Return the dictionary that the ``__dict__`` of a class shows."""
    if isinstance(mapping, MappingProxyType):
        (mapping,) = gc.get_referents(mapping)
    return mapping


def _number_of(dictionary: Any) -> ctypes.c_uint64:
    return ctypes.c_uint64.from_address(id(dictionary) + _OFFSET)


def _are_told() -> bool:
    """Say whether this Python counts every kind of change, and nothing else."""
    module = ModuleType("probe")
    names = vars(module)
    functions: dict[str, Any] = {}
    exec(
        "def assign(value):\n"
        "    global name\n"
        "    name = value\n"
        "def set(module, value):\n"
        "    module.other = value\n",
        names,
        functions,
    )
    changes: list[Callable[[], object]] = [
        lambda: functions["assign"](object()),
        lambda: functions["set"](module, object()),
        lambda: names.update(name=object()),
        lambda: names.pop("name"),
        lambda: names.setdefault("name", object()),
        lambda: delattr(module, "other"),
        lambda: setattr(module, "other", object()),
    ]
    looks: list[Callable[[], object]] = [
        lambda: names.get("name"),
        lambda: module.other,
        lambda: dict(names),
        lambda: names.update(name=names["name"]),
    ]
    number = _number_of(names)
    # Often enough for the interpreter to specialise the code.
    for _ in range(100):
        for change in changes:
            before = number.value
            change()
            if number.value == before:
                return False
        for look in looks:
            before = number.value
            look()
            if number.value != before:
                return False
    return True


#: whether this Python counts the changes of dictionaries reliably
ARE_TOLD = _are_told()

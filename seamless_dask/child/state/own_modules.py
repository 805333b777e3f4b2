"""The part of the state of a process that is functions in the modules of Seamless."""

from __future__ import annotations

import sys
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from .dict_versions import DictVersions
from .part import Part

#: Packages of which Seamless processes consist.
PACKAGES = (
    *("seamless", "seamless_config", "seamless_remote", "seamless_transformer"),
    *("seamless_dask", "scheduler_ext"),
)
_IN_MODULES = (FunctionType, BuiltinFunctionType, type)
_IN_CLASSES = (FunctionType, staticmethod, classmethod, property)
_MISSING = object()


class OwnModules(Part):
    """Functions, classes and methods of Seamless that a job has replaced.

    Their other names are not put back: Seamless uses them. Replacements that come from
    these packages themselves stay.
    """

    title = "Functions, classes and methods in the loaded modules of Seamless"

    def __init__(self) -> None:
        self._owners: list[Any] = []
        self._baseline: list[dict[str, Any]] = []
        for name, module in list(sys.modules.items()):
            if type(module) is not ModuleType or not _is_own(name):
                continue
            self._add(module, _IN_MODULES)
            for value in list(vars(module).values()):
                if isinstance(value, type) and value.__module__ == name:
                    self._add(value, _IN_CLASSES)
        self._versions = DictVersions(map(vars, self._owners))

    def _add(self, owner: Any, kinds: tuple[type, ...]) -> None:
        known = {name: v for name, v in vars(owner).items() if isinstance(v, kinds)}
        self._owners.append(owner)
        self._baseline.append(known)

    def _replaced(self, changed: list[int]) -> list[tuple[int, str, Any]]:
        """The names that others have replaced or removed, with their present values."""
        found = []
        for place in changed:
            names, known = vars(self._owners[place]), self._baseline[place]
            for name, wanted in known.items():
                value = names.get(name, _MISSING)
                if value is wanted:
                    continue
                if _comes_from_us(value):
                    known[name] = value
                else:
                    found.append((place, name, value))
        return found

    def put_back(self) -> None:
        """Put the functions back; the end of a job needs them."""
        put = setattr
        changed = self._versions.changed()
        for place, name, _ in self._replaced(changed):
            put(self._owners[place], name, self._baseline[place][name])
        if changed:
            self._versions.remember()

    def save(self) -> list[tuple[int, str, Any]]:
        return self._replaced(self._versions.changed())

    def restore(self, saved: list[tuple[int, str, Any]]) -> None:
        self.put_back()
        for place, name, value in saved:
            if value is _MISSING:
                delattr(self._owners[place], name)
            else:
                setattr(self._owners[place], name, value)

    def reset(self) -> list[str]:
        self.put_back()
        return []


def _is_own(module: Any) -> bool:
    return isinstance(module, str) and module.partition(".")[0] in PACKAGES


def _comes_from_us(value: Any) -> bool:
    """Say whether a function or class is defined in one of our packages."""
    if type(value) is FunctionType:
        # __module__ is copied by decorators
        return _is_own(value.__globals__.get("__name__"))
    return isinstance(value, type) and _is_own(value.__module__)

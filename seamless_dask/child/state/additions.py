"""Additions that installed packages make to other modules at their import.

They stay, as the packages do: a package is not executed again for the next job that
imports it, and would miss its additions.
"""

from __future__ import annotations

import copyreg
import dis
import functools
import sys
import urllib.request
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from .modules import Finders, Modules
from .part import Attributes, Dictionaries, Lists, Part, same_entries


class Additions:
    """Tells additions of packages from additions of a job's own code.

    Parameters
    ----------
    modules
        Knows which modules are installed, and which of them a job has loaded.
    """

    def __init__(self, modules: Modules) -> None:
        self._modules = modules

    def is_one(self, name: str, value: Any) -> bool:
        """Say whether code of a package that the last job has loaded added a name.

        Parameters
        ----------
        name
            The name, which is new.
        value
            Its value: an object of that package, or a constant that has the same name
            there.
        """
        if isinstance(value, ModuleType):
            return False
        origin = module_of(value)
        modules = self._modules.loaded_from_packages()
        if origin is None:
            found = [
                module
                for module in modules.values()
                if vars(module).get(name, modules) is value
            ]
        elif origin in modules:
            top = origin.partition(".")[0]
            found = [modules[origin]]
            found += [
                module
                for other, module in modules.items()
                if other.partition(".")[0] == top
            ]
        else:
            return False
        return any(_sets(module, name) for module in found)

    def is_of_package(self, value: Any) -> bool:
        """Say whether a function or class is of a package that jobs have loaded."""
        origin = module_of(value)
        return origin is not None and self._modules.came_with_a_package(origin)


def module_of(value: Any) -> str | None:
    """Return the name of the module that defines an object, if that is known."""
    while isinstance(value, functools.partial):
        value = value.func
    if isinstance(value, FunctionType):
        # __module__ is copied by decorators
        name = value.__globals__.get("__name__")
    else:
        name = getattr(value, "__module__", None)
    return name if isinstance(name, str) else None


def _sets(module: ModuleType, name: str) -> bool:
    """Say whether the code of a module sets an attribute of that name."""
    try:
        code = module.__spec__.loader.get_code(module.__name__)  # type: ignore[union-attr]
    except (AttributeError, ImportError, OSError):  # not in Python, or no file
        return False
    return any(
        (found.opname == "STORE_ATTR" and found.argval == name)
        # setattr(..., name, ...)
        or (found.opname == "LOAD_CONST" and found.argval == name)
        for part in _parts(code)
        for found in dis.get_instructions(part)
    )


def _parts(code: CodeType | None) -> Iterator[CodeType]:
    if code is not None:
        yield code
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                yield from _parts(constant)


class PickleFunctions(Part):
    """Functions for pickling; those of packages stay."""

    title = "`copyreg.dispatch_table`"

    def __init__(self, additions: Additions) -> None:
        self._additions = additions
        self._table: dict[Any, Any] = copyreg.dispatch_table
        self._baseline = self.save()

    def save(self) -> dict[Any, Any]:
        return dict(self._table)

    def restore(self, saved: dict[Any, Any]) -> None:
        if same_entries(self._table, saved):
            return
        for kind, function in list(self._table.items()):
            if kind not in saved and not self._additions.is_of_package(function):
                del self._table[kind]
        self._table.update(saved)

    def reset(self) -> list[str]:
        if not same_entries(self._table, self._baseline):
            self.restore(self._baseline)
            self._baseline = self.save()
        return []


def module_parts(modules: Modules, additions: Additions) -> list[Part]:
    """Return the parts that are modules, in the order in which they are put back."""
    return [
        Lists("`sys.path`, `sys.argv`", sys.path, sys.argv),
        Dictionaries("`sys.path_importer_cache`", sys.path_importer_cache),
        modules,
        Finders(modules),
        PickleFunctions(additions),
        Attributes("Opener of `urllib.request`", (urllib.request, "_opener")),
    ]

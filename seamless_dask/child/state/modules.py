"""The parts of the state of a process that are its modules and where they come from."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from . import native_code
from .dict_versions import DictVersions
from .part import Part, identities, same_entries, same_items


class Modules(Part):
    """Modules that a transformation brings along, or writes and imports."""

    title = "Loaded modules that are not of the installation; replaced or removed ones"

    def __init__(self, temporary: Iterable[str]) -> None:
        self._known: dict[str, Any] = dict(sys.modules)
        self._unchanged = self._present()
        self._versions = DictVersions([sys.modules])
        self._first = frozenset(self._known)
        self._packages = {name.partition(".")[0] for name in self._known}
        self._prefixes = native_code.installation_folders()
        self._folders = set(native_code.import_folders(temporary))

    def save(self) -> tuple[dict[str, Any], set[str]]:
        if self._versions.are_unchanged() or self._present() == self._unchanged:
            return self._known, set()
        modules = dict(sys.modules)
        return modules, self._known.keys() - modules.keys()

    def restore(self, saved: tuple[dict[str, Any], set[str]]) -> None:
        modules, removed = saved
        if not same_entries(sys.modules, modules):
            self._put_back(modules)
            for name in removed:
                sys.modules.pop(name, None)

    def reset(self) -> list[str]:
        if self._versions.are_unchanged():
            return []
        # Each job adds modules temporarily, so the modules may be the known ones again.
        if self._present() != self._unchanged:
            self._put_back(self._known)
            self._known = dict(sys.modules)
            self._unchanged = self._present()
        self._versions.remember()
        return []

    @staticmethod
    def _present() -> tuple[bytes, str | None]:
        """Return the identities of all modules, and the last name: a new one is last."""
        return identities(sys.modules.values()), next(reversed(sys.modules), None)

    def _put_back(self, wanted: dict[str, Any]) -> None:
        modules = sys.modules
        changed = [
            name
            for name, module in list(modules.items())
            if wanted.get(name, modules) is not module
        ]
        # Parents come before their submodules, so it is decided whether they stay.
        for name in sorted(changed):
            if name not in wanted and not self.is_installed(name):
                module = modules.pop(name)
                parent, attribute = self._place(name)
                if vars(parent).get(attribute, parent) is module:
                    delattr(parent, attribute)
        for name, module in wanted.items():
            if modules.get(name, modules) is not module:
                modules[name] = module
                parent, attribute = self._place(name)
                if parent is not self:
                    setattr(parent, attribute, module)

    def _place(self, name: str) -> tuple[Any, str]:
        """Return the parent of a module (`self` without one), and the attribute name."""
        parent, _, attribute = name.rpartition(".")
        found = sys.modules.get(parent)
        return (found if isinstance(found, ModuleType) else self), attribute

    def loaded_from_packages(self) -> dict[str, ModuleType]:
        """Return the modules of packages that the last job has loaded.

        They are installed, and not of the standard library.
        """
        return {
            name: module
            for name, module in list(sys.modules.items())
            if name not in self._known
            and isinstance(module, ModuleType)
            and name.partition(".")[0] not in sys.stdlib_module_names
            and self.is_installed(name)
        }

    def came_with_a_package(self, name: str) -> bool:
        """Say whether a module is installed, and was not there at the beginning."""
        return name not in self._first and self.is_installed(name)

    def is_installed(self, name: str) -> bool:
        """Say whether a loaded module belongs to the installation, and may stay."""
        module = sys.modules.get(name)
        top, _, below = name.partition(".")
        if module is None:
            return False
        places = self._places(module)
        if places == ["built-in"] or places == ["frozen"]:
            return True
        if places and all(native_code.is_inside(p, self._prefixes) for p in places):
            return True
        if below:  # also modules without a file, which packages create
            if top not in self._packages and not self.is_installed(top):
                return False
            around = [
                os.path.dirname(place)
                for place in self._places(sys.modules.get(top))
                if os.path.isabs(place)
            ]
            return all(native_code.is_inside(p, around) for p in places)
        return bool(places) and all(self._folder(p) in self._folders for p in places)

    @staticmethod
    def _places(module: Any) -> list[str]:
        """Return where a module is from: a file, or folders of a namespace."""
        content = getattr(module, "__dict__", {})
        spec = content.get("__spec__")
        origin = getattr(spec, "origin", None) or content.get("__file__")
        if isinstance(origin, str) and origin != "namespace":
            return [origin]
        return list(getattr(spec, "submodule_search_locations", None) or ())

    @staticmethod
    def _folder(place: str) -> str:
        """Return the folder in which the file or folder of a top-level module is."""
        folder = os.path.dirname(place)
        if os.path.basename(place).startswith("__init__."):
            folder = os.path.dirname(folder)
        return folder


class Finders(Part):
    """Import finders; those of installed packages stay, as the packages do."""

    title = "`sys.meta_path` and `sys.path_hooks`"

    def __init__(self, modules: Modules) -> None:
        self._modules = modules
        self._lists: tuple[list[Any], ...] = (sys.meta_path, sys.path_hooks)
        self._baseline = self.save()

    def save(self) -> list[list[Any]]:
        return [list(finders) for finders in self._lists]

    def restore(self, saved: list[list[Any]]) -> None:
        for finders, wanted in zip(self._lists, saved, strict=True):
            if not same_items(finders, wanted):
                finders[:] = [
                    finder
                    for finder in finders
                    if all(finder is not known for known in wanted)
                    and self._is_installed(finder)
                ] + wanted

    def _is_installed(self, finder: Any) -> bool:
        owner = finder if hasattr(finder, "__module__") else type(finder)
        name = getattr(owner, "__module__", None)
        return isinstance(name, str) and self._modules.came_with_a_package(name)

    def reset(self) -> list[str]:
        self.restore(self._baseline)
        self._baseline = self.save()
        return []

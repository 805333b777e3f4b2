"""The parts of the state of a process that are its modules and what is in them."""

from __future__ import annotations

import builtins
import copyreg
import datetime
import decimal
import functools
import io
import json
import logging
import math
import os
import pathlib
import random
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
import warnings
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from . import native_code
from .state_part import Attributes, Dictionaries, Lists, Part, same_entries, same_items

#: modules whose names are put back; those that people replace functions of
NAMESPACES: tuple[ModuleType, ...] = (
    builtins,
    sys,
    os,
    time,
    datetime,
    random,
    math,
    statistics,
    decimal,
    json,
    io,
    pathlib,
    shutil,
    tempfile,
    functools,
    subprocess,
    threading,
    signal,
    socket,
    ssl,
    uuid,
    logging,
    warnings,
)

#: classes whose attributes are put back
CLASSES: tuple[type, ...] = (
    json.JSONEncoder,
    json.JSONDecoder,
    logging.Logger,
    pathlib.Path,
    pathlib.PurePath,
    random.Random,
    subprocess.Popen,
    threading.Thread,
)


def _mutable(names: dict[str, Any]) -> dict[str, Any]:
    """Return those whose values may change; such values have no hash."""
    return {k: value for k, value in names.items() if type(value).__hash__ is None}


class Namespaces(Part):
    """Names of modules and classes of the standard library that were replaced.

    All other parts use these modules: they are saved and put back while the names are
    those of the baseline. The builtin functions come first, with nothing but methods.
    """

    title = "Names in modules and classes of the standard library (list below)"

    def __init__(self) -> None:
        self._owners: tuple[Any, ...] = (*NAMESPACES, *CLASSES)
        self._baseline = [dict(vars(owner)) for owner in self._owners]
        self._values = [[*names.values()] for names in self._baseline]
        self._mutable = [_mutable(names) for names in self._baseline]
        self._builtins = vars(builtins)

    def save(self) -> list[dict[str, Any]]:
        of_builtins = self._builtins.copy()
        self._builtins.update(self._baseline[0])
        saved = [
            known if same_entries(names, known) else dict(names)
            for names, known in zip(
                [of_builtins, *map(vars, self._owners[1:])], self._baseline, strict=True
            )
        ]
        self._put_back(builtins, saved[0])
        return saved

    def are_changed(self, saved: list[dict[str, Any]]) -> bool:
        """Say whether names in the result of `save` differ from the baseline."""
        return not same_items(saved, self._baseline)

    def restore(self, saved: list[dict[str, Any]]) -> None:
        # The last first: what is done here needs the builtin functions.
        for owner, wanted in reversed([*zip(self._owners, saved, strict=True)]):
            self._put_back(owner, wanted)

    @staticmethod
    def _put_back(owner: Any, wanted: dict[str, Any]) -> None:
        now = vars(owner)
        if same_entries(now, wanted):
            return
        now = dict(now)
        extra = [
            name
            for name in now.keys() - wanted.keys()
            if not _is_submodule(owner, name, now[name])
        ]
        put, remove = setattr, delattr  # they may be among them
        for name, value in wanted.items():
            if name not in now or now[name] is not value:
                put(owner, name, value)
        for name in extra:
            remove(owner, name)

    def reset(self) -> list[str]:
        self._builtins.update(self._baseline[0])
        for i, owner in enumerate(self._owners):
            if not self._is_unchanged(i):
                self._put_back(owner, self._baseline[i])
                # submodules have stayed, and the order may be another
                self._baseline[i] = dict(vars(owner))
                self._values[i] = [*self._baseline[i].values()]
                self._mutable[i] = _mutable(self._baseline[i])
        return []

    def _is_unchanged(self, i: int) -> bool:
        """Like `same_entries`, but what cannot change and is equal is the same.

        That takes a third of the time.
        """
        names = vars(self._owners[i])
        try:
            same = [*names.values()] == self._values[i]
        except Exception:  # noqa: BLE001 - an object of the job does not compare
            return False
        return (
            same
            and next(reversed(names)) == next(reversed(self._baseline[i]))
            and all(names[name] is value for name, value in self._mutable[i].items())
        )


def _is_submodule(owner: Any, name: str, value: Any) -> bool:
    return (
        isinstance(owner, ModuleType)
        and isinstance(value, ModuleType)
        and sys.modules.get(f"{owner.__name__}.{name}") is value
    )


class Modules(Part):
    """Modules that a transformation brings along, or writes and imports."""

    title = "Loaded modules that are not of the installation; replaced or removed ones"

    def __init__(self, temporary: Iterable[str]) -> None:
        self._known: dict[str, Any] = dict(sys.modules)
        self._first = frozenset(self._known)
        self._packages = {name.partition(".")[0] for name in self._known}
        self._prefixes = native_code.installation_folders()
        self._folders = set(native_code.import_folders(temporary))

    def save(self) -> tuple[dict[str, Any], set[str]]:
        if same_entries(sys.modules, self._known):
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
        if not same_entries(sys.modules, self._known):
            self._put_back(self._known)
            self._known = dict(sys.modules)
        return []

    def _put_back(self, wanted: dict[str, Any]) -> None:
        modules = sys.modules
        changed = [
            name
            for name, module in list(modules.items())
            if wanted.get(name, modules) is not module
        ]
        # Its parents come before a module, so they are known to go or to stay.
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
        """Return the module that holds one as an attribute; `self` if there is none."""
        parent, _, attribute = name.rpartition(".")
        found = sys.modules.get(parent)
        return (found if isinstance(found, ModuleType) else self), attribute

    def came_with_a_package(self, name: str) -> bool:
        """Say whether a module is installed, and was not there at the beginning."""
        return name not in self._first and self.is_installed(name)

    def is_installed(self, name: str) -> bool:
        """Say whether a loaded module is one of the installation, and may stay."""
        module = sys.modules.get(name)
        top, _, below = name.partition(".")
        if module is None:
            return False
        places = self._places(module)
        if places == ["built-in"] or places == ["frozen"]:
            return True
        if places and all(native_code.is_inside(p, self._prefixes) for p in places):
            return True
        if below:  # also those that packages make up, without a file
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
    """Those that installed packages have added stay, as do the packages."""

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


def module_parts(temporary: Iterable[str]) -> list[Part]:
    """Return these parts, in the order in which they are put back.

    Parameters
    ----------
    temporary
        See `seamless_dask.native_code.import_folders`.
    """
    modules = Modules(temporary)
    return [
        Lists("`sys.path`, `sys.argv`", sys.path, sys.argv),
        Dictionaries("`sys.path_importer_cache`", sys.path_importer_cache),
        modules,
        Finders(modules),
        Dictionaries("`copyreg.dispatch_table`", copyreg.dispatch_table),
        Attributes("What `urllib.request` opens with", (urllib.request, "_opener")),
    ]

"""Nothing of another package is replaced or read in secret: the source is compared.

A heuristic, which finds what is written the usual way: ``module._name``,
``from module import _name``, ``thing._name`` where no class of ours has such a name, and
methods that a class of ours defines anew.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from helpers.paths import ROOT

from seamless_dask.neighbours.names import Name, Use
from seamless_dask.neighbours.table import NAMES
from seamless_dask.neighbours.table_seamless import CACHE_METHODS

PACKAGES = ("seamless_dask", "scheduler_ext")
#: they have an underscore, but Python's documentation describes them
DOCUMENTED = {
    "ctypes._Pointer",
    "os._exit",
    "sys._current_frames",
    "sys._getframe",
}
#: assigned to other packages without `replace`, and why that is right
ASSIGNED = {
    # what tempfile documents as the way to set it
    "tempfile.tempdir",
    # state of a process that was just forked: assigned as their owners do
    "seamless._require_close",
    "worker._has_spawned",
    # while a module is imported, which must not replace handlers; put back afterwards
    "signal.signal",
}
#: what Python itself keeps in classes
OF_PYTHON = {"_abc_impl", "_is_protocol"}
#: what it does when it is imported is for a process of its own
OWN_PROCESS = ("__main__", "template", "preload")


@cache
def sources() -> dict[Path, ast.Module]:
    """All of ours but the table itself."""
    return {
        path.relative_to(ROOT): ast.parse(path.read_text("utf-8"))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if not path.name.startswith("table") or path.parent.name not in ("neighbours",)
    }


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and not name.endswith("_")


def is_foreign(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] not in PACKAGES


def imports(tree: ast.Module) -> dict[str, str]:
    """{name in a file: what of other packages it stands for}."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if is_foreign(alias.name):
                    name = alias.name if alias.asname else alias.name.partition(".")[0]
                    found[alias.asname or name] = name
        elif isinstance(node, ast.ImportFrom) and not node.level:
            if is_foreign(node.module):
                for alias in node.names:
                    found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


@cache
def own_names() -> set[str]:
    """What is defined in our packages: functions, classes, variables, attributes."""
    found: set[str] = set()
    for tree in sources().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                if isinstance(node.value, ast.Name) and node.value.id == "self":
                    found.add(node.attr)
    return found


def used() -> Iterator[tuple[str, str]]:
    """Private names of other packages, and where they are used."""
    for path, tree in sources().items():
        known = imports(tree)
        for node in ast.walk(tree):
            where = f"{path}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.ImportFrom) and is_foreign(node.module):
                if not node.level:
                    yield from ((a.name, where) for a in node.names)
            elif isinstance(node, ast.Attribute):
                owner = ast.unparse(node.value)
                root, _, rest = owner.partition(".")
                if root in known:
                    owner = ".".join(filter(None, (known[root], rest)))
                    if f"{owner}.{node.attr}" not in DOCUMENTED:
                        yield node.attr, where
                elif node.attr not in own_names():
                    yield node.attr, where


def test_every_private_name_is_in_the_table() -> None:
    """Whoever uses another one says there what for."""
    table = {part for entry in NAMES for part in entry.name.split(".")}
    table |= {part for entry in NAMES for part in entry.module.split(".")}
    missing = {
        f"{name} ({where})"
        for name, where in used()
        if is_private(name) and name not in table
    }
    assert not missing


def overridden() -> Iterator[str]:
    for path in sources():
        if path.stem in OWN_PROCESS:
            continue
        parts = path.with_suffix("").parts
        module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
        for kind in vars(module).values():
            if not isinstance(kind, type) or kind.__module__ != module.__name__:
                continue
            for base in kind.__mro__[1:]:
                if base.__module__.partition(".")[0] in (*PACKAGES, "builtins"):
                    continue
                for name in vars(kind).keys() & vars(base).keys():
                    if is_private(name) and name not in OF_PYTHON:
                        yield name


def test_every_method_that_is_defined_anew_is_in_the_table() -> None:
    table = {e.name.rpartition(".")[2] for e in NAMES if e.use is Use.OVERRIDDEN}
    assert set(overridden()) - table == set()


def assigned() -> Iterator[tuple[str, str]]:
    """What is assigned to a module or a class of another package."""
    for path, tree in sources().items():
        known = imports(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                owner = ast.unparse(node.value)
                if owner.partition(".")[0] in known:
                    yield f"{owner}.{node.attr}", f"{path}:{node.lineno}"


def test_nothing_is_replaced_in_another_way() -> None:
    """Modules and classes of others are changed by `replace` only."""
    others = {f"{name} ({where})" for name, where in assigned() if name not in ASSIGNED}
    assert not others
    assert {name for name, _ in assigned()} == ASSIGNED


def test_what_is_assigned_to_objects_is_in_the_table() -> None:
    """Private attributes of other packages' objects: by `replace`, or as one to set."""
    known = {e.name.rpartition(".")[2] for e in NAMES if e.use is Use.SET}
    others = {
        f"{ast.unparse(node)} ({path}:{node.lineno})"
        for path, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and is_private(node.attr)
        and node.attr not in own_names() | known
    }
    assert not others


@cache
def mentioned() -> set[str]:
    """All names and texts in our source."""
    found: set[str] = set(CACHE_METHODS)
    for tree in sources().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
            elif isinstance(node, ast.alias):
                found.add(node.name)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(node.name)
            elif isinstance(node, ast.Name):
                found.add(node.id)
    return found


@cache
def replaced() -> set[str]:
    """Texts in calls by which something is replaced, and in what these are called with."""
    found: set[str] = set(CACHE_METHODS)
    for path, tree in sources().items():
        source = (ROOT / path).read_text("utf-8")
        if "replacing import" in source:
            found.update(
                node.value
                for node in ast.walk(tree)
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            )
    return found


@pytest.mark.parametrize("entry", NAMES, ids=str)
def test_no_entry_is_out_of_date(entry: Name) -> None:
    """What nobody uses any more leaves the table."""
    last = entry.name.rpartition(".")[2]
    assert last in mentioned()
    if entry.use is Use.REPLACED:
        assert last in replaced()

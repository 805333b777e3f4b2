"""What is imported is declared, with bounds from which environments can be made."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
from helpers.paths import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGES = ("seamless_dask", "scheduler_ext")
#: what runs from a clone, with the extra "test", which has "local" in it
SCRIPTS = (".ci", "benchmarks", "docs", "examples", "tests")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
#: found by name at run time, from what a user writes: a cluster class
BY_NAME = {"dask-jobqueue"}
#: in the standard library from Python 3.11 on, and what is declared for those before
TOML = {"tomllib", "tomli"}
#: modules that tests write, and then import
WRITTEN = {"settings_of_program", "space", "written"}


def names(declared: list[str]) -> set[str]:
    """The distributions that requirements ask for."""
    return {canonicalize_name(Requirement(each).name) for each in declared}


NEEDED = names(PROJECT["dependencies"])
EXTRAS = PROJECT["optional-dependencies"]
FOR_TESTS = names(EXTRAS["test"] + EXTRAS["local"])


def modules(folders: tuple[str, ...]) -> Iterator[Path]:
    for folder in folders:
        yield from (ROOT / folder).rglob("*.py")


def imported(path: Path) -> Iterator[str]:
    """Top-level names that a file imports, at whatever depth of its code."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).partition(".")[0]


@cache
def _owners() -> dict[str, set[str]]:
    """{top-level name: distributions}, by the files that are installed here.

    What the standard library has for it does not look at files before Python 3.11.
    """
    owners: dict[str, set[str]] = {}
    for distribution in metadata.distributions():
        owner = canonicalize_name(distribution.metadata["Name"])
        for path in distribution.files or []:
            if path.suffix in (".py", ".so"):
                owners.setdefault(path.parts[0].partition(".")[0], set()).add(owner)
    return owners


def distributions_of(name: str) -> set[str]:
    """What is installed here and has this top-level name."""
    return _owners().get(name, set())


def third_party(folders: tuple[str, ...]) -> dict[str, Path]:
    """{top-level name: a file that imports it}, without the standard library and us."""
    own = {*PACKAGES, *WRITTEN, *TOML, *(path.stem for path in modules(SCRIPTS))}
    own |= {path.parent.name for path in modules(SCRIPTS)}
    return {
        name: path
        for path in modules(folders)
        for name in imported(path)
        if name not in sys.stdlib_module_names and name not in own
    }


@pytest.mark.parametrize(
    ("folders", "declared"),
    [(PACKAGES, NEEDED), (SCRIPTS, NEEDED | FOR_TESTS)],
    ids=["packages", "scripts"],
)
def test_imports_are_declared(folders: tuple[str, ...], declared: set[str]) -> None:
    """Not only there because somebody else needs it, who may stop doing so."""
    undeclared = {
        name: str(path.relative_to(ROOT))
        for name, path in third_party(folders).items()
        # tomli is the name that Python 3.11 has no more need of
        if name != "tomli" and not declared & distributions_of(name)
    }
    assert not undeclared


def test_what_is_declared_is_imported() -> None:
    """Nobody has to install what the packages do not use."""
    used: set[str] = set().union(*map(distributions_of, third_party(PACKAGES)))
    assert NEEDED - used == BY_NAME


def script(name: str) -> ModuleType:
    """One of those in ``.ci``."""
    path = ROOT / ".ci" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def lower_bounds() -> ModuleType:
    """The script that ``make test-oldest`` takes its constraints from."""
    return script("lower_bounds")


def test_each_dependency_has_a_lower_bound(lower_bounds: ModuleType) -> None:
    """So the oldest environment is wholly determined, and within all bounds."""
    lines = lower_bounds.constraints({"project": PROJECT})
    assert len(lines) == len(PROJECT["dependencies"])
    for line, declared in zip(lines, PROJECT["dependencies"], strict=True):
        name, version = line.split("==")
        assert name == Requirement(declared).name
        assert Requirement(declared).specifier.contains(version)


@pytest.mark.parametrize("declared", ["a", "a<2", "a>1", "a==1", "a>=1,>=2"])
def test_other_requirements_are_refused(
    lower_bounds: ModuleType, declared: str
) -> None:
    """A bound that nobody tries is none."""
    with pytest.raises(ValueError, match=f"dependencies in .*{declared}.*allowed"):
        lower_bounds.lower_bound(declared)


def test_pythons_for_the_oldest_and_the_newest_dependencies() -> None:
    """Compared as numbers; none if there is none that would tell something new."""
    pythons = script("pythons")
    found = {
        version: Path(f"python{version}")
        for version in [(3, 11, 7), (3, 13, 0), (3, 10, 2), (3, 10, 13)]
    }
    assert pythons.chosen("oldest", found, (3, 11, 7)) == found[3, 10, 2]
    assert pythons.chosen("newest", found, (3, 11, 7)) == found[3, 13, 0]
    assert pythons.chosen("newest", found, (3, 13, 1)) is None
    only = {(3, 13, 0): Path("python3.13")}
    assert pythons.chosen("oldest", only, (3, 13, 0)) is None
    with pytest.raises(ValueError, match="which: got 'other', allowed"):
        pythons.chosen("other", found, (3, 11, 7))
    assert sys.version_info[:3] in pythons.usable()

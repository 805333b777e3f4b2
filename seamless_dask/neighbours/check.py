"""Compares the installed packages with the table of private names and the allowed versions.

`check` runs at every start: it imports nothing, and checks names only in modules that the
process has loaded already. `report` imports all modules.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple

from ..errors import NeighbourChanged
from .names import Name, Where, is_there
from .table import NAMES
from .versions import PYTHON, is_allowed, least, requirements, version_of


class Neighbour(NamedTuple):
    """A package, or Python, and the state of its installation.

    Attributes
    ----------
    distribution
        Its name.
    version
        The installed version; None: it is not installed.
    allowed
        The allowed versions, such as ``">=0.6,<0.7"``; empty: any.
    names
        The entries of the table whose names exist.
    missing
        The entries that are needed and whose names do not exist.
    """

    distribution: str
    version: str | None
    allowed: str
    names: tuple[Name, ...] = ()
    missing: tuple[Name, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether its version is allowed; True if it is not installed."""
        return self.version is None or is_allowed(self.version, self.allowed)

    @property
    def ok(self) -> bool:
        """Whether there is no problem with it."""
        installed = self.version is not None or not self.allowed
        return installed and self.fits and not self.missing

    @property
    def advice(self) -> str:
        """The version to install instead, as an instruction."""
        version = self.allowed
        if self.fits and self.missing:
            # The tests have passed with the lower bound.
            version = f"=={least(self.allowed)}" if self.allowed else ""
        if self.distribution == PYTHON:
            return f"install Python {version.lstrip('=')}"
        return f"pip install '{self.distribution}{version}'"

    def problems(self) -> Iterator[str]:
        """Yield its problems, one line each."""
        if self.version is None and self.allowed:
            yield f"{self.distribution} is not installed ({self.advice})"
            return
        what = f"{self.distribution} {self.version or 'of an unknown version'}"
        if not self.fits:
            yield f"{what}: allowed is {self.allowed} ({self.advice})"
        for entry in self.missing:
            yield f"{what} has no {entry}: {entry.reason} ({self.advice})"


@cache
def check(where: Where) -> None:
    """Check, once per process and role, whether we can work with the loaded packages.

    Parameters
    ----------
    where
        The role of the process.

    Raises
    ------
    NeighbourChanged
        If we cannot; its text has all problems.
    """
    used = [
        entry for entry in NAMES if entry.module in sys.modules and entry.where & where
    ]
    missing = [entry for entry in used if _is_missing(entry)]
    problems = [
        problem
        for neighbour in _neighbours(
            dict.fromkeys(entry.distribution for entry in used), missing=missing
        )
        for problem in _as_loaded(neighbour).problems()
    ]
    if problems:
        raise NeighbourChanged(
            "This version of seamless-dask cannot work with what is installed:\n"
            + "".join(f"- {problem}\n" for problem in problems)
            + "python -m seamless_dask.status --check shows all that it needs"
        )


def _as_loaded(neighbour: Neighbour) -> Neighbour:
    """Accept a package that is loaded but not installed, for example from a path."""
    return neighbour if neighbour.version else neighbour._replace(allowed="")


def report() -> list[Neighbour]:
    """Import all modules of the table, and return the state of each package."""
    found: list[Name] = []
    missing: list[Name] = []
    for entry in NAMES:
        try:
            importlib.import_module(entry.module)
        except ImportError:
            missing.append(entry)
            continue
        if _is_missing(entry):
            missing.append(entry)
        elif is_there(entry):
            found.append(entry)
    return [
        each if each.version else each._replace(missing=())
        for each in _neighbours(
            {**requirements(), **dict.fromkeys(entry.distribution for entry in NAMES)},
            found,
            missing,
        )
    ]


def _is_missing(entry: Name) -> bool:
    if not entry.needed or is_there(entry):
        return False
    # Another thread may be importing it at the moment; this waits for that.
    importlib.import_module(entry.module)
    return not is_there(entry)


def _neighbours(
    distributions: Iterable[str],
    names: Iterable[Name] = (),
    missing: Iterable[Name] = (),
) -> Iterator[Neighbour]:
    present = _by_distribution(names)
    absent = _by_distribution(missing)
    allowed = requirements()
    for distribution in distributions:
        yield Neighbour(
            distribution,
            version_of(distribution),
            allowed.get(distribution, ""),
            tuple(present.get(distribution, ())),
            tuple(absent.get(distribution, ())),
        )


def _by_distribution(entries: Iterable[Name]) -> dict[str, list[Name]]:
    sorted_: dict[str, list[Name]] = {}
    for entry in entries:
        sorted_.setdefault(entry.distribution, []).append(entry)
    return sorted_

"""Compares what is installed with what this version knows of its neighbours.

`check` is for every start: it imports nothing, and looks at names only in modules that
the process uses already. `report` imports all of them.
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
    """A package, or Python, and what there is of it.

    Attributes
    ----------
    distribution
        Its name.
    version
        What is installed; None: it is not.
    allowed
        The versions that may be, such as ``">=0.6,<0.7"``; empty: any.
    names
        The entries of the table that are there.
    missing
        Those that are needed and not there.
    """

    distribution: str
    version: str | None
    allowed: str
    names: tuple[Name, ...] = ()
    missing: tuple[Name, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether its version may be used; one that is not installed says so itself."""
        return self.version is None or is_allowed(self.version, self.allowed)

    @property
    def ok(self) -> bool:
        """Whether it can be used as it is."""
        installed = self.version is not None or not self.allowed
        return installed and self.fits and not self.missing

    @property
    def advice(self) -> str:
        """What to install instead."""
        version = self.allowed
        if self.fits and self.missing:
            # All tests have passed with it.
            version = f"=={least(self.allowed)}" if self.allowed else ""
        if self.distribution == PYTHON:
            return f"install Python {version.lstrip('=')}"
        return f"pip install '{self.distribution}{version}'"

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with it, as lines."""
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
    """Find out, once per process and role, whether it can work with its neighbours.

    Parameters
    ----------
    where
        What the process is.

    Raises
    ------
    NeighbourChanged
        If it cannot; all problems are in its text.
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
    """Take no offence at one that is here without being installed, by a path say."""
    return neighbour if neighbour.version else neighbour._replace(allowed="")


def report() -> list[Neighbour]:
    """Import what the table names, and return what there is of each package."""
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
    # Another thread may just be importing it; this waits for that.
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

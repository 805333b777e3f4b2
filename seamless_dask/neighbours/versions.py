"""Which versions are installed, and which our own package allows.

Both come from the metadata of installed packages, because ``pyproject.toml`` is not there.
"""

from __future__ import annotations

import platform
import re
from importlib import metadata

OURSELVES = "seamless-dask"
#: the name that stands for the interpreter and its standard library
PYTHON = "Python"

_REQUIREMENT = re.compile(r"Requires-(?:Dist|Python): ([A-Za-z][\w.-]*)?([^;]*)(;.*)?")
_BOUND = re.compile(r"(>=|<=|==|<|>)\s*(\d+(?:\.\d+)*)")


def requirements() -> dict[str, str]:
    """Return the versions that our own package allows, by distribution.

    Empty if our package is not installed but only found on the path.
    """
    allowed = {}
    for line in _header(OURSELVES):
        found = _REQUIREMENT.fullmatch(line)
        if found is not None and "extra" not in (found[3] or ""):
            bounds = [each.strip() for each in found[2].split(",")]
            allowed[found[1] or PYTHON] = ",".join(sorted(bounds, reverse=True))
    return allowed


def version_of(distribution: str) -> str | None:
    """Return the installed version of a distribution; None if it is not installed."""
    if distribution == PYTHON:
        return platform.python_version()
    for line in _header(distribution):
        if line.startswith("Version: "):
            return line.removeprefix("Version: ").strip()
    return None


def is_allowed(version: str, allowed: str) -> bool:
    """Return whether a version is within bounds; a pre-release counts as its release."""
    have = _numbers(version)
    compare = {
        ">=": have.__ge__,
        "<=": have.__le__,
        "==": have.__eq__,
        ">": have.__gt__,
        "<": have.__lt__,
    }
    return all(
        compare[operator](_numbers(bound))
        for operator, bound in _BOUND.findall(allowed)
    )


def least(allowed: str) -> str:
    """Return the lower bound of the allowed versions."""
    return next(
        bound for operator, bound in _BOUND.findall(allowed) if operator == ">="
    )


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"v?(?:\d+!)?(\d+(?:\.\d+)*)", version)
    numbers = [int(each) for each in found[1].split(".")] if found else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _header(distribution: str) -> list[str]:
    """Return the metadata lines of a distribution, without its description.

    `importlib.metadata.Distribution.metadata` parses the description as well, which takes
    a millisecond for each distribution.
    """
    try:
        found = metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return []
    text = found.read_text("METADATA") or found.read_text("PKG-INFO") or ""
    return text.partition("\n\n")[0].splitlines()

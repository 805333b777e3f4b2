"""Print pip constraints with exactly the lower bounds that pyproject.toml declares.

Those of the package itself; what only its tests need may be of any version.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def lower_bound(declared: str) -> str:
    """``name==version`` for ``name>=version,...``.

    Raises ValueError if there is no lower bound, or more than one.
    """
    requirement = Requirement(declared)
    bounds = [each.version for each in requirement.specifier if each.operator == ">="]
    if len(bounds) != 1:
        raise ValueError(
            f"dependencies in {PYPROJECT.name}: got {declared!r}, "
            "allowed: a requirement with one lower bound, as in 'name>=1.2'"
        )
    return f"{requirement.name}=={bounds[0]}"


def constraints(pyproject: dict[str, Any]) -> list[str]:
    """A line for each dependency."""
    return [lower_bound(each) for each in pyproject["project"]["dependencies"]]


if __name__ == "__main__":
    print(*constraints(tomllib.loads(PYPROJECT.read_text("utf-8"))), sep="\n")

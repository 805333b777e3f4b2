"""Parameters that are given inside ``extra_dask_config``.

seamless-config has no field for them, but passes ``extra_dask_config`` on unchanged. So
``seamless.transformation-throttle`` there, dotted or nested, is the parameter
``transformation_throttle``. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SECTION = "seamless"
NAMES = ("transformation_throttle", "timeout")


@dataclass
class Hidden:
    """The parameters that were found, and the rest."""

    #: The configuration without these parameters.
    rest: Any
    #: {name of a parameter: (how it was written, value)}
    found: dict[str, tuple[str, Any]] = field(default_factory=dict)
    #: Names in the section that are no parameters.
    unknown: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def extract(config: Any) -> Hidden:
    """Take the parameters out of ``extra_dask_config``, which may be of any type."""
    if not isinstance(config, dict):
        return Hidden(config)
    hidden = Hidden({})
    for key, value in config.items():
        section, _, below = str(key).partition(".")
        if section != SECTION:
            hidden.rest[key] = value
        elif below:
            _take(below, value, hidden)
        elif isinstance(value, dict):
            for name, content in value.items():
                _take(str(name), content, hidden)
        elif value is not None:
            hidden.problems.append(
                f"extra_dask_config {SECTION} = {value!r}: allowed is a mapping with "
                f"{' and '.join(NAMES)}"
            )
    return hidden


def _take(name: str, value: Any, hidden: Hidden) -> None:
    written = f"extra_dask_config {SECTION}.{name}"
    parameter = name.replace("-", "_")
    if parameter not in NAMES:
        hidden.unknown.append(written)
    elif value is not None:
        before = hidden.found.setdefault(parameter, (written, value))
        if before[1] != value:
            hidden.problems.append(
                f"{written} = {value!r}: contradicts {before[0]} = {before[1]!r}"
            )

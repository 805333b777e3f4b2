"""The types of parameters: they check values and convert them."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from . import value_schemas
from .durations import is_bare, parse_duration, parse_memory
from .value_schemas import LARGEST


def ensure_list(value: Any) -> Any:
    """Accept a single string in place of a list of strings."""
    return [value] if isinstance(value, str) else value


def _not_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("true and false are not numbers")
    return value


def _whole(value: Any) -> Any:
    """Refuse values that are not whole numbers."""
    if isinstance(value, bool):
        raise ValueError("true and false are not numbers")
    if isinstance(value, str) and not re.fullmatch(r"\s*[-+]?[0-9]+\s*", value):
        raise ValueError("is not a whole number")
    if isinstance(value, float) and not value.is_integer():
        raise ValueError("is not a whole number")
    if isinstance(value, (int, float)) and value > LARGEST:
        raise ValueError(f"is more than {LARGEST}")
    return value


def _duration(value: str | float) -> str | float:
    parse_duration(value)
    return value


def _walltime(value: Any) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number or (isinstance(value, str) and is_bare(value)):
        raise ValueError(
            "needs quotes or a unit: YAML reads HH:MM:SS without quotes as a number, and "
            "batch systems read a number as seconds, minutes or hours"
        )
    return value


def _memory(value: str) -> str:
    parse_memory(value)
    return value


def _with_unit(value: Any) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number or (isinstance(value, str) and is_bare(value)):
        raise ValueError(
            "needs a unit: batch systems read a number as kilobytes or megabytes, "
            "others as bytes"
        )
    return value


def _duration_or_zero(value: str | float) -> str | float:
    parse_duration(value, zero=True)
    return value


def absolute_path(value: str) -> str:
    """Return the path; ValueError if it is relative or a shell would change it."""
    # $VARIABLES work in job scripts
    if not re.fullmatch(r"[/~$][\w./~${}@%+:, -]*", value):
        raise ValueError("is not absolute, or has characters that shells interpret")
    return value


def _one_line(value: str) -> str:
    if len(value.splitlines()) > 1:
        raise ValueError("has more than one line")
    if not value.replace("\t", " ").isprintable():
        raise ValueError(f"has characters that cannot be printed: {ascii(value)}")
    if not value.strip():
        raise ValueError("is blank")
    return value


def _one_word(value: str) -> str:
    if len(value.split()) > 1 or re.search(r"[\"'`\\$;&|<>]", value):
        raise ValueError(
            "has a blank, a quote or another character that a shell understands: "
            f"{value!r}; several names are separated by commas"
        )
    return value.strip()


def _configuration(value: dict[str, Any]) -> dict[str, Any]:
    """Refuse a configuration of which Dask would silently drop a part when merging."""
    found: set[tuple[str, ...]] = set()
    for key, content in value.items():
        if not all(part.strip() for part in key.split(".")):
            raise ValueError(f"the key {key!r} has an empty part")
        _leaves(tuple(key.split(".")), content, found)
    for path in found:
        for length in range(1, len(path)):
            if path[:length] in found:
                short, long = ".".join(path[:length]), ".".join(path)
                raise ValueError(f"{short} has a value, but there is also {long}")
    return value


def _leaves(path: tuple[str, ...], content: Any, found: set[tuple[str, ...]]) -> None:
    if isinstance(content, dict):
        for key, below in content.items():
            _leaves((*path, str(key)), below, found)
    elif content is not None:
        found.add(path)


def _port_range(value: Any) -> Any:
    """Normalize to the notation of Dask, ``"START:END"``."""
    if isinstance(value, str):
        parts: list[Any] = value.replace("-", ":").replace(" ", "").split(":")
    elif isinstance(value, (list, tuple)):
        parts = list(value)
    else:
        raise ValueError("is not a range of ports")
    if len(parts) != 2:
        raise ValueError("needs two ports")
    if not all(isinstance(part, (int, float, str)) for part in parts):
        raise ValueError("ports are whole numbers")
    start, end = (int(_whole(part)) for part in parts)
    if not 1024 <= start < end <= 65535:
        raise ValueError("START must be below END, both between 1024 and 65535")
    return f"{start}:{end}"


PositiveInt = Annotated[
    int,
    BeforeValidator(_whole),
    Field(ge=1, le=LARGEST),
    WithJsonSchema(value_schemas.WHOLE),
]
PositiveFloat = Annotated[
    float,
    BeforeValidator(_not_bool),
    Field(gt=0, allow_inf_nan=False),
    WithJsonSchema(value_schemas.SECONDS),
]
Units = Annotated[float, BeforeValidator(_not_bool), Field(ge=0, allow_inf_nan=False)]
Line = Annotated[
    str,
    Field(min_length=1),
    AfterValidator(_one_line),
    WithJsonSchema(value_schemas.LINE),
]
Resources = Annotated[dict[Line, Units], WithJsonSchema(value_schemas.RESOURCES)]
Word = Annotated[Line, AfterValidator(_one_word), WithJsonSchema(value_schemas.WORD)]
Lines = Annotated[
    list[Line],
    BeforeValidator(ensure_list),
    WithJsonSchema(value_schemas.LINES),
]
Duration = Annotated[
    Line | int | float,
    BeforeValidator(_not_bool),
    AfterValidator(_duration),
    WithJsonSchema(value_schemas.DURATION),
]
DurationOrZero = Annotated[
    Line | int | float,
    BeforeValidator(_not_bool),
    AfterValidator(_duration_or_zero),
    WithJsonSchema(value_schemas.DURATION_OR_ZERO),
]
Walltime = Annotated[
    Line,
    BeforeValidator(_walltime),
    AfterValidator(_duration),
    WithJsonSchema(value_schemas.WALLTIME),
]
Memory = Annotated[
    Line,
    BeforeValidator(_with_unit),
    AfterValidator(_memory),
    WithJsonSchema(value_schemas.MEMORY),
]
Configuration = Annotated[
    dict[str, Any],
    AfterValidator(_configuration),
    WithJsonSchema(value_schemas.CONFIGURATION),
]
PortRange = Annotated[
    str,
    BeforeValidator(_port_range),
    WithJsonSchema(value_schemas.PORT_RANGE),
]
Path = Annotated[
    Line, AfterValidator(absolute_path), WithJsonSchema(value_schemas.PATH)
]

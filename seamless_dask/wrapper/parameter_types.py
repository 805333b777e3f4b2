"""The types of parameters: what is allowed, and what it is turned into."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from .durations import parse_duration, parse_memory


def ensure_list(value: Any) -> Any:
    """A single string is accepted where a list of strings is meant."""
    return [value] if isinstance(value, str) else value


def _not_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("true and false are not numbers")
    return value


def _duration(value: str | float) -> str | float:
    parse_duration(value)
    return value


def _memory(value: str | int) -> str | int:
    parse_memory(value)
    return value


def _duration_or_zero(value: str | float) -> str | float:
    parse_duration(value, zero=True)
    return value


def absolute_path(value: str) -> str:
    """Return the path; ValueError if it is relative, or no shell would keep it."""
    # $VARIABLES work in job scripts
    if not re.fullmatch(r"[/~$][\w./~${}@%+:, -]*", value):
        raise ValueError("is not absolute, or has characters that shells interpret")
    return value


def _one_line(value: str) -> str:
    if "\n" in value or "\r" in value:
        raise ValueError("has more than one line")
    return value


def _port_range(value: Any) -> Any:
    """Normalize to the notation of Dask, ``"START:END"``."""
    if isinstance(value, str):
        parts: list[Any] = value.replace("-", ":").replace(" ", "").split(":")
    elif isinstance(value, (list, tuple)):
        parts = list(value)
    else:
        raise ValueError("is not a range of ports")
    if len(parts) != 2 or any(isinstance(part, bool) for part in parts):
        raise ValueError("needs two ports")
    try:
        start, end = (int(part) for part in parts)
    except (TypeError, ValueError):
        raise ValueError("ports are whole numbers") from None
    if not 1024 <= start < end <= 65535:
        raise ValueError("START must be below END, both between 1024 and 65535")
    return f"{start}:{end}"


PositiveInt = Annotated[int, BeforeValidator(_not_bool), Field(ge=1)]
PositiveFloat = Annotated[
    float, BeforeValidator(_not_bool), Field(gt=0, allow_inf_nan=False)
]
Units = Annotated[
    float,
    BeforeValidator(_not_bool),
    Field(ge=0, allow_inf_nan=False),
    # a text that holds a number will do
    WithJsonSchema({"type": ["number", "string"], "minimum": 0}),
]
Line = Annotated[str, Field(min_length=1), AfterValidator(_one_line)]
Lines = Annotated[
    list[Line],
    BeforeValidator(ensure_list),
    WithJsonSchema({"type": ["string", "array"], "items": {"type": "string"}}),
]
Duration = Annotated[
    Line | int | float, BeforeValidator(_not_bool), AfterValidator(_duration)
]
DurationOrZero = Annotated[
    Line | int | float, BeforeValidator(_not_bool), AfterValidator(_duration_or_zero)
]
Memory = Annotated[Line | int, BeforeValidator(_not_bool), AfterValidator(_memory)]
PortRange = Annotated[
    str,
    BeforeValidator(_port_range),
    WithJsonSchema(
        {
            "type": ["string", "array"],
            "items": {"type": "integer"},
            "minItems": 2,
            "maxItems": 2,
        }
    ),
]
Path = Annotated[Line, AfterValidator(absolute_path)]

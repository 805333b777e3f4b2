"""Takes and checks the fields of a message one by one, and collects all problems.

A check returns the value that it allows. Lists arrive as tuples, so both are accepted.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

#: Limits that keep one message from occupying the scheduler for long
MAX_ITEMS = 10_000
MAX_TEXT = 1_000
MAX_COUNT = 1_000_000
MAX_AMOUNT = 1e15
MAX_WAIT_SECONDS = 86_400.0
#: Digits of a checksum that are enough to ask for it
MIN_PREFIX = 6

_T = TypeVar("_T")


class InvalidMessage(ValueError):
    """A message with problems; ``errors`` has one sentence for each of them."""

    def __init__(self, errors: Iterable[str]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(self.errors))


class Wrong(Exception):
    """A field does not allow a value; the argument says which values it allows."""


_MISSING = object()


class Fields:
    """The arguments of one call, taken one by one; problems are collected."""

    def __init__(self, payload: Mapping[str, Any], prefix: str = "") -> None:
        self._left = dict(payload)
        self._known: list[str] = []
        self._prefix = prefix
        self.errors: list[str] = []

    def take(
        self, name: str, check: Callable[[Any], _T], default: Any = _MISSING
    ) -> _T:
        """The checked value of a field.

        After a problem the result is meaningless; :meth:`finish` then raises.
        """
        self._known.append(name)
        value = self._left.pop(name, default)
        try:
            return check(value)
        except Wrong as wrong:
            got = "nothing" if value is _MISSING else reprlib.repr(value)
            self.errors.append(
                f"field '{self._prefix}{name}': got {got}, allowed: {wrong}"
            )
            return None  # type: ignore[return-value]  # never used: finish() raises

    def all_errors(self) -> list[str]:
        """The problems so far and the unknown arguments."""
        unknown = [
            f"field '{self._prefix}{reprlib.repr(name)[1:-1]}': unknown, "
            f"allowed: {', '.join(self._known) or 'no arguments'}"
            for name in self._left
        ]
        return self.errors + unknown

    def finish(self) -> None:
        """Raise InvalidMessage if there was any problem."""
        errors = self.all_errors()
        if errors:
            raise InvalidMessage(errors)


# -- checks ------------------------------------------------------------------------


def text(value: Any) -> str:
    """A name, a key or an address."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT:
        raise Wrong(f"text of 1 to {MAX_TEXT} characters")
    return value


def checksum(value: Any) -> str:
    """A whole checksum."""
    if (
        not isinstance(value, str)
        or len(value) != 64
        or not set(value) <= set("0123456789abcdef")
    ):
        raise Wrong("64 hexadecimal digits in lower case")
    return value


def is_prefix(value: Any) -> bool:
    """Whether a value is a checksum, or enough of its first digits."""
    return (
        isinstance(value, str)
        and MIN_PREFIX <= len(value) <= 64
        and set(value) <= set("0123456789abcdef")
    )


def prefix(value: Any) -> str:
    """A checksum, or its first digits."""
    if not is_prefix(value):
        raise Wrong(f"{MIN_PREFIX} to 64 hexadecimal digits in lower case")
    return str(value)


def _whole(value: Any, least: int) -> int:
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or not least <= value <= MAX_COUNT
    ):
        raise Wrong(f"whole number from {least} to {MAX_COUNT}")
    return value


def natural(value: Any) -> int:
    """A whole number, 0 or more."""
    return _whole(value, 0)


def positive(value: Any) -> int:
    """A whole number, 1 or more."""
    return _whole(value, 1)


def total(value: Any) -> int:
    """How often something has happened in the life of a process."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise Wrong("whole number from 0")
    return value


def truth(value: Any) -> bool:
    """True or false, and no number."""
    if not isinstance(value, bool):
        raise Wrong("true or false")
    return value


def _is_amount(value: Any) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and 0 <= value <= MAX_AMOUNT
    )


def seconds(value: Any) -> float:
    """How long a caller waits."""
    if not _is_amount(value) or value > MAX_WAIT_SECONDS:
        raise Wrong(f"seconds from 0 to {MAX_WAIT_SECONDS:.0f}")
    return float(value)


def mapping(value: Any) -> Mapping[str, Any]:
    """Fields inside a field."""
    if not isinstance(value, dict):
        raise Wrong("dictionary")
    return value


def resources(value: Any) -> Mapping[str, float]:
    """Amounts of Dask's units by name."""
    if not isinstance(value, dict) or not all(
        isinstance(name, str) and 0 < len(name) <= MAX_TEXT and _is_amount(amount)
        for name, amount in value.items()
    ):
        raise Wrong(f"dictionary of names to amounts from 0 to {MAX_AMOUNT:g}")
    return {name: float(amount) for name, amount in value.items()}


def optional(check: Callable[[Any], _T]) -> Callable[[Any], _T | None]:
    """Allow the values that ``check`` allows, and None."""

    def checked(value: Any) -> _T | None:
        return None if value is None else check(value)

    return checked


def list_of(check: Callable[[Any], _T]) -> Callable[[Any], tuple[_T, ...]]:
    """Allow lists and tuples of values that ``check`` allows."""

    def checked(value: Any) -> tuple[_T, ...]:
        if not isinstance(value, (list, tuple)) or len(value) > MAX_ITEMS:
            raise Wrong(f"list of up to {MAX_ITEMS} items")
        items = []
        for number, item in enumerate(value):
            try:
                items.append(check(item))
            except Wrong as wrong:
                got = reprlib.repr(item)
                raise Wrong(f"{wrong}; item {number} is {got}") from None
        return tuple(items)

    return checked

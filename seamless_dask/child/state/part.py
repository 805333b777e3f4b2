"""Base classes for all parts of the state of a process; see :mod:`.process`."""

from __future__ import annotations

import ctypes
import operator
import sys
from collections.abc import Callable, Iterable, MutableMapping
from types import ModuleType
from typing import Any

_POINTER = ctypes.sizeof(ctypes.c_void_p)


class CannotPutBack(RuntimeError):
    """Something that a job has changed cannot be put back; the message says what."""


class Part:
    """One kind of state that the code of a transformation may change.

    A new instance remembers the present state as the baseline.

    Attributes
    ----------
    title
        Its row in the documentation.
    """

    title = ""

    def save(self) -> Any:
        """Return a copy of the present state; later changes do not affect it."""
        raise NotImplementedError

    def restore(self, saved: Any) -> None:
        """Put back a state that `save` has returned.

        Raises
        ------
        CannotPutBack
            If that is not possible. Like all methods, this one may also raise any
            exception of the job's code, which objects of the job may run.
        """
        raise NotImplementedError

    def reset(self) -> list[str]:
        """Go back to the baseline; return why this process must be replaced, if so."""
        raise NotImplementedError


class Remembered(Part):
    """A part whose baseline is its state at the beginning."""

    def __init__(self) -> None:
        self.baseline = self.save()

    def reset(self) -> list[str]:
        self.restore(self.baseline)
        return []


class Watched(Remembered):
    """A part that cannot be put back: if it has changed, the process is replaced."""

    def differences(self, before: Any, now: Any) -> list[str]:
        """Return descriptions of the changes between two results of `save`."""
        raise NotImplementedError

    def restore(self, saved: Any) -> None:
        lost = self.differences(saved, self.save())
        if lost:
            raise CannotPutBack("; ".join(lost))

    def reset(self) -> list[str]:
        return self.differences(self.baseline, self.save())


class Setting(Remembered):
    """A value with a function that reads it and one that sets it."""

    def __init__(
        self, title: str, get: Callable[[], Any], put: Callable[[Any], object]
    ) -> None:
        self.title = title
        self._get = get
        self._put = put
        super().__init__()

    def save(self) -> Any:
        return self._get()

    def restore(self, saved: Any) -> None:
        if self._get() != saved:
            self._put(saved)


class Lists(Remembered):
    """The contents of some lists; the lists themselves stay the same objects."""

    def __init__(self, title: str, *lists: list[Any]) -> None:
        self.title = title
        self._lists = lists
        super().__init__()

    def save(self) -> Any:
        return [list(items) for items in self._lists]

    def restore(self, saved: Any) -> None:
        for items, wanted in zip(self._lists, saved, strict=True):
            if not same_items(items, wanted):
                items[:] = wanted


class Dictionaries(Remembered):
    """The contents of some dictionaries; they themselves stay the same objects."""

    def __init__(self, title: str, *dictionaries: MutableMapping[Any, Any]) -> None:
        self.title = title
        self._dictionaries = dictionaries
        super().__init__()

    def save(self) -> Any:
        return [dict(entries) for entries in self._dictionaries]

    def restore(self, saved: Any) -> None:
        for entries, wanted in zip(self._dictionaries, saved, strict=True):
            if not same_entries(entries, wanted):
                for key in set(entries).difference(wanted):
                    del entries[key]
                entries.update(wanted)


class Attributes(Remembered):
    """Attributes of objects, compared by identity."""

    def __init__(self, title: str, *attributes: tuple[Any, str]) -> None:
        self.title = title
        self._attributes = attributes
        super().__init__()

    def save(self) -> Any:
        return [getattr(owner, name) for owner, name in self._attributes]

    def restore(self, saved: Any) -> None:
        for (owner, name), value in zip(self._attributes, saved, strict=True):
            if getattr(owner, name) is not value:
                setattr(owner, name, value)


def loaded(name: str) -> ModuleType | None:
    """Return a module if it is loaded; a job may put anything in its place."""
    module = sys.modules.get(name)
    return module if isinstance(module, ModuleType) else None


def identities(values: Iterable[Any]) -> bytes:
    """Return the identities of objects, in a form that is fast to make and to compare.

    These are their addresses, as CPython keeps them in a tuple. Methods of the objects
    are not called.
    """
    held = tuple(values)
    return ctypes.string_at(id(held) + tuple.__basicsize__, _POINTER * len(held))


def same_items(items: list[Any], wanted: list[Any]) -> bool:
    """Say whether two lists hold the same objects; never calls code of theirs."""
    return len(items) == len(wanted) and all(map(operator.is_, items, wanted))


def same_entries(entries: Any, wanted: Any) -> bool:
    """Say whether two dictionaries hold the same objects, in the same order.

    Not all keys are compared, for speed: a new key would be the last.
    """
    return (
        len(entries) == len(wanted)
        and all(map(operator.is_, entries.values(), wanted.values()))
        and next(reversed(entries), None) == next(reversed(wanted), None)
    )

"""Labels of transformations for people: the function's name, and what called it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from distributed.scheduler import Scheduler

from .. import messages
from ..cancellation import LiveKeys
from ..functions import DIGITS, Functions
from ..permission.machine import PermissionMachine
from ..task_keys import code_of

#: Callers that a label names at the most
MAX_CALLERS = 8
#: Characters of a label
MAX_LABEL = 160
#: Characters of a key, where there is no checksum
KEY_SHOWN = 24


class Labels:
    """Finds the names of transformations and of their callers; changes nothing."""

    def __init__(
        self,
        scheduler: Scheduler,
        machine: PermissionMachine,
        live: LiveKeys,
        functions: Functions,
    ) -> None:
        self._scheduler = scheduler
        self._machine = machine
        self._live = live
        self._functions = functions

    def name(self, key: str | None) -> str | None:
        """The name of the function, None if it is not known."""
        return self._functions.name(key)

    def shown(self, key: str | None) -> str:
        """The name of the function, or what stands for it."""
        return self._functions.shown(key)

    def callers(self, key: str | None) -> list[str]:
        """The names of those that called a transformation, the nearest first.

        If several called the same one, the first of them counts. The last entry is "…"
        if there are too many.
        """
        names: list[str] = []
        seen = {key}
        owner = self._owner(key)
        while owner is not None and owner not in seen:
            if len(names) == MAX_CALLERS:
                return [*names, "…"]
            names.append(self.shown(owner))
            seen.add(owner)
            owner = self._owner(owner)
        return names

    def label(self, key: str | None) -> str:
        """Such as ``score < dock < simulate``."""
        return joined(self.shown(key), self.callers(key))

    def short(self, key: str | None) -> str:
        """The name and the first digits of the checksum, for sentences and lists."""
        checksum = None if key is None else self._live.checksum(key)
        return with_digits(self.shown(key), key, checksum)

    def _owner(self, key: str | None) -> str | None:
        """The key of the transformation that called another one."""
        if key is None:
            return None
        for request in self._machine.ledger.requests_for(key):
            if request.owner is not None:
                return request.owner
        task = self._scheduler.tasks.get(key)
        annotations: Any = None if task is None else task.annotations
        owner = (annotations or {}).get(messages.OWNER)
        return owner if isinstance(owner, str) else None


def joined(name: str, callers: Sequence[str]) -> str:
    """A name and those of the callers; one that calls itself is named once."""
    runs = [(each, len(list(group))) for each, group in groupby([name, *callers])]
    text = " < ".join(f"{each} ×{n}" if n > 1 else each for each, n in runs)
    return text if len(text) <= MAX_LABEL else text[: MAX_LABEL - 1] + "…"


def with_digits(label: str, key: str | None, checksum: str | None) -> str:
    """A label and the first digits of the checksum, or what stands for them."""
    if checksum is not None:
        return f"{label} {checksum[:DIGITS]}"
    if code_of(key) is not None:
        return f"{label} (inputs awaited)"
    return "not said" if key is None else f"{label} {key[:KEY_SHOWN]}"


def named(row: Mapping[str, Any]) -> str:
    """The same for a row of an overview."""
    return with_digits(row["label"], row["key"], row["checksum"])

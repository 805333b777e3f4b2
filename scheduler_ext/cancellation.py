"""Which tasks run a given transformation, so that it can be cancelled by checksum.

Pure, O(1) per task, and bounded: only unfinished tasks are listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

#: How the key of every task that runs a transformation begins
PREFIXES = ("base-", "base_")

#: base-<checksum>[-suffix] or base_<code checksum>-<checksum>[-suffix]
_KEY = re.compile(r"base(?:_[0-9a-f]{64})?-([0-9a-f]{64})(?:-.*)?", re.DOTALL)


def is_transformation(key: Any) -> bool:
    """Whether a Dask key belongs to a transformation; keys need not be text."""
    return isinstance(key, str) and key.startswith(PREFIXES)


def checksum_of(key: str) -> str | None:
    """The checksum of the transformation that a task runs, None if it names none."""
    match = _KEY.fullmatch(key)
    return match[1] if match else None


class LiveKeys:
    """The unfinished tasks of each transformation."""

    def __init__(self) -> None:
        #: {transformation checksum: {task key}}
        self._keys: dict[str, set[str]] = {}
        #: {task key: what it runs}, where the key does not say
        self._named: dict[str, str] = {}

    def add(self, key: str) -> None:
        """A task is there and unfinished; a key without checksum is ignored."""
        checksum = checksum_of(key)
        if checksum is not None:
            self._keys.setdefault(checksum, set()).add(key)

    def name(self, key: str, checksum: str) -> None:
        """An unfinished task runs this transformation; its key could not know."""
        self.discard(key)
        self._named[key] = checksum
        self._keys.setdefault(checksum, set()).add(key)

    def checksum(self, key: str) -> str | None:
        """What the task of this key runs, as far as that is known."""
        return self._named.get(key) or checksum_of(key)

    def discard(self, key: str) -> None:
        """A task is finished or gone; an unknown key is ignored."""
        checksum = self._named.pop(key, None) or checksum_of(key)
        keys = self._keys.get(checksum) if checksum is not None else None
        if checksum is None or keys is None:
            return
        keys.discard(key)
        if not keys:
            del self._keys[checksum]

    def clear(self) -> None:
        """No task is left."""
        self._keys.clear()
        self._named.clear()

    def checksums(self) -> Iterable[str]:
        """The transformations that have unfinished tasks."""
        return self._keys.keys()

    def of(self, checksum: str) -> list[str]:
        """The keys of the unfinished tasks of a transformation, sorted."""
        return sorted(self._keys.get(checksum, ()))

    def __len__(self) -> int:
        return sum(map(len, self._keys.values()))

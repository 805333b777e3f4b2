"""Finds the tasks that run a transformation, to cancel it by its checksum.

Pure, O(1) per task, and bounded: only unfinished tasks are listed.
"""

from __future__ import annotations

from collections.abc import Iterable

from .task_keys import checksum_of

#: Prefix of the stimuli with which the scheduler cancels tasks for us
STIMULUS = "seamless-cancel-"


class LiveKeys:
    """The unfinished tasks of each transformation."""

    def __init__(self) -> None:
        #: {transformation checksum: {task key}}
        self._keys: dict[str, set[str]] = {}
        #: {task key: checksum of its transformation}, if the key does not contain it
        self._named: dict[str, str] = {}

    def add(self, key: str) -> None:
        """A task is there and unfinished; a key without checksum is ignored."""
        checksum = checksum_of(key)
        if checksum is not None:
            self._keys.setdefault(checksum, set()).add(key)

    def name(self, key: str, checksum: str) -> None:
        """An unfinished task runs this transformation; its key does not tell."""
        self.discard(key)
        self._named[key] = checksum
        self._keys.setdefault(checksum, set()).add(key)

    def checksum(self, key: str) -> str | None:
        """The checksum of the transformation that a task runs, None if not known."""
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

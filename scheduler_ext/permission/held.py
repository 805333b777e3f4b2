"""The tasks that the scheduler holds back until a slot is free. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .line import Line
from .needs import Needs


@dataclass(frozen=True, slots=True)
class Held:
    """A task that is held back; ``number`` is its number of arrival."""

    key: str
    depth: int
    number: int
    needs: Needs


class HeldTasks:
    """The tasks by key, and in the order in which they start."""

    def __init__(self) -> None:
        self.line: Line[Held] = Line()
        self._by_key: dict[str, Held] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __contains__(self, key: object) -> bool:
        return key in self._by_key

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_key)

    def get(self, key: str) -> Held | None:
        """The task of a key."""
        return self._by_key.get(key)

    def add(self, held: Held) -> None:
        """Hold a task back."""
        self._by_key[held.key] = held
        self.line.add(held.needs, held.depth, held.number, held)

    def remove(self, key: str) -> None:
        """A task, if it was held back, is not any more."""
        held = self._by_key.pop(key, None)
        if held is not None:
            self.line.remove(held.needs, held.depth, held.number)

    def position(self, key: str) -> int:
        """The position of a task that is held back, from 1."""
        held = self._by_key[key]
        return self.line.position(held.depth, held.number)

    def problems(self) -> list[str]:
        """Complaints if the two orders differ."""
        if sorted(held.key for held in self.line.oldest()) != sorted(self._by_key):
            return ["the line of held tasks is not the table"]
        return []

"""Waits in line for a slot: the deepest first, then the oldest. Pure.

Entries with different needs stand in different lines, since one that needs what no worker
has free must not stop the others.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from operator import itemgetter
from typing import Generic, TypeVar

from .needs import Needs

T = TypeVar("T")


class _Depths(Generic[T]):
    """The entries with the same needs."""

    def __init__(self) -> None:
        #: {depth: {number: entry}}, oldest first
        self.by_depth: dict[int, OrderedDict[int, T]] = {}
        #: heap of -depth, one for each of these depths
        self.heap: list[int] = []

    def head(self) -> tuple[int, int, T] | None:
        while self.heap:
            depth = -self.heap[0]
            entries = self.by_depth[depth]
            if entries:
                number, entry = next(iter(entries.items()))
                return depth, number, entry
            heapq.heappop(self.heap)
            del self.by_depth[depth]
        return None


class Line(Generic[T]):
    """Entries that wait, each with its needs, its depth, and its number of arrival."""

    def __init__(self) -> None:
        self._by_needs: dict[Needs, _Depths[T]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, needs: Needs, depth: int, number: int, entry: T) -> None:
        """Let an entry wait."""
        depths = self._by_needs.get(needs)
        if depths is None:
            depths = self._by_needs[needs] = _Depths()
        entries = depths.by_depth.get(depth)
        if entries is None:
            entries = depths.by_depth[depth] = OrderedDict()
            heapq.heappush(depths.heap, -depth)
        entries[number] = entry
        self._length += 1

    def remove(self, needs: Needs, depth: int, number: int) -> None:
        """An entry waits no longer."""
        del self._by_needs[needs].by_depth[depth][number]
        self._length -= 1

    def heads(self) -> list[tuple[int, int, T]]:
        """(depth, number, entry) of the first entry for each kind of needs, in order."""
        if len(self._by_needs) == 1:
            [depths] = self._by_needs.values()
            head = depths.head()
            return [] if head is None else [head]
        found = []
        for needs, depths in list(self._by_needs.items()):
            head = depths.head()
            if head is None:
                del self._by_needs[needs]
            else:
                found.append(head)
        return sorted(found, key=lambda head: (-head[0], head[1]))

    def lengths(self) -> list[tuple[Needs, int]]:
        """The number of entries for each kind of needs."""
        return [
            (needs, sum(map(len, depths.by_depth.values())))
            for needs, depths in self._by_needs.items()
        ]

    def position(self, depth: int, number: int) -> int:
        """The position of an entry among all, from 1."""
        before = 0
        for depths in self._by_needs.values():
            for other, entries in depths.by_depth.items():
                if other > depth:
                    before += len(entries)
                elif other == depth:
                    before += sum(each < number for each in entries)
        return before + 1

    def oldest(self) -> Iterator[T]:
        """All entries in order of arrival."""
        lines = [
            entries.items()
            for depths in self._by_needs.values()
            for entries in depths.by_depth.values()
        ]
        return (entry for _, entry in heapq.merge(*lines, key=itemgetter(0)))

"""A worker with its slots, the place of one transformation on it, and an index. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from .needs import Needs


@dataclass(slots=True, eq=False)
class Site:
    """A worker with its slots."""

    address: str
    slots: int
    #: transformations of top-level work that may execute at the same time; None: any
    units: float | None
    #: Dask's further resources, and how much of them is in use
    supply: Mapping[str, float]
    used: dict[str, float] = field(default_factory=dict)
    #: whether it takes further transformations, and further top-level ones
    open: bool = True
    open_to_top_level: bool = True
    taken: int = 0
    executing: int = 0
    waiting: int = 0
    storing: int = 0
    #: of those, and of the executing and waiting ones, the top-level ones
    top_level: int = 0
    units_used: int = 0
    #: {key: its place}
    places: dict[str, Place] = field(default_factory=dict)
    #: the free slots under which it is filed, for any work and for top-level work
    filed: int = 0
    filed_top_level: int = 0

    @property
    def exclusive(self) -> bool:
        """Whether it has one top-level transformation at a time, waiting or not."""
        return self.units == 1

    @property
    def free(self) -> int:
        """Number of slots that another transformation may take."""
        return max(0, self.slots - self.taken) if self.open else 0

    def has(self, needs: Needs) -> bool:
        """Whether its units and resources are enough for one more transformation."""
        if needs.top_level and not self.has_unit():
            return False
        return all(
            self.supply.get(name, 0.0) - self.used.get(name, 0.0) >= amount
            for name, amount in needs.resources
        )

    def offers(self, needs: Needs) -> bool:
        """Whether its units and resources would be enough if nothing else ran there."""
        if needs.top_level and not (self.units is None or self.units >= 1):
            return False
        return all(
            self.supply.get(name, 0.0) >= amount for name, amount in needs.resources
        )

    def has_unit(self) -> bool:
        """Whether one more top-level transformation may execute there."""
        room = self.units is None or self.units - self.units_used >= 1
        return room and self.open_to_top_level


@dataclass(slots=True, eq=False)
class Place:
    """A transformation on a worker, or on its way there."""

    key: str
    site: Site
    needs: Needs
    #: whether its task is on the worker; before, its slot is only reserved
    task: bool
    waits: bool
    stores: bool = False

    @property
    def executes(self) -> bool:
        """Whether it takes a slot and is no mere reservation."""
        return self.task and not (self.waits or self.stores)


class Rooms:
    """Workers by the number of their free slots."""

    def __init__(self) -> None:
        #: {free slots: workers, the one that was filed first comes first}
        self._by_free: dict[int, dict[Site, None]] = {}
        #: bit n is set if a worker has n free slots
        self._mask = 0

    def __bool__(self) -> bool:
        return self._mask != 0

    def move(self, site: Site, before: int, now: int) -> None:
        """File a worker under another number of free slots; 0: nowhere."""
        if before:
            sites = self._by_free[before]
            del sites[site]
            if not sites:
                self._mask &= ~(1 << before)
        if now:
            sites = self._by_free.setdefault(now, {})
            sites[site] = None
            self._mask |= 1 << now

    def first(self) -> Site | None:
        """The worker with the most free slots."""
        if not self._mask:
            return None
        return next(iter(self._by_free[self._mask.bit_length() - 1]))

    def __iter__(self) -> Iterator[Site]:
        """All workers, those with the most free slots first."""
        mask = self._mask
        while mask:
            free = mask.bit_length() - 1
            yield from self._by_free[free]
            mask &= ~(1 << free)

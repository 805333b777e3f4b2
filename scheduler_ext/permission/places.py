"""The slots of each worker: which transformation has which.

Pure mechanism: :mod:`scheduler_ext.permission.machine` decides which transformation gets a
slot, and this module which worker's. A transformation has a *place* on a worker from the
moment when a slot is chosen for it until its task leaves the worker. It takes a slot there
while it executes, or is on its way; not while it waits for its calls, nor while its result
is being stored.

A slot is *free* if its worker is open and has more slots than are taken. Transformations
take their slots back when their calls have ended, so more may be taken than there are.

Every operation costs O(1), apart from the search for a worker with further resources, and
:meth:`Places.least_loaded`, which look at each worker.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .needs import NESTED, Needs
from .site import Place, Rooms, Site


class Places:
    """The places of all workers."""

    def __init__(self) -> None:
        self.sites: dict[str, Site] = {}
        #: number of slots that are taken, waiting and storing transformations, and
        #: transformations that execute
        self.taken = 0
        self.waiting = 0
        self.storing = 0
        self.executing = 0
        self._places: dict[str, Place] = {}
        self._rooms = Rooms()
        self._top_level_rooms = Rooms()

    # -- workers -----------------------------------------------------------------

    def offer(
        self,
        address: str,
        slots: int,
        units: float | None = None,
        supply: Mapping[str, float] | None = None,
    ) -> None:
        """A worker offers slots, units and resources, or changes them."""
        site = self.sites.get(address)
        if site is None:
            site = self.sites[address] = Site(address, slots, units, supply or {})
        else:
            for place in site.places.values():
                self._count(place, -1)
            site.slots, site.units, site.supply = slots, units, supply or {}
            for place in site.places.values():
                self._count(place, 1)
        self._file(site)

    def withdraw(self, address: str) -> None:
        """A worker is gone, with all its places."""
        site = self.sites.get(address)
        if site is None:
            return
        for key in list(site.places):
            self.drop(key)
        site.open = False
        self._file(site)
        del self.sites[address]

    def set_open(
        self,
        address: str,
        *,
        any_work: bool | None = None,
        top_level: bool | None = None,
    ) -> None:
        """Say whether a worker takes further transformations; None: as before."""
        site = self.sites.get(address)
        if site is None:
            return
        if any_work is not None:
            site.open = any_work
        if top_level is not None:
            site.open_to_top_level = top_level
        self._file(site)

    # -- questions ---------------------------------------------------------------

    def of(self, key: str) -> Place | None:
        """The place of a transformation."""
        return self._places.get(key)

    def find(self, needs: Needs, prefer: str | None = None) -> str | None:
        """The address of a worker with a free slot for a transformation, or None.

        ``prefer`` is the address that is taken if it has a free slot; otherwise the
        worker with the most free slots, and of equal ones each in turn.
        """
        rooms = self._top_level_rooms if needs.top_level else self._rooms
        if not rooms:
            return None
        if prefer is not None:
            site = self.sites.get(prefer)
            if site is not None and site.free and site.has(needs):
                return prefer
        if not needs.resources:
            first = rooms.first()
            return None if first is None else first.address
        return next((site.address for site in rooms if site.has(needs)), None)

    def offered(self, needs: Needs) -> bool:
        """Whether any open worker could ever run a transformation."""
        return any(site.open and site.offers(needs) for site in self.sites.values())

    def least_loaded(self, needs: Needs) -> str | None:
        """The worker with the smallest share of taken slots, free or not.

        A worker that has the units and resources comes before one that merely offers
        them; None if no open worker does.
        """
        candidates = [
            (not site.has(needs), site.taken / site.slots, number, address)
            for number, (address, site) in enumerate(self.sites.items())
            if site.open and site.offers(needs)
        ]
        return min(candidates)[-1] if candidates else None

    def keys(self) -> list[str]:
        """The transformations that have a place."""
        return list(self._places)

    def executing_keys(self) -> Iterator[str]:
        """The transformations that take a slot, reserved or not."""
        places = self._places.values()
        return (p.key for p in places if not (p.waits or p.stores))

    def can_use(self, key: str) -> str | None:
        """The address at which a transformation has its place, if that is open."""
        place = self._places.get(key)
        return place.site.address if place is not None and place.site.open else None

    # -- changes -----------------------------------------------------------------

    def put(
        self,
        key: str,
        address: str,
        needs: Needs = NESTED,
        *,
        task: bool = False,
        waits: bool = False,
    ) -> None:
        """Give a transformation a place; it leaves the one that it has."""
        self.drop(key)
        site = self.sites[address]
        place = Place(key, site, needs, task, waits)
        self._places[key] = site.places[key] = place
        for name, amount in needs.resources:
            site.used[name] = site.used.get(name, 0.0) + amount
        self._count(place, 1)
        self._file(site)

    def drop(self, key: str) -> None:
        """A transformation leaves its place, if it has one."""
        place = self._places.pop(key, None)
        if place is None:
            return
        site = place.site
        del site.places[key]
        for name, amount in place.needs.resources:
            site.used[name] -= amount
        self._count(place, -1)
        self._file(site)

    def set(
        self,
        key: str,
        *,
        task: bool | None = None,
        waits: bool | None = None,
        stores: bool | None = None,
    ) -> None:
        """Change what a transformation does at its place, if it has one."""
        place = self._places.get(key)
        if place is None:
            return
        self._count(place, -1)
        if task is not None:
            place.task = task
        if waits is not None:
            place.waits = waits
        if stores is not None:
            place.stores = stores
        self._count(place, 1)
        self._file(place.site)

    def _count(self, place: Place, by: int) -> None:
        site = place.site
        if place.stores:
            site.storing += by
            self.storing += by
        elif place.waits:
            site.waiting += by
            self.waiting += by
        else:
            site.taken += by
            self.taken += by
            if place.task:
                site.executing += by
                self.executing += by
        if place.needs.top_level:
            site.top_level += by if place.task else 0
            if site.exclusive or not (place.waits or place.stores):
                site.units_used += by

    def _file(self, site: Site) -> None:
        free = site.free
        top_level = free if site.has_unit() else 0
        if free != site.filed:
            self._rooms.move(site, site.filed, free)
            site.filed = free
        if top_level != site.filed_top_level:
            self._top_level_rooms.move(site, site.filed_top_level, top_level)
            site.filed_top_level = top_level

    # -- consistency -------------------------------------------------------------

    def problems(self) -> list[str]:
        """Recompute every counter and index; return complaints."""
        found = []
        kept = (self.taken, self.waiting, self.storing, self.executing)
        places = [p for site in self.sites.values() for p in site.places.values()]
        counted = (
            sum(not (p.waits or p.stores) for p in places),
            sum(p.waits and not p.stores for p in places),
            sum(p.stores for p in places),
            sum(p.executes for p in places),
        )
        if kept != counted:
            found.append(f"taken, waiting, storing, executing: {kept}, not {counted}")
        if {p.key: p for p in places} != self._places:
            found.append("a place is not that of its worker")
        for site in self.sites.values():
            here = site.places.values()
            units = [p for p in here if p.needs.top_level]
            expected = {
                "taken": sum(not (p.waits or p.stores) for p in here),
                "executing": sum(p.executes for p in here),
                "waiting": sum(p.waits and not p.stores for p in here),
                "storing": sum(p.stores for p in here),
                "top_level": sum(p.task for p in units),
                "units_used": sum(
                    site.exclusive or not (p.waits or p.stores) for p in units
                ),
                "filed": site.free,
                "filed_top_level": site.free if site.has_unit() else 0,
            }
            for name, value in expected.items():
                if getattr(site, name) != value:
                    found.append(
                        f"{site.address}: {name} is {getattr(site, name)}, not {value}"
                    )
            used: dict[str, float] = {}
            for place in here:
                for name, amount in place.needs.resources:
                    used[name] = used.get(name, 0.0) + amount
            for name in used.keys() | site.used.keys():
                if abs(used.get(name, 0.0) - site.used.get(name, 0.0)) > 1e-6:
                    found.append(f"{site.address}: {site.used} in use, not {used}")
        for rooms, filed in (
            (self._rooms, "filed"),
            (self._top_level_rooms, "filed_top_level"),
        ):
            listed = sorted(site.address for site in rooms)
            should = sorted(a for a, s in self.sites.items() if getattr(s, filed))
            if listed != should:
                found.append(f"{filed}: {listed}, not {should}")
        return found

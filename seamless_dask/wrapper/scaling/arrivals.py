"""Tells when workers connect and leave, by their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin


class Arrivals(SchedulerPlugin):
    """Calls functions with the name and the address of a worker that connects or leaves."""

    name = "seamless-fleet"

    def __init__(
        self,
        arrived: Callable[[str, str], None],
        departed: Callable[[str, str], None],
    ):
        self._arrived = arrived
        self._departed = departed
        self._names: dict[str, str] = {}

    def add_worker(self, scheduler: Any, worker: str) -> None:
        name = self._names[worker] = str(scheduler.workers[worker].name)
        self._arrived(name, worker)

    def remove_worker(self, scheduler: Any, worker: str, **kwargs: Any) -> None:
        name = self._names.pop(worker, None)
        if name is not None:
            self._departed(name, worker)

"""A job for a Seamless process, and the ways in which a process does not do it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from .blame import Losses


@dataclass(eq=False)
class PoolJob:
    """A transformation that is to run in one of the processes."""

    #: how error messages call it
    name: str
    #: what the process is sent
    payload: dict[str, Any]
    #: of the Dask task, if it is one
    key: str | None = None
    #: whether the log tells that its end takes long
    warned: bool = False
    #: nested transformations for which it waits
    waiting: int = 0
    #: what it has to do with processes that were lost
    losses: Losses = field(default_factory=Losses)
    #: how often its code has begun again, because another job executed for long in
    #: its process
    evictions: int = 0
    #: seconds that it waited in processes in which it did not go on
    waited: float = 0.0
    #: how often it was given to a process
    begun: int = 0
    #: how the process knows it
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


class ProcessLost(RuntimeError):
    """A process has ended; the text says how.

    Parameters
    ----------
    cause
        For humans.
    charged
        The jobs that may have caused it; empty if it was ended on purpose.
    """

    def __init__(self, cause: str, charged: frozenset[PoolJob] = frozenset()) -> None:
        super().__init__(cause)
        self.charged = charged


class ProcessTaken(RuntimeError):
    """Another job executes in a process, so that it cannot have this one now."""


class Evicted(RuntimeError):
    """A job that waits was given up in its process, in order to begin elsewhere."""

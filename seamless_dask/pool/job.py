"""A job for a Seamless process, and the exceptions if the process does not run it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .blame import Losses


@dataclass(eq=False)
class PoolJob:
    """A transformation that is to run in one of the processes."""

    #: its name in error messages
    name: str
    #: content of the message to the process
    payload: dict[str, Any]
    #: key of its Dask task; None without one
    key: str | None = None
    #: called with each message about its output, on the loop of the pool; returns the
    #: seconds until the next one. None: nobody wants it
    on_output: Callable[[dict[str, Any]], float] | None = None
    #: whether it was logged that its end takes long
    warned: bool = False
    #: nested transformations for which it waits
    waiting: int = 0
    #: the lost processes in which it was running
    losses: Losses = field(default_factory=Losses)
    #: how often its code has begun again, because another job executed for long in
    #: its process
    evictions: int = 0
    #: seconds that it waited in processes from which it was evicted
    waited: float = 0.0
    #: how often it has begun in a process
    begun: int = 0
    #: its id in messages to and from the process
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


class ProcessLost(RuntimeError):
    """A process has ended; the text says how.

    Parameters
    ----------
    cause
        How it ended, in words.
    charged
        The jobs that may have caused it; empty if it was ended on purpose.
    """

    def __init__(self, cause: str, charged: frozenset[PoolJob] = frozenset()) -> None:
        super().__init__(cause)
        self.charged = charged


class ProcessTaken(RuntimeError):
    """The process cannot begin a job now, because another one executes there."""


class Evicted(RuntimeError):
    """A waiting job was abandoned in its process, to begin again elsewhere."""

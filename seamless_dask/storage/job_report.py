"""How a job went in its Seamless process: what the worker learns and records keep."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class JobReport:
    """How a job went in its process."""

    #: checksum of the result, or the text of an error
    result: Any
    #: threads and processes that it has left running, as words
    left: list[str] = field(default_factory=list)
    #: what else the process cannot have another job for
    replace: list[str] = field(default_factory=list)
    #: seconds from its begin to its end
    wall: float = 0.0
    #: seconds of CPU time, those of its subprocesses included
    cpu_user: float = 0.0
    cpu_system: float = 0.0
    #: the most memory that the process had meanwhile, in bytes; None: not known
    memory_peak: int | None = None
    #: the process, and when it was started (seconds since the epoch)
    pid: int = 0
    process_started: float = 0.0
    #: how often it was given to a process: it may have been lost with one
    begun: int = 1
    #: seconds that it could go on and waited for its process
    waited: float = 0.0

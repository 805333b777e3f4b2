"""The report of a Seamless process on a job, for the worker and execution records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class JobReport:
    """The report of a Seamless process on one job."""

    #: checksum of the result, or the text of an error
    result: Any
    #: descriptions of the threads and processes that it has left running
    left: list[str] = field(default_factory=list)
    #: other reasons why the process cannot run another job
    replace: list[str] = field(default_factory=list)
    #: seconds from its beginning to its end
    wall: float = 0.0
    #: seconds of CPU time, those of its subprocesses included
    cpu_user: float = 0.0
    cpu_system: float = 0.0
    #: peak memory of the process meanwhile, in bytes; None: not known
    memory_peak: int | None = None
    #: id of the process, and when it was started (seconds since the epoch)
    pid: int = 0
    process_started: float = 0.0
    #: how often it has begun: it begins again if its process is lost
    begun: int = 1
    #: seconds that it was ready to go on but waited for other jobs in its process
    waited: float = 0.0
    #: the last message with its output, if that is streamed and there was any
    output: dict[str, Any] | None = None

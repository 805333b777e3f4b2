"""The real stack of ``examples/local_stack.py``, for tests: it runs the workloads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_TESTS.parent / "examples"))

from local_stack import (  # noqa: E402
    CLUSTERS_YAML,
    DriverResult,
    LocalStack,
    StackError,
    Stored,
    call_scheduler,
)

WORKLOADS = _TESTS / "drivers" / "workloads.py"


@dataclass(frozen=True)
class WorkloadRun:
    """One run of a workload by a fresh driver, with the database around it."""

    name: str
    #: what the workload reported: values_ok, distinct, seconds
    outcome: dict[str, Any]
    driver: DriverResult
    before: Stored
    after: Stored

    @property
    def new_results(self) -> dict[str, str]:
        """Transformation -> result, of those that had no row before."""
        return {
            checksum: result
            for checksum, result in self.after.results.items()
            if checksum not in self.before.results
        }

    @property
    def executed(self) -> set[str]:
        """Transformations whose execution record is new or another one."""
        return {
            checksum
            for checksum, record in self.after.records.items()
            if self.before.records.get(checksum) != record
        }


class RealStack(LocalStack):
    """hashserver, database and daskserver (or jobserver) in a temporary home."""

    def __enter__(self) -> RealStack:
        worker = os.environ.get("PYTEST_XDIST_WORKER")
        if worker is not None:
            # their process ids may have the same remainder
            number = os.getppid() + int(worker.removeprefix("gw"))
            self.first_port = 12000 + 400 * (number % 40)
        super().__enter__()
        return self

    def environment(self) -> dict[str, str]:
        """As everywhere, but with the code of this working tree."""
        return {"PYTHONPATH": str(_TESTS.parent), **super().environment()}

    def run_workload(
        self, name: str, *, salt: str = "salt", timeout: float = 120, **arguments: Any
    ) -> WorkloadRun:
        """Run one workload of ``drivers/workloads.py`` in a fresh driver."""
        before = self.stored()
        begin = time.monotonic()
        process = self.start_workload(name, salt=salt, **arguments)
        driver = self.finish(process, begin=begin, timeout=timeout)
        return WorkloadRun(name, driver.value, driver, before, self.stored())

    def start_workload(
        self, name: str, *, salt: str = "salt", **arguments: Any
    ) -> subprocess.Popen[str]:
        """Only start it, for tests that run several drivers or disturb one."""
        return self.start(WORKLOADS, name, json.dumps(arguments), "--salt", salt)


__all__ = [
    "CLUSTERS_YAML",
    "DriverResult",
    "RealStack",
    "StackError",
    "Stored",
    "WorkloadRun",
    "call_scheduler",
]

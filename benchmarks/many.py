"""Many transformations from one driver: ``python benchmarks/many.py [--quick]``.

Each run is a fresh driver on the same real stack (see ``examples/local_stack.py``). It
makes transformations that compute next to nothing, has all of them run in one of the
ways of ``many_driver.py``, and compares every value. Printed are, for each run:

- seconds from the first start to the last value, and to the first result in the database,
- CPU milliseconds per transformation, and the growth of memory, of each kind of process,
- the most tasks that the scheduler had, and how late the client's event loop was,
- how many results are new in the database,
- warnings of the driver, of which there should be none.

With ``--stubs`` there are neither Seamless processes nor servers, see ``stubs.py``: *stored*
is what the scheduler has seen finished. With ``--interrupt SECONDS`` the driver gets a
Ctrl-C so long after its first start; printed is how long it and its work took to end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE.parent / "examples"), str(_HERE)]

from figures import rounded  # noqa: E402
from local_stack import (  # noqa: E402
    DriverResult,
    LocalStack,
    StackError,
    call_scheduler,
)
from many_driver import BEGIN, MARK, SHAPES, WAYS  # noqa: E402
from stubs import StubStack  # noqa: E402
from usage import rows  # noqa: E402

DRIVER = _HERE / "many_driver.py"
#: seconds between two looks at the database, until the first result is there
SOON = 0.02
#: seconds between two looks at the scheduler
LOOK = 1.0
#: the shapes at the size at which they are tried
SHAPE_SIZES = {
    "children": 3000,
    "parents": 200 * 50,
    "chain": 2000,
    "recursion": 300,
    "dependents": 1000,
    "inputs": 500,
}
#: kinds of processes whose cost is printed, and their headings
KINDS = {
    "driver": "driver",
    "scheduler": "scheduler",
    "Dask worker": "worker",
    "Seamless process": "processes",
    "hashserver": "hashserver",
    "database": "database",
}


class Stubs(StubStack):
    """The stack without processes and servers, with the methods of a `LocalStack`."""

    def start(self, script: Path, *arguments: object) -> subprocess.Popen[str]:
        """Start a driver, which gets the address of the scheduler as well."""
        return subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments), self.address],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(
        self, process: subprocess.Popen[str], *, begin: float, timeout: float
    ) -> DriverResult:
        """Wait for a driver."""
        stdout, stderr = process.communicate(timeout=timeout)
        if process.returncode:
            raise StackError(f"exit code {process.returncode}\n{stderr[-2000:]}")
        return DriverResult(stdout, stderr, time.monotonic() - begin)

    def scheduler_status(self) -> dict[str, Any]:
        """What the plugin says."""
        found: dict[str, Any] = call_scheduler(
            self.address, lambda scheduler: scheduler.seamless_status()
        )
        return found

    def finished(self) -> int:
        """How many transformations have ended."""
        activity = self.scheduler_status()["activity"]
        return int(activity["transformations"]["finished_total"])


Stack = LocalStack | Stubs


def finished(stack: Stack) -> int:
    """How many transformations have ended: their results are stored, if there is where."""
    if isinstance(stack, Stubs):
        return stack.finished()
    return rows(stack.database_file) or 0


class Watch:
    """Looks at a stack while a driver runs on it."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        # the driver runs one before it begins
        self._before = finished(stack) + 1
        self._ended = threading.Event()
        #: `time.time` when the first transformation was about to start
        self.begun = 0.0
        #: seconds from there to the first result, None if there is none yet
        self.first: float | None = None
        #: the most unfinished tasks that the scheduler had
        self.tasks = 0
        self._thread = threading.Thread(target=self._look, daemon=True)

    def begin(self, begun: float) -> None:
        """The driver starts its first transformation; it has run one before."""
        self.begun = begun
        self._thread.start()

    def _look(self) -> None:
        while self.first is None and not self._ended.wait(SOON):
            if finished(self._stack) > self._before:
                self.first = time.time() - self.begun
        while not self._ended.wait(LOOK):
            with contextlib.suppress(OSError, StackError):
                states = self._stack.scheduler_status()["activity"]
                there = ("waiting", "queued", "no_worker", "processing")
                self.tasks = max(self.tasks, sum(states[name] for name in there))

    def end(self) -> int:
        """Stop looking; return the number of new results."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        return finished(self._stack) - self._before


def run(stack: Stack, way: str, number: int, *, timeout: float) -> dict[str, Any]:
    """Run a fresh driver.

    Parameters
    ----------
    stack
        On which it runs.
    way
        One of `WAYS` or `SHAPES`.
    number
        Of transformations.
    timeout
        Seconds.

    Returns
    -------
    dict
        ``right`` (all values are), ``seconds``, ``first`` (seconds), ``lag`` (seconds),
        ``tasks``, ``cpu`` (seconds by kind), ``memory`` and ``growth`` (bytes by kind),
        ``stored`` (new results), ``warnings`` (lines).

    Raises
    ------
    StackError
        If the driver fails or does not end.
    """
    watch = Watch(stack)
    begin = time.monotonic()
    process = stack.start(DRIVER, way, number, f"{way} {number} {time.time()}")
    _until_begun(process, watch)
    try:
        ended = stack.finish(process, begin=begin, timeout=timeout)
    finally:
        stored = watch.end()
    lines = [line for line in ended.stdout.splitlines() if line.startswith(MARK)]
    figures: dict[str, Any] = json.loads(lines[-1].removeprefix(MARK))
    figures |= {"stored": stored, "first": watch.first, "tasks": watch.tasks}
    figures["warnings"] = [
        line
        for line in ended.stderr.splitlines()
        if "does not answer" in line or "Error" in line
    ]
    return figures


def _until_begun(process: subprocess.Popen[str], watch: Watch) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(BEGIN):
            watch.begin(json.loads(line.removeprefix(BEGIN)))
            return


def expected(way: str, number: int) -> int:
    """How many results a way stores."""
    return SHAPES[way][1](number) if way in SHAPES else number


def table(stack: Stack, runs: Sequence[tuple[str, int]], timeout: float) -> int:
    """Print a line of JSON and one for people for each run; return how many were wrong."""
    wrong = 0
    with stack:
        for way, number in runs:
            try:
                found = run(stack, way, number, timeout=timeout)
            except StackError as error:
                wrong += 1
                print(f"{way:10}{number:9}  {error}", flush=True)
                continue
            should = expected(way, number)
            fine = found["right"] and found["stored"] == should
            wrong += not fine or bool(found["warnings"])
            print(line(way, number, should, found), *found["warnings"], sep="\n")
            print(json.dumps({"way": way, "number": number, **found}), flush=True)
    return wrong


def line(way: str, number: int, stored: int, found: dict[str, Any]) -> str:
    """One run for people."""
    cpu = {
        name: rounded(1000 * found["cpu"].get(kind, 0.0) / stored)
        for kind, name in KINDS.items()
    }
    growth = {
        name: rounded(found["growth"].get(kind, 0.0) / stored / 1000)
        for kind, name in KINDS.items()
    }
    first = "-" if found["first"] is None else f"{found['first']:.2f}"
    return (
        f"{way} {number}: {found['seconds']:.1f} s, {stored / found['seconds']:.0f} per s, "
        f"first after {first} s, {found['tasks']} tasks at the most, loop late by "
        f"{found['lag']:.2f} s, {found['stored']} of {stored} stored, "
        f"values {'right' if found['right'] else 'WRONG'}\n  CPU ms: {cpu}, sum "
        f"{rounded(1000 * sum(found['cpu'].values()) / stored)}\n  memory kB: {growth}"
    )


def interrupt(stack: Stack, runs: Sequence[tuple[str, int]], seconds: float) -> int:
    """Interrupt a driver in each way; return how many have left anything."""
    wrong = 0
    with stack:
        for way, number in runs:
            process = stack.start(DRIVER, way, number, f"{way} {number} {time.time()}")
            watch = Watch(stack)
            _until_begun(process, watch)
            time.sleep(seconds)
            interrupted = time.monotonic()
            process.send_signal(signal.SIGINT)
            reading = threading.Thread(target=process.communicate)
            reading.start()
            left = _left(stack)
            while any(left.values()) and time.monotonic() < interrupted + 30:
                time.sleep(0.1)
                left = _left(stack)
            gone = time.monotonic() - interrupted
            reading.join()
            ended = time.monotonic() - interrupted
            watch.end()
            wrong += any(left.values())
            print(
                f"{way} {number}: {watch.tasks} tasks at the most, the driver ended "
                f"{ended:.1f} s after Ctrl-C, its work after {gone:.1f} s; left: {left}",
                flush=True,
            )
    return wrong


def _left(stack: Stack) -> dict[str, int]:
    """What is under way on the cluster."""
    status = stack.scheduler_status()
    names = ("waiting", "queued", "no_worker", "processing")
    permissions = status["permissions"]
    return {
        "tasks": sum(status["activity"][name] for name in names),
        "announced": status["announced"],
        "leases": permissions["admitted"] + permissions["waiting"],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1000 only, and no shapes")
    parser.add_argument(
        "--numbers", type=int, nargs="*", default=[1000, 5000, 20_000], metavar="N"
    )
    parser.add_argument("--stubs", action="store_true", help="see above")
    parser.add_argument("--interrupt", type=float, metavar="SECONDS", help="see above")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument(
        "--shapes",
        nargs="*",
        choices=SHAPES,
        default=list(SHAPES),
        help="at the sizes of SHAPE_SIZES",
    )
    parser.add_argument(
        "--timeout", type=float, default=1800.0, help="seconds for one run"
    )
    options = parser.parse_args(arguments)
    numbers = [1000] if options.quick else options.numbers
    runs = [(way, number) for number in numbers for way in options.ways]
    if not options.quick:
        runs += [(shape, SHAPE_SIZES[shape]) for shape in options.shapes]
    stack: Stack = Stubs() if options.stubs else LocalStack(project="many")
    if options.interrupt:
        return 1 if interrupt(stack, runs, options.interrupt) else 0
    return 1 if table(stack, runs, options.timeout) else 0


if __name__ == "__main__":
    sys.exit(main())

"""CPU time and memory of all processes with the same home directory, by their kind.

Taken by the driver itself, right before and right after a workload, so that neither
imports nor the start of services count. A process that ended in between is missed.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

DRIVER = "driver"
SCHEDULER = "scheduler"
DASK_WORKER = "Dask worker"
SEAMLESS_PROCESS = "Seamless process"
OTHER = "other"
KINDS = (
    DRIVER,
    SCHEDULER,
    DASK_WORKER,
    SEAMLESS_PROCESS,
    "jobserver",
    "hashserver",
    "database",
    OTHER,
)

#: words of a command line, and what kind of process that is
_COMMANDS = (
    (("resource_tracker",), OTHER),
    (("wrapper.guard",), OTHER),
    (("hashserver",), "hashserver"),
    (("seamless-database",), "database"),
    (("seamless-jobserver",), "jobserver"),
    (("seamless-dask-wrapper",), SCHEDULER),
    (("dask", "scheduler"), SCHEDULER),
    (("dask", "worker"), DASK_WORKER),
)

#: what the processes are that a process of some kind starts
_CHILDREN = {
    DRIVER: SEAMLESS_PROCESS,
    SCHEDULER: DASK_WORKER,
    DASK_WORKER: SEAMLESS_PROCESS,
    "jobserver": SEAMLESS_PROCESS,
    SEAMLESS_PROCESS: SEAMLESS_PROCESS,
}


def kinds(
    processes: Mapping[int, tuple[int, list[str]]], driver: int
) -> dict[int, str]:
    """Say what each process is, given {pid: (pid of the parent, command line)}."""
    found: dict[int, str] = {}

    def kind_of(pid: int) -> str:
        if pid in found:
            return found[pid]
        if pid not in processes:
            return OTHER
        parent, command = processes[pid]
        kind = DRIVER if pid == driver else _kind_by_command(command)
        found[pid] = kind or _CHILDREN.get(kind_of(parent), OTHER)
        return found[pid]

    for pid in processes:
        kind_of(pid)
    return found


def _kind_by_command(command: list[str]) -> str | None:
    # The values of options are full of paths, which may contain anything.
    words = [Path(word).name for word in command[1:5]]
    joined = " ".join(words)
    for needed, kind in _COMMANDS:
        # Some of these words are part of a longer one: "-c from ... import main".
        if all(any(need == word for word in words) for need in needed):
            return kind
        if kind == OTHER and needed[0] in joined:
            return OTHER
    return None


def snapshot(*, reset_peaks: bool = False) -> dict[int, dict[str, Any]]:
    """{pid: kind, CPU seconds, peak memory and memory now in bytes} of all with our home.

    With ``reset_peaks`` the system forgets the peaks (Linux only), so that the next
    snapshot has those of the time in between.
    """
    home = os.environ["HOME"]
    processes = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME") == home:
                processes[process.pid] = process
        except psutil.Error:
            continue  # ended meanwhile, or somebody else's
    tree: dict[int, tuple[int, list[str]]] = {}
    found: dict[int, dict[str, Any]] = {}
    for pid, process in processes.items():
        with contextlib.suppress(psutil.Error), process.oneshot():
            times = process.cpu_times()
            found[pid] = {
                "cpu": times.user + times.system,
                "memory": _peak(pid) or process.memory_info().rss,
                "now": process.memory_info().rss,
            }
            tree[pid] = process.ppid(), process.cmdline()
        if reset_peaks:
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")
    for pid, kind in kinds(tree, os.getpid()).items():
        found[pid]["kind"] = kind
    return {pid: one for pid, one in found.items() if "kind" in one}


def _peak(pid: int) -> int | None:
    """The most memory that a process has had, where the system tells."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def difference(
    before: Mapping[int, Mapping[str, Any]], after: Mapping[int, Mapping[str, Any]]
) -> dict[str, dict[str, float]]:
    """{"cpu": {kind: seconds}, "memory": {kind: bytes}, "growth": {kind: bytes}}.

    Between two snapshots; the growth is that of the peak over the memory before.
    """
    cpu: dict[str, float] = {}
    memory: dict[str, float] = {}
    growth: dict[str, float] = {}
    for pid, one in after.items():
        kind = one["kind"]
        start = before.get(pid, {"cpu": 0.0, "memory": 0, "now": 0})
        cpu[kind] = cpu.get(kind, 0.0) + one["cpu"] - start["cpu"]
        memory[kind] = memory.get(kind, 0.0) + one["memory"]
        growth[kind] = growth.get(kind, 0.0) + one["memory"] - start["now"]
    return {"cpu": cpu, "memory": memory, "growth": growth}


def rows(database: Path | None) -> int | None:
    """How many results a Seamless database file holds; None without a database."""
    if database is None:
        return None
    if not database.exists():
        return 0
    # not "ro": what a server was writing when it was killed is undone by who reads next
    uri = f"{database.as_uri()}?mode=rw"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=30)) as connection:
        [(count,)] = connection.execute("select count(*) from transformation")
    return int(count)


def measured(
    workload: Callable[[], dict[str, Any]],
    *,
    database: Path | None = None,
    close: Callable[[], object] | None = None,
) -> dict[str, Any]:
    """Run a workload; add to its outcome what it cost and how many results it stored.

    ``close`` is called before the results are counted: whoever writes them late may
    do so.
    """
    stored = rows(database)
    before = snapshot(reset_peaks=True)
    outcome = workload()
    outcome |= difference(before, snapshot())
    if close is not None:
        close()
    after = rows(database)
    outcome["stored"] = None if stored is None or after is None else after - stored
    return outcome

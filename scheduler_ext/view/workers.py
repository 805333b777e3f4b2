"""Describes workers: their slots, their tasks, and whether they take more tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distributed.core import Status
from distributed.scheduler import Scheduler, TaskState, WorkerState

from ..permission.machine import PermissionMachine
from ..reports import METRICS, WorkerFigures, parse_figures
from .phrases import count

#: Counts of the transformations of a worker
WORK = ("top_level", "nested", "waiting", "storing")
#: The reason why Dask pauses a worker
PAUSED = "memory limit reached; ask for more memory"


def condition(ws: WorkerState, leaves: bool) -> str:
    """running, paused (short of memory: it starts no task), leaving, or a Dask status."""
    if leaves or ws.status == Status.closing_gracefully:
        return "leaving"
    return str(ws.status.name)


def paused(scheduler: Scheduler) -> str:
    """A sentence if workers are paused, which Dask does not report; else empty."""
    if len(scheduler.running) == len(scheduler.workers):
        return ""  # asked for many tasks at a time
    number = sum(ws.status == Status.paused for ws in scheduler.workers.values())
    verb = "is" if number == 1 else "are"
    return f"{count(number, 'worker')} {verb} paused: {PAUSED}" if number else ""


def worker_of(scheduler: Scheduler, task: TaskState) -> str | None:
    """The name of the worker on which a task has ended; None if it is not known."""
    for ws in task.who_has or ():
        return str(ws.name)
    for address in task.erred_on or ():
        known = scheduler.workers.get(address)
        return address if known is None else str(known.name)
    return None


def usage(ws: WorkerState) -> WorkerFigures:
    """A worker with its Seamless processes, at its last heartbeat.

    CPU and memory are those of the Dask process alone until the others are known.
    """
    known = parse_figures(ws.metrics)
    cpu, memory = known.cpu, known.memory
    return WorkerFigures(
        known.processes,
        ws.metrics.get("cpu") or 0.0 if cpu is None else cpu,
        ws.metrics.get("memory") or 0 if memory is None else memory,
    )


def used_by_all(scheduler: Scheduler) -> tuple[float, int]:
    """CPU in percent of a core and memory in bytes of all workers; see :func:`usage`."""
    cpu, memory = 0.0, 0
    for ws in scheduler.workers.values():
        metrics = ws.metrics
        told = metrics.get(METRICS)
        known = told if isinstance(told, dict) else {}
        one, other = known.get("cpu"), known.get("memory")
        cpu += one if isinstance(one, float) and one >= 0 else metrics.get("cpu") or 0.0
        memory += (
            other
            if isinstance(other, int) and other >= 0
            else metrics.get("memory") or 0
        )
    return cpu, memory


def work(machine: PermissionMachine, address: str) -> dict[str, int]:
    """Counts the transformations of a worker, exact at any moment.

    ``top_level`` and ``nested`` are all of them, ``waiting`` wait for their calls,
    ``storing`` have ended and their results are being stored; the others execute.
    """
    site = machine.places.sites.get(address)
    if site is None:
        return dict.fromkeys(WORK, 0)
    nested = site.executing + site.waiting + site.storing - site.top_level
    counts = (site.top_level, max(0, nested), site.waiting, site.storing)
    return dict(zip(WORK, counts, strict=True))


def executing(machine: PermissionMachine, ws: WorkerState) -> int:
    """Number of transformations that execute on a worker; of tasks on a plain one."""
    site = machine.places.sites.get(ws.address)
    if site is not None:
        return site.executing
    return sum(task not in ws.long_running for task in ws.processing)


def rows(
    scheduler: Scheduler,
    machine: PermissionMachine,
    leaves: Callable[[str], bool],
) -> list[dict[str, Any]]:
    """All workers, Seamless workers first, for the wire::

        address, name      name is None for a worker that has not connected yet
        status             see condition; "expected" before it has connected
        processes          of Seamless at least, or None for a plain worker of Dask
        processes_now      of Seamless at its last heartbeat, or None
        throttle           transformations for each of them, or None
        capacity           slots: the product, or 0
        threads            of Dask
        executing          transformations that execute; tasks on a plain worker
        long_running       tasks that left the thread pool
        top_level, nested, waiting, storing: see work
        memory             of it and its Seamless processes in bytes
        memory_limit       in bytes, 0 for none
        cpu                of it and its Seamless processes in percent of a core

    ``leaves`` tells whether a worker only finishes its tasks.
    """
    offers = machine.offers()
    addresses = [*offers, *(a for a in scheduler.workers if a not in offers)]
    result = []
    for address in addresses:
        size, throttle, capacity = offers.get(address, (None, None, 0))
        row: dict[str, Any] = {
            "address": address,
            "name": None,
            "status": "expected",
            "processes": size,
            "processes_now": None,
            "throttle": throttle,
            "capacity": capacity,
            "threads": 0,
            "executing": 0,
            "long_running": 0,
            **work(machine, address),
            "memory": 0,
            "memory_limit": 0,
            "cpu": 0.0,
        }
        ws = scheduler.workers.get(address)
        if ws is not None:
            used = usage(ws)
            row |= {
                "name": str(ws.name),
                "status": condition(ws, leaves(address)),
                "processes_now": used.processes,
                "threads": ws.nthreads,
                "executing": executing(machine, ws),
                "long_running": len(ws.long_running),
                "memory": used.memory,
                "memory_limit": ws.memory_limit or 0,
                "cpu": used.cpu,
            }
        result.append(row)
    return result

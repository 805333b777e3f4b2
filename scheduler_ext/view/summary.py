"""The head of the page: facts about the cluster, a sentence, figures in large type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distributed.metrics import time

from .operations import Operations
from .phrases import (
    clock,
    count,
    day_and_clock,
    listed,
    more_announced,
    reasons,
    rough,
    sentence,
    size,
)
from .workers import paused, used_by_all

#: Characters of a message of the batch system on a card
MESSAGE = 80


@dataclass(frozen=True)
class Fact:
    """A fact about the cluster that seldom changes; ``help`` explains it."""

    label: str
    value: str
    help: str


@dataclass(frozen=True)
class Card:
    """A figure in large type, with a title and a note; ``help`` explains it."""

    title: str
    value: str
    note: str
    help: str
    #: whether it shows a problem
    alarming: bool = False


def facts(cluster: dict[str, Any]) -> list[Fact]:
    """The head; ``cluster`` is :meth:`.operations.Operations.cluster`."""
    return [
        Fact(
            "project",
            cluster["project"] or "-",
            "The project that the cluster works for, with its stage",
        ),
        Fact(
            "cluster",
            cluster["cluster"] or "-",
            "The name of the cluster in clusters.yaml",
        ),
        Fact(
            "kind",
            cluster["kind"].rpartition("::")[2] or "a Dask scheduler",
            f"The class of the cluster: {cluster['kind'] or 'not started by the wrapper'}",
        ),
        Fact(
            "version",
            cluster["version"],
            "The version of seamless-dask in the scheduler",
        ),
        Fact(
            "since",
            day_and_clock(cluster["since"]),
            f"When the scheduler started, {rough(time() - cluster['since'])} ago",
        ),
        Fact(
            "walltime", _walltime(cluster), "When the oldest job reaches its walltime"
        ),
        Fact(
            "idle end", _idle_end(cluster), "The cluster ends after a time without work"
        ),
    ]


def _walltime(cluster: dict[str, Any]) -> str:
    if cluster["walltime_in"] is not None:
        return f"{rough(cluster['walltime_in'])} left"
    if cluster["walltime"] is not None:
        return f"{rough(cluster['walltime'])} per job"
    return "none"


def _idle_end(cluster: dict[str, Any]) -> str:
    if cluster["timeout"] is None:
        return "never"
    if cluster["ends_in"] is not None:
        return f"in {rough(cluster['ends_in'])}"
    return f"{rough(cluster['timeout'])} after the last work"


def standing(
    operations: Operations, cluster: dict[str, Any], waiting: int, running: int
) -> str:
    """What the cluster does, in a sentence."""
    number = len(operations.scheduler.workers)
    if waiting or running:
        return f"At work: {waiting} waiting, {running} running on {count(number, 'worker')}"
    unfinished = operations.unfinished
    if unfinished:
        return f"At work: {count(unfinished, 'task')} that are no transformations"
    parts = ["No work"]
    if number:
        parts.append(f"{count(number, 'worker')} {'is' if number == 1 else 'are'} idle")
    elif cluster["kind"]:
        parts.append("workers start with work")
    else:
        parts.append("no worker is connected")
    if cluster["ends_in"] is not None:
        parts.append(f"ends in {rough(cluster['ends_in'])}")
    return "; ".join(parts)


def cards(
    operations: Operations,
    scaling: dict[str, Any],
    cluster: dict[str, Any],
    waiting: int,
    running: int,
) -> list[Card]:
    """The figures; their number and order never change."""
    statistics = operations.machine.statistics()
    refused = statistics.refused_total
    endings = operations.journal.endings
    failed = endings["failed"] + endings["erred"]
    cpu, memory = used_by_all(operations.scheduler)
    cores = f"{cpu / 100:.1f}"
    wanted = scaling["wanted"]
    return [
        Card(
            "Transformations",
            f"{waiting} waiting, {running} running",
            sentence(
                f"{statistics.lent} waiting for calls",
                f"{statistics.storing} being stored",
                more_announced(operations.announced),
            ),
            "Running are all that a worker has: they execute, wait for their calls, or "
            "are being stored. Announced are those that driver scripts submit when "
            "others have ended",
        ),
        Card(
            "Slots",
            f"{statistics.slots_in_use} of {statistics.capacity}",
            f"in use, {statistics.executing} execute",
            "A transformation takes a slot while it executes, not while it waits for its "
            "calls or is being stored",
        ),
        Card(
            "Waiting for a slot",
            str(statistics.held + statistics.waiting),
            f"{count(statistics.held, 'task')}, {count(statistics.waiting, 'nested call')}",
            "Tasks that could run, and calls of running transformations, for which no "
            "slot is free",
        ),
        Card(
            "Refused a slot",
            str(sum(refused.values())),
            listed(f"{n} {kind}" for kind, n in refused.items() if n) or "none so far",
            "Calls that could never get a slot fail in their caller; those that are "
            "refused for want of capacity run in the driver script",
            # for want of capacity: it is tried again, then runs in the driver script
            alarming=bool(refused["cycle"] or refused["ceiling"]),
        ),
        Card(
            "Ended",
            str(sum(endings.values())),
            listed(f"{n} {ending}" for ending, n in endings.items() if n)
            or "none so far",
            "Transformations by how they ended: stored, cached (found in the database), "
            "failed, erred (Dask could not run it), cancelled, dropped (nobody wanted it)",
            alarming=failed > 0,
        ),
        Card(
            "Workers",
            str(len(operations.scheduler.workers)),
            f"{wanted} wanted" if wanted is not None else "scaling: none decided yet",
            "Dask workers that are connected, and how many the work needs",
        ),
        Card(
            "CPU and memory",
            f"{cores} {'core' if cores == '1.0' else 'cores'}",
            f"{size(memory)} of memory",
            "Used by all workers with their Seamless processes",
        ),
        _jobs(scaling, cluster),
    ]


def _jobs(scaling: dict[str, Any], cluster: dict[str, Any]) -> Card:
    jobs = {state: n for state, n in scaling["jobs"].items() if n}
    error = scaling["submission_error"]
    system = cluster["batch_system"]
    if error is not None:
        who = f"{system.upper()} refuses" if system else "workers do not start"
        message = " ".join(error["message"].split())
        if len(message) > MESSAGE:
            message = f"{message[: MESSAGE - 1]}…"
        note = f"{who}: {message}"
    elif jobs:
        note = listed(f"{n} {state}" for state, n in jobs.items())
        note += reasons(scaling["pending_reasons"])
    elif system:
        note = f"in the queue of {system.upper()}"
    else:
        note = "no batch system"
    return Card(
        "Jobs",
        str(sum(jobs.values())),
        note,
        "Jobs of the batch system, in which the workers run",
        alarming=error is not None,
    )


def problems(operations: Operations, scaling: dict[str, Any]) -> list[str]:
    """Paused workers, a standstill, problems with the batch system."""
    found = [paused(operations.scheduler)]
    stall = operations.watchdog.state()
    if stall is not None:
        found.append(stall["message"])
    error = scaling["submission_error"]
    if error is not None:
        found.append(
            f"{count(error['failures'], 'submission')} in a row failed, the last at "
            f"{clock(error['time'])}, the next try is at {clock(error['retry_at'])}: "
            f"{error['message']}"
        )
    for node, exclusion in scaling["excluded_nodes"].items():
        found.append(
            f"Node {node} gets no jobs until {clock(exclusion['until'])}: "
            f"{exclusion['reason']}"
        )
    return [problem for problem in found if problem]

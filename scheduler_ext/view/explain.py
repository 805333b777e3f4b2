"""Explains in sentences where transformations are and what they wait for.

Functions over the state of the scheduler and of the plugin; they change nothing. Their
return values go over the wire, see :func:`overview` and :func:`why`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Literal

from distributed.core import Status
from distributed.metrics import time
from distributed.scheduler import Scheduler, TaskState, WorkerState

from ..activity import UNFINISHED
from ..cancellation import LiveKeys
from ..permission.ledger import Lease
from ..permission.machine import PermissionMachine
from ..scaling import ScalingRecord
from ..task_keys import NESTED_RESOURCE, TOP_LEVEL_RESOURCE, checksum_of
from .failures import Failure, Failures
from .history import Ended, Journal
from .labels import Labels, joined
from .phrases import count, listed, reasons, span
from .workers import PAUSED, paused

#: what each worker offers once its Seamless processes have started
UNITS = {NESTED_RESOURCE, TOP_LEVEL_RESOURCE}
#: Transformations that each list of an overview has at most
SHOWN = 100
#: Steps that a chain has at most
MAX_STEPS = 50
#: Keys that a text or list names at most
MAX_NAMED = 5

#: "slot": its lease was requested and waits for a slot. "submission": it has the slot,
#: its task is on the way. "dependency": it waits for its inputs. "no-worker": no worker
#: fits. "queued": Dask holds it back. "assigned": a worker has it and has not begun it.
#: "running", "calling" when it waits for transformations that it called, or "storing".
#: "several": the answer is about all transformations with a name.
State = Literal[
    "slot",
    "submission",
    "dependency",
    "no-worker",
    "queued",
    "assigned",
    "running",
    "calling",
    "storing",
    "ended",
    "unknown",
    "several",
]

#: Endings with an error
FAILED = ("failed", "erred")
_ENDINGS = {
    "stored": "finished, the result is stored",
    "cached": "finished, the result was found in the database",
    "remote_job": "finished, it was written as a remote job",
    "finished": "finished",
    "failed": "failed: its code or an input raised an exception",
    "erred": "failed: Dask could not run it",
    "cancelled": "cancelled",
    "dropped": "dropped: nobody wanted it any more",
}


@dataclass(frozen=True)
class Subject:
    """The objects that the explanations are about."""

    scheduler: Scheduler
    machine: PermissionMachine
    live: LiveKeys
    journal: Journal
    scaling: ScalingRecord
    labels: Labels
    failures: Failures


def totals(subject: Subject) -> tuple[int, int]:
    """Numbers of transformations that wait, and that are with a worker."""
    journal = subject.journal
    waiting = len(journal.waiting) + subject.machine.ledger.unsubmitted
    return waiting, len(journal.with_worker)


def overview(subject: Subject, now: float, limit: int = SHOWN) -> dict[str, Any]:
    """All unfinished transformations, in numbers, and the oldest by name.

    Returns ``waiting_total``, ``with_workers_total``, and ``waiting`` and
    ``with_workers``, lists of up to ``limit`` rows, oldest first::

        key, checksum     of the transformation; checksum is None while an input is
                          still to be computed
        name              of its function, None if that is not known
        label             for people: the name and those of its callers, such as
                          "score < dock < simulate"; "code 1a2b3c4d" (the first digits
                          of the checksum of its code) stands for an unknown name
        state, reason     see State; a sentence for people
        age_seconds       since it was asked for
        worker            address of the worker that has it, or None
        worker_name       its name, or None
        worker_seconds    since that worker got it, or None

    ``now`` is monotonic seconds.
    """
    journal = subject.journal
    leases = subject.machine.ledger.oldest_unsubmitted(limit)
    unsubmitted = {_name(lease): lease for lease in leases}
    waiting = [lease_row(subject, lease, now) for lease in unsubmitted.values()]
    waiting += [row_of(subject, key, now) for key in islice(journal.waiting, limit)]
    waiting.sort(key=lambda row: row["age_seconds"], reverse=True)
    waiting_total, with_workers_total = totals(subject)
    return {
        "waiting_total": waiting_total,
        "with_workers_total": with_workers_total,
        "waiting": waiting[:limit],
        "with_workers": [
            row_of(subject, key, now) for key in islice(journal.with_worker, limit)
        ],
    }


def why(subject: Subject, checksum: str, now: float) -> dict[str, Any]:
    """Where one transformation is, and the chain of transformations that it waits for.

    Returns::

        checksum     as asked
        label        as in the rows of overview
        found        whether anything is known about it
        state        as in the rows of overview, or "ended" or "unknown"
        reason       a sentence for people
        ended        None, or {"ending": see history.Ending, "seconds_ago": float,
                     "seconds": float with a worker or None}
        failure      None, or how it failed last: the fields of failures.Failure
        matches      None; see search.by_name
        tasks        one for each Dask task, usually one: the row of overview, with
          chain      [rows of overview]: first the task that it waits for, then the task
                     that this one waits for, and so on; always the oldest of several
          waits_for  {"total": int, "keys": [str], "names": [str]}, the first few; the
                     names are for people
          called_by  the same of the transformations that wait for it
          clients    number of Dask clients that want its task
          slot      None, or where it waits for one: {"position": int from 1,
                     "waiting": int, "slots_in_use": int, "capacity": int,
                     "held_by": [str]}, names of the first few that use slots

    ``now`` is monotonic seconds.
    """
    keys = dict.fromkeys(subject.live.of(checksum))
    for key in subject.machine.ledger.keys():
        if checksum in key and checksum_of(key) == checksum:
            keys[key] = None
    ended = subject.journal.ended(checksum)
    tasks = [_task(subject, key, now) for key in keys]
    tasks = [task for task in tasks if task["state"] not in ("ended", "unknown")]
    failure = subject.failures.of(checksum)
    if tasks:
        label = tasks[0]["label"]
    elif failure is not None:
        label = joined(failure.name, failure.callers)
    else:
        label = "" if ended is None else subject.labels.label(ended.key)
    reply: dict[str, Any] = {
        "checksum": checksum,
        "label": label,
        "found": bool(tasks or ended or failure),
        "state": "unknown",
        "reason": "the scheduler has no task for it: it was not submitted here, or "
        "ended long ago (a result would be in the database)",
        "ended": None,
        "failure": None if failure is None else asdict(failure),
        "matches": None,
        "tasks": tasks,
    }
    if failure is not None:
        ago = span(max(0.0, time() - failure.time))
        reply["state"], reply["reason"] = "ended", f"{_failed(failure)}; {ago} ago"
    if ended is not None:
        reply["ended"] = {
            "ending": ended.ending,
            "seconds_ago": now - ended.at,
            "seconds": ended.seconds,
        }
        reply["state"] = "ended"
        mark = ";" if ended.ending in FAILED else ""
        ago = f"{span(now - ended.at)} ago"
        reply["reason"] = f"{ending(subject, ended)}{mark} {ago}"
    if tasks:
        reply["state"], reply["reason"] = tasks[0]["state"], tasks[0]["reason"]
    return reply


def chain(subject: Subject, key: str, now: float) -> list[dict[str, Any]]:
    """The chain of tasks that a task waits for, as rows of overview; see why."""
    steps: list[dict[str, Any]] = []
    seen = {key}
    while len(steps) < MAX_STEPS:
        below = [other for other in waits_for(subject, key) if other not in seen]
        if not below:
            break
        key = below[0]
        seen.add(key)
        steps.append(row_of(subject, key, now))
    return steps


def on_the_way(subject: Subject) -> str:
    """The jobs in the queue of the batch system as text, or empty."""
    scaling = subject.scaling.snapshot()
    jobs = scaling["jobs"]
    pending, starting = jobs.get("pending", 0), jobs.get("starting", 0)
    if not (pending or starting):
        return ""
    why = reasons(scaling["pending_reasons"])
    return f"; batch system: {pending} pending{why}, {starting} starting"


def waits_for(subject: Subject, key: str) -> list[str]:
    """Keys of the tasks that a transformation waits for, oldest first."""
    task = subject.scheduler.tasks.get(key)
    if task is not None and task.state == "waiting":
        return [str(other.key) for other in task.waiting_on or ()]
    requested = subject.machine.ledger.requested_by(key)
    return list(dict.fromkeys(each.key for each in requested if each.key is not None))


# -- rows --------------------------------------------------------------------------


def _task(subject: Subject, key: str, now: float) -> dict[str, Any]:
    task = subject.scheduler.tasks.get(key)
    ledger = subject.machine.ledger
    called_by = {request.owner for request in ledger.requests_for(key)} - {None}
    below = waits_for(subject, key)
    row = row_of(subject, key, now)
    return {
        **row,
        "chain": chain(subject, key, now),
        "waits_for": _named(subject, below),
        "called_by": _named(subject, sorted(map(str, called_by))),
        "clients": len(task.who_wants or ()) if task is not None else 0,
        "slot": _slot(subject, key) if row["state"] == "slot" else None,
    }


def _slot(subject: Subject, key: str) -> dict[str, Any]:
    ledger = subject.machine.ledger
    positions = [
        ledger.position(lease)
        for lease in map(ledger.leases.__getitem__, ledger.bound_to(key))
        if lease.granted_at is None
    ]
    machine = subject.machine
    return {
        "position": min(positions) if positions else machine.held_position(key),
        "waiting": ledger.waiting if positions else machine.held,
        "slots_in_use": machine.places.taken,
        "capacity": machine.capacity,
        "held_by": [subject.labels.short(k) for k in machine.holding(MAX_NAMED)],
    }


def row_of(subject: Subject, key: str, now: float) -> dict[str, Any]:
    """A row for a key: of its unfinished task, else of its lease, else of its end."""
    task = subject.scheduler.tasks.get(key)
    if task is None or task.state not in UNFINISHED:
        ledger = subject.machine.ledger
        ids = ledger.bound_to(key)
        if ids:
            return lease_row(subject, ledger.leases[ids[0]], now)
        state: State = "unknown" if task is None else "ended"
        reason = "it has no task any more" if task is None else f"it is {task.state}"
        return _fields(subject, key, state, reason, 0.0)
    waiting_since = subject.journal.waiting.get(key, now)
    since, started = subject.journal.with_worker.get(key, (waiting_since, None))
    state, reason = _state(subject, task)
    row = _fields(subject, key, state, reason, now - since)
    ws = task.processing_on
    if ws is not None:
        row["worker"], row["worker_name"] = ws.address, str(ws.name)
        row["worker_seconds"] = None if started is None else now - started
    return row


def lease_row(subject: Subject, lease: Lease, now: float) -> dict[str, Any]:
    """A row for a transformation without a task; its key may be None."""
    if lease.granted_at is None:
        state: State = "slot"
        reason = f"no slot: {subject.machine.why_waiting()}"
        if not subject.machine.capacity:
            reason += on_the_way(subject)
        reason += _paused(subject)
    else:
        state = "submission"
        holder = subject.scheduler.workers.get(lease.request.holder)
        name = lease.request.holder if holder is None else f"worker {holder.name}"
        reason = f"it has a slot, {name} is about to submit it"
    return _fields(subject, lease.request.key, state, reason, now - lease.since)


def ended_row(subject: Subject, ended: Ended, now: float) -> dict[str, Any]:
    """A row for a transformation that has ended; its age is since then."""
    reason = ending(subject, ended)
    row = _fields(subject, ended.key, "ended", reason, now - ended.at)
    row["checksum"] = ended.checksum
    return row


def _fields(
    subject: Subject, key: str | None, state: State, reason: str, age: float
) -> dict[str, Any]:
    return {
        "key": key,
        "checksum": None if key is None else subject.live.checksum(key),
        "name": subject.labels.name(key),
        "label": subject.labels.label(key),
        "state": state,
        "reason": reason,
        "age_seconds": max(0.0, age),
        "worker": None,
        "worker_name": None,
        "worker_seconds": None,
    }


# -- reasons -----------------------------------------------------------------------


def _state(subject: Subject, task: TaskState) -> tuple[State, str]:
    """Where an unfinished task of Dask is."""
    if task.state == "processing" and task.processing_on is not None:
        return _with_worker(subject, task, task.processing_on)
    state = waits_as(subject, task)
    if state == "dependency":
        below = islice(task.waiting_on or (), MAX_NAMED)
        keys = [subject.labels.short(str(other.key)) for other in below]
        number = len(task.waiting_on or ())
        return state, f"waits for {count(number, 'input')}: {listed(keys, number)}"
    if state == "queued":
        reason = "held back by Dask until a worker has a free thread"
        return state, reason + _paused(subject)
    if state == "slot":
        return state, f"no slot: {subject.machine.why_waiting()}" + _paused(subject)
    return state, _no_worker(subject, task)


def waits_as(
    subject: Subject, task: TaskState, fits: Callable[[str], bool] | None = None
) -> State:
    """What an unfinished task without a worker waits for.

    ``fits`` tells whether a task that is held back has a worker that fits.
    """
    if task.state == "waiting":
        return "dependency"
    if task.state == "queued" and subject.scheduler.workers:
        return "queued"
    machine, key = subject.machine, str(task.key)
    if machine.capacity and machine.holds_back(key):
        if (fits or machine.may_ever_start)(key):
            return "slot"
    return "no-worker"


def _with_worker(
    subject: Subject, task: TaskState, ws: WorkerState
) -> tuple[State, str]:
    key = str(task.key)
    called = subject.machine.ledger.requested_by(key)
    if called:
        waiting = sum(
            subject.machine.ledger.leases[i].granted_at is None
            for i in subject.machine.ledger.owned_by(key)
        )
        text = f"waits for {count(len(called), 'call')}"
        return "calling", text + (f", {waiting} without slot" if waiting else "")
    place = subject.machine.places.of(key)
    if place is not None and place.stores:
        return "storing", "has ended, its result is being stored"
    if task in ws.long_running:
        return "running", "runs, has called others"
    if task in ws.executing:
        seconds = ws.executing[task] + max(0.0, time() - ws.last_seen)
        return "running", f"has run for {span(seconds)}"
    if ws.status == Status.paused:
        return "assigned", f"not begun, its worker is paused: {PAUSED}"
    busy = ws.metrics.get("task_counts", {}).get("executing", 0)
    return "assigned", f"not begun, {count(busy, 'task')} run there"


def _no_worker(subject: Subject, task: TaskState) -> str:
    """Why no worker may run a task: there is none, or none fits its restrictions."""
    scheduler = subject.scheduler
    asked: list[str] = []
    if task.host_restrictions:
        asked.append(f"host {listed(sorted(task.host_restrictions)[:MAX_NAMED])}")
    if task.worker_restrictions:
        names = sorted(map(str, task.worker_restrictions))
        asked.append(f"worker {listed(names[:MAX_NAMED], len(names))}")
    offers: list[str] = []
    for name, amount in sorted((task.resource_restrictions or {}).items()):
        asked.append(f"{name} {amount:g}")
        offered = scheduler.resources.get(name, {}).values()
        offers.append(f"{name} at most {max(offered):g}" if offered else f"no {name}")
    number = len(scheduler.workers)
    if not number:
        return "no worker is connected" + on_the_way(subject)
    if UNITS & (task.resource_restrictions or {}).keys():
        if not any(map(subject.machine.is_worker, scheduler.workers)):
            connected = count(number, "worker")
            return f"{connected} connected, where Seamless processes are still starting"
    text = f"no worker fits: it needs {listed(asked) or 'a running worker'}"
    if offers:
        text += f"; {count(number, 'worker')} connected with {listed(offers)}"
    return text + _paused(subject)


def _paused(subject: Subject) -> str:
    """An addition to a reason if workers are paused."""
    text = paused(subject.scheduler)
    return f"; {text}" if text else ""


def ending(subject: Subject, ended: Ended) -> str:
    text = _ENDINGS[ended.ending]
    if ended.ending == "cancelled" and subject.machine.waits(ended.key):
        return f"being {text}, its worker has not said so yet; asked for it"
    if ended.ending in FAILED:
        failure = subject.failures.of(ended.checksum or ended.key)
        if failure is not None:
            return _failed(failure)
    return text


def _failed(failure: Failure) -> str:
    """The last line of the error; whose error it is, if not its own."""
    text = f"failed: {failure.line or 'without a text'}"
    if failure.cause is not None:
        text += f" (because {failure.cause} failed)"
    return text


def _name(lease: Lease) -> str:
    """The name of the transformation of a lease: leases for one key share it."""
    return lease.request.key or lease.request.lease_id


def _named(subject: Subject, keys: list[str]) -> dict[str, Any]:
    names = [subject.labels.short(key) for key in keys[:MAX_NAMED]]
    return {"total": len(keys), "keys": keys[:MAX_NAMED], "names": names}

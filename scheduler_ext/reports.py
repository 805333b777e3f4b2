"""What a worker tells about its tasks and itself in messages that Dask sends anyway.

These are the metadata of a finished task and the heartbeat of a worker. As in
:mod:`.messages`, what is built here is parsed here, and what arrives is not trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import error_texts, fields
from .functions import DIGITS, MAX_NAME, clean

#: name under which a worker reports in the metadata of a task how its run ended, see
#: :func:`report`
REPORT = "seamless"

#: name in the same metadata under which a worker puts a small result, see :func:`parcel`
RESULT = "seamless_result"

#: name of a worker's figures in its heartbeat, see :func:`figures`
METRICS = "seamless"


def report(
    ending: str,
    cache_hits: int,
    *,
    begun: int | None,
    resume_wait: float | None,
    usage: tuple[float, float, int | None] | None = None,
    error: str | None = None,
) -> dict[str, Any]:
    """The value under REPORT in the metadata of a task.

    ``ending`` is one of :data:`.view.history.REPORTED`, ``cache_hits`` the number of
    results that were found for nested transformations. Three fields are there only if
    its code ran: ``begun``, how often the code began, ``resume_wait``, how many seconds
    it waited for its process after its calls had ended, and ``usage``: seconds from its
    beginning to its end, seconds of CPU time, and the peak memory of its process in bytes
    or None. A failure has ``error``: what :func:`failure` makes of its text.
    """
    details: dict[str, Any] = {"ending": ending, "cache_hits": cache_hits}
    if begun is not None:
        details["begun"] = begun
    if resume_wait is not None:
        details["resume_wait"] = resume_wait
    if usage is not None:
        details["usage"] = usage
    if error is not None:
        details["error"] = failure(error)
    return details


def failure(text: str) -> dict[str, Any]:
    """An error without all that the scheduler does not keep.

    ``line``, ``text`` and ``origin``: see :mod:`.error_texts`.
    """
    return {
        "line": error_texts.last_line(text),
        "text": error_texts.beginning(text),
        "origin": error_texts.origin(text),
    }


def parse_failure(details: Mapping[str, Any]) -> tuple[str, str, str | None]:
    """``line``, ``text`` and ``origin`` of the error in a report; empty if invalid."""
    error = details.get("error")
    if not isinstance(error, dict):
        return "", "", None
    source = error.get("origin")
    return (
        clean(error.get("line"), error_texts.MAX_LINE),
        error_texts.beginning(error.get("text")),
        clean(source, MAX_NAME + 1 + DIGITS) if isinstance(source, str) else None,
    )


def parse_report(metadata: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """A report of :func:`report`, with unchecked content; None if there is none."""
    details = (metadata or {}).get(REPORT)
    return details if isinstance(details, dict) else None


def parse_usage(
    details: Mapping[str, Any],
) -> tuple[float | None, float | None, int | None, float | None]:
    """Wall time, CPU time, memory and ``resume_wait`` in a report; None if invalid."""
    usage = details.get("usage")
    if not isinstance(usage, (list, tuple)) or len(usage) != 3:
        return None, None, None, None
    wall, cpu, memory = (_amount(value) for value in usage)
    waited = _amount(details.get("resume_wait"))
    return wall, cpu, None if memory is None else int(memory), waited


def _amount(value: Any) -> float | None:
    """A number that can be summed up, None if it is none."""
    valid = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if valid and 0 <= value < fields.MAX_AMOUNT else None


def parcel(client: str, result: Any) -> dict[str, Any]:
    """The value under RESULT in the metadata of a task.

    ``client`` is the id of the client that submitted the task; worker and client agree
    on the format of ``result``.
    """
    return {"client": client, "result": result}


def parse_parcel(value: Any) -> tuple[str, Any] | None:
    """Client and result of a :func:`parcel`; None if it is none."""
    if not isinstance(value, dict):
        return None
    return str(value.get("client")), value.get("result")


@dataclass(frozen=True)
class WorkerFigures:
    """A worker with its Seamless processes; None: not known.

    ``processes`` is how many there are, ``cpu`` is in percent of a core and ``memory`` in
    bytes, both of the Dask process and of all processes below it.
    """

    processes: int | None = None
    cpu: float | None = None
    memory: int | None = None


def figures(processes: int, cpu: float | None, memory: int | None) -> dict[str, Any]:
    """The value under METRICS in a worker's heartbeat; see :class:`WorkerFigures`."""
    return {"processes": processes, "cpu": cpu, "memory": memory}


def parse_figures(metrics: Mapping[str, Any]) -> WorkerFigures:
    """The figures of a worker in the metrics of its heartbeat."""
    told = metrics.get(METRICS)
    if not isinstance(told, dict):
        return WorkerFigures()
    number, memory = told.get("processes"), _amount(told.get("memory"))
    return WorkerFigures(
        number if isinstance(number, int) else None,
        _amount(told.get("cpu")),
        None if memory is None else int(memory),
    )

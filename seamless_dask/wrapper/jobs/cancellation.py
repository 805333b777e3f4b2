"""Cancels jobs and makes sure that they are gone. Used by the wrapper and its guard."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable

from . import commands
from .farewell import Farewell
from .queues import Queue, Rows, UnreadableAnswer
from .surroundings import for_commands

logger = logging.getLogger(__name__)

#: Bounds of the time limit for a command while the cluster ends, in seconds.
COMMAND_SECONDS = (2.0, 10.0)
#: First and longest pause between two queries, in seconds; it is doubled each time.
PAUSES = (0.25, 10.0)


async def ask(
    queue: Queue, job_ids: Iterable[str], seconds: float = commands.PATIENCE
) -> Rows:
    """Ask the queue about jobs. Raises `CommandFailed`, `UnreadableAnswer`."""
    job_ids = list(job_ids)
    command = queue.query_command(job_ids)
    environment = for_commands(queue.system, os.environ)
    result = await commands.run(command, seconds, environment=environment)
    return queue.answer(result.code, result.output, result.errors, job_ids)


async def search(queue: Queue, seconds: float = commands.PATIENCE) -> Rows:
    """Ask the queue for all jobs with the name that this cluster gives to its jobs.

    Raises `CommandFailed`, `UnreadableAnswer`.
    """
    command = queue.search_command()
    if command is None:
        return {}
    environment = for_commands(queue.system, os.environ)
    result = await commands.run(command, seconds, environment=environment)
    return queue.search_answer(result.code, result.output, result.errors)


async def cancel(
    queue: Queue, job_ids: Iterable[str], seconds: float = commands.PATIENCE
) -> str:
    """Cancel jobs; return the error message of the command, "" if there is none.

    Raises `CommandFailed`.
    """
    command = queue.cancel_command(job_ids)
    environment = for_commands(queue.system, os.environ)
    result = await commands.run(command, seconds, environment=environment)
    return queue.cancel_error(result.code, result.output, result.errors)


async def make_sure(
    queue: Queue,
    job_ids: Iterable[str],
    deadline: float,
    farewell: Farewell | None = None,
) -> list[str]:
    """Cancel jobs until the queue says that they are gone or ending.

    Parameters
    ----------
    queue
        The queue of the cluster.
    job_ids
        All jobs that may be in the queue.
    deadline
        In monotonic seconds.
    farewell
        The records about these jobs, if more than their ids is known.

    Returns
    -------
    The jobs for which the queue has not said so until then.
    """
    farewell = farewell or Farewell(dict.fromkeys(job_ids, True))
    pause, longest = PAUSES
    complaints: set[str] = set()
    while True:
        for complaint in await _round(queue, farewell, deadline):
            if complaint not in complaints:
                complaints.add(complaint)
                names = ", ".join(farewell.left) or f"those named {queue.job_name}"
                logger.warning("Jobs that should end, %s: %s", names, complaint)
        remaining = deadline - time.monotonic()
        if farewell.done or remaining <= 0:
            return farewell.left
        await asyncio.sleep(min(pause, remaining))
        pause = min(2 * pause, longest)


async def _round(queue: Queue, farewell: Farewell, deadline: float) -> list[str]:
    """Cancel the jobs that are left, and query the queue; return error messages."""
    complaints = []
    for job_ids in farewell.to_cancel():
        try:
            said = await cancel(queue, job_ids, _patience(deadline))
        except commands.CommandFailed as error:
            complaints.append(str(error))
        else:
            farewell.cancelled(job_ids, accepted=not said)
    asked_at = time.monotonic()
    asked = farewell.left
    looks = [_look(queue, farewell, asked, deadline)] if asked else []
    if farewell.search_due:
        looks.append(_search(queue, farewell, asked_at, deadline))
    complaints += [said for said in await asyncio.gather(*looks) if said]
    return complaints


async def _look(
    queue: Queue, farewell: Farewell, job_ids: list[str], deadline: float
) -> str:
    try:
        rows = await ask(queue, job_ids, _patience(deadline))
    except (commands.CommandFailed, UnreadableAnswer) as error:
        return str(error)
    farewell.answered(rows, job_ids)
    return ""


async def _search(
    queue: Queue, farewell: Farewell, asked_at: float, deadline: float
) -> str:
    try:
        rows = await search(queue, _patience(deadline))
    except (commands.CommandFailed, UnreadableAnswer) as error:
        farewell.search_failed()
        return str(error) if farewell.doubtful else ""
    unknown = farewell.searched(rows, asked_at)
    if unknown:
        logger.warning(
            "Jobs in the queue that bear our name and were not known: %s.",
            ", ".join(unknown),
        )
    return ""


def _patience(deadline: float) -> float:
    least, most = COMMAND_SECONDS
    return min(most, max(deadline - time.monotonic(), least))

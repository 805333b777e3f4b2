"""The end of jobs, and the proof of it. Used by the wrapper and by its guard."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable

from . import commands
from .queues import Queue, Rows, UnreadableAnswer

logger = logging.getLogger(__name__)

#: How long a command may take while everything ends: at least, and at most, in seconds.
COMMAND_SECONDS = (2.0, 10.0)
#: Pause before another look at the queue, in seconds; doubled each time up to the second.
PAUSES = (0.25, 10.0)


async def ask(
    queue: Queue, job_ids: Iterable[str], seconds: float = commands.PATIENCE
) -> Rows:
    """Ask the queue about jobs. Raises `CommandFailed`, `UnreadableAnswer`."""
    result = await commands.run(queue.query_command(job_ids), seconds)
    return queue.answer(result.code, result.output, result.errors)


async def make_sure(queue: Queue, job_ids: list[str], deadline: float) -> list[str]:
    """Cancel jobs until the queue says that they are gone, or have been told to end.

    `deadline` is in monotonic seconds. Returns the jobs of which the queue has not said
    so until then.
    """
    left = list(job_ids)
    pause, longest = PAUSES
    complaint = ""
    while left:
        try:
            await commands.run(queue.cancel_command(left), _patience(deadline))
            rows = await ask(queue, left, _patience(deadline))
        except (commands.CommandFailed, UnreadableAnswer) as error:
            if str(error) != complaint:
                complaint = str(error)
                logger.warning(
                    "Jobs that should end, %s: %s", ", ".join(left), complaint
                )
        else:
            left = [
                job_id
                for job_id in left
                if job_id in rows and rows[job_id].place not in ("gone", "ending")
            ]
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            break
        if left:
            await asyncio.sleep(min(pause, remaining))
            pause = min(2 * pause, longest)
    return left


def _patience(deadline: float) -> float:
    least, most = COMMAND_SECONDS
    return min(most, max(deadline - time.monotonic(), least))

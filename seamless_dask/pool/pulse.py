"""Checks whether a Seamless process answers, and which of its jobs do not end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from .job import PoolJob

logger = logging.getLogger(__name__)

#: seconds between two pings of a process
PING_INTERVAL = 10.0
#: seconds without an answer after which other idle processes are preferred for new jobs
PING_PATIENCE = 2.0
#: seconds from the end of a job's code to a warning that the job has not ended
END_PATIENCE = 10.0


class Pulse:
    """Pings a process regularly, and notices when it does not answer.

    User code that holds the GIL delays the answer. That is no reason to kill the
    process, but other processes are then preferred for new jobs. Only a process that
    does not answer for a long time is taken for dead.

    Parameters
    ----------
    process
        Its name in the log.
    ping
        Sends a ping. The answer names the jobs that have computed their result but do
        not end: {id of the job: seconds since then}.
    jobs
        Its jobs.
    """

    def __init__(
        self,
        process: str,
        ping: Callable[[], Awaitable[dict[str, float]]],
        jobs: Iterable[PoolJob],
    ) -> None:
        self._process = process
        self._ping = ping
        self._jobs = jobs
        #: whether it answers promptly
        self.responsive = True

    async def stops(self, limit: float) -> str:
        """Watch until it does not answer for `limit` seconds; return that as text."""
        while True:
            await asyncio.sleep(PING_INTERVAL)
            since = time.monotonic()
            ping = asyncio.ensure_future(self._ping())
            ping.add_done_callback(_retrieve)
            await asyncio.wait({ping}, timeout=PING_PATIENCE)
            if ping.done():
                if not ping.cancelled() and ping.exception() is None:
                    self._warn_of_endings(ping.result())
                continue
            logger.info("%s is busy", self._process)
            self.responsive = False
            await asyncio.wait({ping}, timeout=limit - PING_PATIENCE)
            if not ping.done():
                return f"did not answer for {limit:g} s"
            self.responsive = True
            seconds = time.monotonic() - since
            logger.info("%s answers again after %.1f s", self._process, seconds)

    def _warn_of_endings(self, ending: dict[str, float]) -> None:
        """Log each job, once, that has computed its result but does not end."""
        for job in self._jobs:
            seconds = ending.get(job.id, 0.0)
            if seconds > END_PATIENCE and not job.warned:
                job.warned = True
                logger.warning(
                    "The code of %s ended %.0f s ago, but its clean-up has not: a "
                    "finaliser (__del__) may wait for ever, or a large result is being "
                    "stored. It keeps its slot until then, or until it is cancelled",
                    job.name,
                    seconds,
                )


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Keep asyncio from logging an exception that was never retrieved."""
    if not future.cancelled():
        future.exception()

"""Whether a Seamless process answers, and what it says of jobs that do not end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from .job import PoolJob

logger = logging.getLogger(__name__)

#: seconds between two looks at whether a process answers
PING_INTERVAL = 10.0
#: seconds without an answer after which a process gets new jobs only if all are so
PING_PATIENCE = 2.0
#: seconds that the end of a job may take, after that of its code, without a warning
END_PATIENCE = 10.0


class Pulse:
    """Looks now and then whether a process answers: user code may hold the GIL.

    That is no reason to kill it; it gets no more jobs meanwhile. Only what does not
    answer for long is taken for dead.

    Parameters
    ----------
    process
        What the log calls it.
    ping
        Asks it. The answer says which of its jobs have computed their result and do not
        end: {id of the job: seconds since then}.
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
        """Watch until there is no sign of life for `limit` seconds; say so in words."""
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
        """Tell of jobs, once each, that have computed their result and do not end."""
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
    """Have asyncio not report an exception that nobody waits for."""
    if not future.cancelled():
        future.exception()

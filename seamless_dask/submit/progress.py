"""The progress of what a driver script waits for: a line on its terminal, and warnings.

Nothing happens in the first `PATIENCE` seconds of a wait. After that the scheduler is
asked once a second, or more rarely if no line is shown.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from scheduler_ext.functions import clean
from scheduler_ext.messages import OP_PROGRESS
from scheduler_ext.view.phrases import span

from ..cluster.environment import PROGRESS_ENV, switch
from ..output.region import changes
from ..output.terminal import Terminal

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger(__name__)

#: seconds of a wait until its progress is looked at
PATIENCE = 2.0
#: seconds between two questions to the scheduler, with and without a line
INTERVAL = 1.0
RARELY = 10.0
#: seconds for an answer
TIMEOUT = 10.0
#: seconds without any movement until a warning
STANDSTILL = 60.0

Answer = Mapping[str, Any]


@dataclass
class Counts:
    """The transformations that this script has asked for since it began to wait."""

    total: int = 0
    done: int = 0
    cached: int = 0
    failed: int = 0


def lines_of(counts: Counts, answer: Answer, first: Answer) -> list[str]:
    """Return the lines that show progress.

    Parameters
    ----------
    counts
        The transformations of this script.
    answer, first
        What `scheduler_ext.view.progress` answers, now and when the wait began.
    """
    own = [f"{counts.done}/{counts.total} done"]
    own += [f"{counts.cached} cached"] if counts.cached else []
    failed = max(counts.failed, answer["failed"] - first["failed"])
    own += [f"{failed} failed"] if failed else []
    ended = answer["nested"]["ended"] - first["nested"]["ended"]
    nested = ended + answer["nested"]["unfinished"]
    parts = [", ".join(own)]
    parts += [f"calls {ended}/{nested}"] if nested else []
    waiting = answer["waiting"] + answer["announced"]
    parts.append(f"{answer['running']} running, {waiting} waiting")
    if answer["seconds_left"] is not None:
        parts.append(f"about {span(answer['seconds_left'])} left")
    wanted = answer["wanted"]
    of = f" of {wanted}" if wanted is not None and wanted > answer["workers"] else ""
    parts.append(f"workers {answer['workers']}{of}")
    lines = ["seamless: " + "; ".join(parts)]
    if answer["refused"]:
        lines.append(f"  jobs are refused: {clean(answer['refused'], 200)}")
    if answer["blocked"]:
        lines.append(f"  nothing runs: {clean(answer['blocked'], 200)}")
    return lines


class Complaints:
    """Decides which warnings are due, each reason once. Pure; times are in seconds."""

    def __init__(self) -> None:
        self._made: set[str] = set()
        self._ended = -1
        self._since = 0.0

    def look(self, answer: Answer, now: float) -> list[str]:
        """Return the warnings that are due.

        Parameters
        ----------
        answer
            What `scheduler_ext.view.progress` answers.
        now
            The time (monotonic).
        """
        due = []
        refused, blocked = answer["refused"], answer["blocked"]
        if refused and self._is_new(refused):
            due.append(f"Submissions of jobs are refused: {clean(refused, 300)}")
        if answer["ended"] != self._ended or not blocked:
            self._ended, self._since = answer["ended"], now
        elif now - self._since >= STANDSTILL and self._is_new(blocked):
            due.append(
                f"For {span(now - self._since)} nothing has ended and nothing runs: "
                f"{clean(blocked, 300)}"
            )
        return due

    def _is_new(self, reason: str) -> bool:
        """Whether a reason is new, apart from the numbers in it."""
        reason = re.sub(r"\d+(\.\d+)?", "#", reason)
        new = reason not in self._made
        self._made.add(reason)
        return new


class Progress:
    """Watches the waits of one driver script; lives on the event loop of its client.

    Parameters
    ----------
    client
        The client of distributed.
    shows
        Whether this process is a driver script.

    Raises
    ------
    ValueError
        If the environment variable `PROGRESS_ENV` has a value that is not allowed.
    """

    def __init__(self, client: Client, *, shows: bool) -> None:
        self._client = client
        self._shows = shows
        self._wanted = switch(PROGRESS_ENV) if shows else False
        if shows and self._is_shown():
            Terminal.of_this_process().guard()
        self._complaints = Complaints()
        self._waits = 0
        self._watch: asyncio.Task[None] | None = None
        #: since the first of the present waits
        self.counts = Counts()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count a wait while it lasts."""
        self._waits += 1
        if self._shows and self._watch is None:
            self._watch = asyncio.ensure_future(self._look())
        try:
            yield
        finally:
            self._waits -= 1
            if not self._waits:
                self.counts = Counts()
                watch, self._watch = self._watch, None
                if watch is not None:
                    watch.cancel()

    def _is_shown(self) -> bool:
        return changes(sys.stderr) if self._wanted is None else self._wanted

    async def _look(self) -> None:
        terminal: Terminal | None = None
        await asyncio.sleep(PATIENCE)
        first: Answer | None = None
        try:
            while True:
                shows = self._is_shown()
                answer = await self._ask()
                if answer is not None:
                    first = first or answer
                    if shows:
                        terminal = terminal or Terminal.of_this_process()
                        terminal.set_status(lines_of(self.counts, answer, first))
                    for warning in self._complaints.look(answer, monotonic()):
                        logger.warning("%s", warning)
                await asyncio.sleep(INTERVAL if shows else RARELY)
        except Exception:  # a bug of ours must not concern those who wait
            logger.exception("Progress is not shown")
        finally:
            if terminal is not None:
                terminal.set_status([])

    async def _ask(self) -> Answer | None:
        call = getattr(self._client.scheduler, OP_PROGRESS)
        try:
            answer = await asyncio.wait_for(call(), TIMEOUT)
        except (OSError, asyncio.TimeoutError) as error:
            logger.debug("The scheduler does not tell the progress: %r", error)
            return None
        return answer if answer.get("status") == "ok" else None

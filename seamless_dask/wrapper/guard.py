"""A small process that cleans up when the wrapper itself is killed.

It waits for the pipe from the wrapper to break, and then

- writes into the status file that the wrapper is dead;
- on this machine: gives the processes below the wrapper a few seconds to end, and
  kills the rest. Dask workers notice the death of their parent, but processes that user
  code started below them do not, nor does a process whose parent died earlier. So the
  wrapper marks its environment, which every process below inherits. The wrapper itself
  uses the same mark to find the processes that it has to end;
- on a batch system: cancels the jobs of the wrapper, and other jobs with their name,
  until the queue says that they are gone. Otherwise a job that is still pending would
  start, find no scheduler, and hold its node for a minute.

The same happens when the wrapper ends and could not make sure that all jobs are gone.
Also if the pipe does not break, because another process has inherited it.

A signal that asks the guard to end (SIGINT, SIGTERM, SIGHUP) is not ignored. While the
wrapper runs it may have been sent to both, so the guard stays until the wrapper has ended;
a second signal ends it at once. While it cleans up, one signal makes it give up.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import psutil

from . import signals
from .events import News
from .exit_codes import WrapperError
from .jobs.cancellation import make_sure
from .jobs.farewell import Farewell
from .jobs.queues import QUEUES
from .status_file import declare_dead, start_time

#: Environment variable that all processes below one wrapper share. The name does not
#: start with DASK_, which Dask would read as configuration.
MARK = "WRAPPED_CLUSTER"
#: Time for processes to notice that their parent is gone, in seconds.
NOTICE_SECONDS = 5.0
KILL_SECONDS = 10.0
#: How long the guard tries to cancel jobs until it gives up, in seconds.
JOBS_SECONDS = 600.0
#: How long the status file of a dead wrapper may take in the end, in seconds.
DECLARE_SECONDS = 60.0
DISMISSED = "dismissed"
#: How many guards are started one after the other, if each of them ends.
MOST_STARTS = 3
#: How often the guard checks whether the wrapper is still its parent, in seconds.
LOOK_SECONDS = 5.0
#: The end of the pipe from the wrapper.
_BROKEN = None
#: What wakes the guard: a line from the wrapper, the end of the pipe, or a signal.
_Event = str | signal.Signals | None

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Charge:
    """The knowledge of the guard about the jobs of the wrapper."""

    #: The name of all its jobs; "" if it has none yet.
    job_name: str = ""
    jobs: Sequence[str] = ()
    #: Jobs that the queue has never shown.
    unseen: Sequence[str] = ()
    #: For how many seconds unknown jobs may still appear in the queue.
    doubtful: float = 0.0
    #: Options for the commands about jobs.
    options: Sequence[str] = ()


class Guard:
    """The guard as the wrapper sees it: started, and dismissed at a clean end.

    No call waits for the guard, except `dismiss`, for a limited time.

    Parameters
    ----------
    status_file
        The status file of the wrapper.
    batch_system
        A name in `queues.QUEUES`, or "" for processes on this machine.
    """

    def __init__(self, status_file: Path, batch_system: str = "") -> None:
        #: The mark of processes on this machine; "" if they are not guarded.
        self.mark = "" if batch_system else uuid.uuid4().hex
        if self.mark:
            os.environ[MARK] = self.mark
        self._arguments = [
            *("--status-file", str(status_file)),
            *("--wrapper", str(os.getpid()), repr(start_time())),
            *("--mark", self.mark),
            *("--batch-system", batch_system),
        ]
        #: what the guard knows; a guard that takes the place of this one is told
        self._charge = ""
        self._starts = 0
        self._start()

    def _start(self) -> None:
        self._starts += 1
        with signals.held_back():  # the guard inherits this until it has its handlers
            self._process = subprocess.Popen(
                # It imports what the wrapper has imported, whatever the folder has.
                [sys.executable, "-c", _PROGRAM.format(path=[*map(str, sys.path)])]
                + self._arguments,
                stdin=subprocess.PIPE,
                # out of reach of signals from a terminal
                start_new_session=True,
                # the guard itself has no mark
                env={name: value for name, value in os.environ.items() if name != MARK},
                text=True,
            )
        #: lines for this guard; None is the last one
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        threading.Thread(
            target=_write,
            args=(self._process, self._lines),
            name="guard",
            daemon=True,
        ).start()

    @property
    def pid(self) -> int:
        """Process id of the guard."""
        return self._process.pid

    def watch(self, news: News) -> None:
        """Tell the guard all jobs of the wrapper; from any thread."""
        charge = Charge(
            job_name=news.job_name,
            jobs=news.jobs,
            unseen=news.unseen,
            doubtful=news.doubtful,
            options=news.options,
        )
        self._charge = json.dumps(vars(charge))
        self._lines.put(self._charge)

    def look(self) -> None:
        """Start another guard if this one has ended; from the main thread only."""
        code = self._process.poll()
        if code is None or self._starts > MOST_STARTS:
            return
        self._lines.put(None)
        if self._starts == MOST_STARTS:
            self._starts += 1
            logger.error(
                "The guard has ended again, with exit code %d. If this process is killed, "
                "nobody ends its workers and jobs.",
                code,
            )
            return
        logger.error("The guard has ended with exit code %d: starting another.", code)
        self._start()
        if self._charge:
            self._lines.put(self._charge)

    @property
    def runs(self) -> bool:
        """Whether there is a guard."""
        return self._process.poll() is None

    def dismiss(self, seconds: float = 1.0) -> None:
        """End the guard: there is no process or job left to guard."""
        self._lines.put(DISMISSED)
        self._lines.put(None)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                logger.error("The guard, process %d, does not end.", self.pid)


#: Starts the guard with a given search path.
_PROGRAM = "import sys; sys.path[:] = {path}; from seamless_dask.wrapper.guard import main; main()"


def _write(process: subprocess.Popen[str], lines: SimpleQueue[str | None]) -> None:
    """Pass lines on to a guard."""
    assert process.stdin is not None
    try:
        with process.stdin as pipe:
            while (line := lines.get()) is not None:
                pipe.write(line + "\n")
                pipe.flush()
    except OSError as error:  # it has ended: `Guard.look` notices
        logger.info("The guard does not read any more: %s", error)


def marked(mark: str) -> set[psutil.Process]:
    """All processes that inherited the mark, except this one."""
    found = set()
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found.add(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            continue  # ended meanwhile, or another user's
    return found


def _read(descriptor: int, events: SimpleQueue[_Event]) -> None:
    """Pass on the whole lines of a pipe. A last one may be half a line: it is left out."""
    rest = b""
    while chunk := os.read(descriptor, 1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            events.put(line.decode())
    events.put(_BROKEN)


def _wait(wrapper: int, events: SimpleQueue[_Event]) -> Charge | None:
    """Wait for the end of the wrapper; return its jobs, or None if there is nothing to do."""
    charge = Charge()
    asked = False
    seconds = LOOK_SECONDS
    while True:
        try:
            event = events.get(timeout=seconds)
        except Empty:
            if os.getppid() != wrapper:
                logger.warning("The wrapper has ended, but not its pipe to the guard.")
                return charge
            continue
        if event is _BROKEN:
            return charge
        if event == DISMISSED:
            return None
        if isinstance(event, str):
            charge = Charge(**json.loads(event))
        elif os.getppid() != wrapper:
            seconds = 0.1  # only lines that are there already
        elif asked:
            logger.warning("Ending at once; process %d is without guard.", wrapper)
            return None
        else:
            asked = True
            logger.warning(
                "Asked to end by %s: the guard ends with the wrapper, process %d; a "
                "second signal ends it at once.",
                event.name,
                wrapper,
            )


def _end_processes(mark: str, events: SimpleQueue[_Event]) -> None:
    """Kill the processes with this mark; a signal ends the time that they are given."""
    deadline = time.monotonic() + NOTICE_SECONDS
    while left := marked(mark):
        if time.monotonic() >= deadline or not events.empty():
            break
        time.sleep(0.2)
    if not left:
        return
    logger.warning(
        "The wrapper was killed; its guard ends what is left: %s.",
        ", ".join(str(process.pid) for process in left),
    )
    deadline = time.monotonic() + KILL_SECONDS
    while left and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.2)
        left = marked(mark)


def _end_jobs(batch_system: str, charge: Charge) -> None:
    logger.warning(
        "The wrapper has ended, its guard cancels the jobs %s.",
        ", ".join(charge.jobs) or f"named {charge.job_name}, if there are any",
    )
    now = time.monotonic()
    queue = QUEUES[batch_system].of(charge.job_name, charge.options)
    farewell = Farewell(
        {job_id: job_id not in charge.unseen for job_id in charge.jobs},
        now + charge.doubtful if charge.doubtful else None,
    )
    asyncio.run(
        _unless_asked(make_sure(queue, charge.jobs, now + JOBS_SECONDS, farewell))
    )
    if farewell.left or farewell.doubtful:
        logger.error(
            "Gave up after %.0f s: the jobs %s may be left in the queue.",
            time.monotonic() - now,
            ", ".join(farewell.left) or f"named {charge.job_name}",
        )
    else:
        logger.warning("All jobs of the wrapper have gone.")


async def _unless_asked(work: Coroutine[Any, Any, object]) -> None:
    """Do some work, until a signal asks this process to end."""
    task = asyncio.ensure_future(work)
    for number in signals.ENDING:
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        logger.warning("Asked to end by a signal.")


def main() -> None:
    """Wait until dismissed; if the wrapper dies, end its processes and jobs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--status-file", type=Path)
    parser.add_argument("--wrapper", nargs=2)
    parser.add_argument("--mark")
    parser.add_argument("--batch-system")
    options = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    )
    os.chdir("/")  # keep no folder in use
    events: SimpleQueue[_Event] = SimpleQueue()
    for number in signals.ENDING:
        signal.signal(number, lambda number, _: events.put(signal.Signals(number)))
    # the wrapper has blocked them, so that none could end this process before
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.ENDING)
    threading.Thread(target=_read, args=(0, events), daemon=True).start()
    pid, started = int(options.wrapper[0]), float(options.wrapper[1])
    charge = _wait(pid, events)
    if charge is None:
        return
    # in a thread, because its file system may hang
    declaring = threading.Thread(
        target=_declare_dead, args=(options.status_file, pid, started), daemon=True
    )
    declaring.start()
    if options.mark:
        _end_processes(options.mark, events)
    if charge.job_name:
        _end_jobs(options.batch_system, charge)
    declaring.join(DECLARE_SECONDS)
    if declaring.is_alive():
        logger.error("The status file of the dead wrapper does not answer.")


def _declare_dead(status_file: Path, pid: int, started: float) -> None:
    try:
        declare_dead(status_file, pid, started, "The wrapper was killed.")
    except (OSError, WrapperError) as error:
        logger.error("The status file of the dead wrapper: %s", error)


if __name__ == "__main__":
    main()

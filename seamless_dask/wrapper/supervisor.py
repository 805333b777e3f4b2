"""The life of the wrapper: wait, start, watch, end.

The main thread waits on one queue and decides; everything that can block happens in
other threads, so that it reacts to a signal at once whatever the cluster is doing:

- a signal handler, the heartbeat of the status file, and the thread that starts the
  cluster put events into the queue;
- a callback on the event loop of the scheduler reads its activity and puts it into the
  queue;
- a thread closes the cluster. Processes that do not end in time are killed; jobs of a
  batch system that do not end in time are named in the log and left to the guard.
"""

from __future__ import annotations

import functools
import gc
import logging
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

from . import signals
from .checks import check, warn_of_unknown, with_further_problems
from .closing import Closing
from .cluster_string import resolve
from .events import (
    Activity,
    Endpoint,
    Event,
    Failure,
    FileLost,
    Launched,
    News,
    SignalArrived,
    Started,
)
from .exit_codes import ExitCode, ParametersError, WrapperError
from .guard import Guard
from .introduction import about
from .jobs import logs
from .launch import launch
from .loop import run_loop
from .report import Report
from .settings.parameters import Parameters, read_parameters
from .status_file import StatusFile

logger = logging.getLogger(__name__)

#: Bounds of the time between two checks of the activity, in seconds.
LOOK_SECONDS = (0.2, 5.0)
#: A scheduler that does not answer for so long is mentioned in the log, in seconds.
SILENCE_SECONDS = 60.0
#: How long the file system of the jobs' output may take at the end, in seconds.
TIDY_SECONDS = 5.0


@dataclass(frozen=True)
class Options:
    """The command line."""

    cluster_string: str
    endpoint: Endpoint
    status_file: Path
    #: Seconds without work until the end; None: never.
    timeout: float | None


class Asked(Exception):
    """The wrapper was asked to end; this is a clean end."""


@dataclass
class Supervisor:
    """Runs one cluster from the status file to the end."""

    options: Options
    _events: SimpleQueue[Event] = field(default_factory=SimpleQueue)
    #: What the caller reads; None until there is a status file.
    _report: Report | None = None
    _launched: Launched | None = None
    _guard: Guard | None = None
    _starting: threading.Thread | None = None
    #: The directory for the output of jobs.
    _job_output: Path | None = None
    #: A signal arrived, so the user or the caller waits for the end.
    _hurried: bool = False
    #: Set when everything is ended: nothing may be started any more.
    _ends: threading.Event = field(default_factory=threading.Event)
    #: Jobs that may be in the queue, and why there are not more of them.
    _news: News = News((), "")

    def run(self) -> ExitCode:
        """Run to the end. Must be called from the main thread, after `install`."""
        failure = ""
        try:
            self._start(self._wait_for_caller())
            self._watch()
            raise AssertionError("watching ends with an exception")
        except Asked as reason:
            logger.info("Ending: %s.", reason)
            code = ExitCode.CLEAN
        except WrapperError as error:
            failure = str(error)
            logger.error("%s", error)
            code = error.exit_code
        # Of a cluster class, SystemExit and others included, or a bug of ours
        except BaseException as error:
            what = (
                "The cluster could not be started"
                if not self._launched
                else ("The cluster broke down")
            )
            failure = f"{what}: {type(error).__name__}: {error}"
            logger.exception("%s", failure)
            code = ExitCode.LOST if self._launched else ExitCode.START_FAILED
        try:
            code = self._close(code)
        except Exception:  # the guard ends what is left
            logger.exception("Not everything could be ended")
            code = ExitCode.FORCED if code is ExitCode.CLEAN else code
        if self._report is not None:
            self._report.end(failure, self._next)
        else:
            self._withdraw()
        self._tidy_up(code)
        logger.info("Ended with exit code %d.", code)
        return code

    def _withdraw(self) -> None:
        """Delete a status file that the caller wrote just now, if nobody else reads it."""
        try:
            file = StatusFile.wait(self.options.status_file, 0)
            if file.foreign_pid() is None:
                file.remove()
        except (OSError, WrapperError) as error:
            logger.debug("No status file to delete: %s", error)

    # --- start

    def install(self) -> None:
        """Take over the signals that end the wrapper."""
        for number in signals.ENDING:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._events.put(SignalArrived(number))  # SimpleQueue is safe in handlers

    def _wait_for_caller(self) -> Report:
        path = self.options.status_file
        logger.info("Waiting for the status file %s.", path)
        self._report = Report(
            StatusFile.wait(path, pause=self._pause),
            lambda error: self._events.put(FileLost(error)),
        )
        return self._report

    def _pause(self, seconds: float) -> None:
        """Sleep, unless asked to end."""
        event = self._next(seconds)
        if event is not None:
            self._handle(event)

    def _start(self, report: Report) -> None:
        try:
            parameters, unknown = read_parameters(report.parameters)
        except ParametersError as error:
            raise self._complete(error) from None
        warn_of_unknown(unknown)
        if parameters.timeout is not None:  # takes precedence over --timeout
            self.options = Options(
                **{**vars(self.options), "timeout": parameters.timeout}
            )
        logger.info("Starting %s.", self.options.cluster_string)
        cluster_class = resolve(self.options.cluster_string)
        check(parameters, cluster_class, unknown)
        self._starting = threading.Thread(
            target=self._launch,
            args=(parameters, cluster_class),
            name="cluster start",
            daemon=True,
        )
        begin = time.monotonic()
        self._guard = Guard(report.path, cluster_class.batch_system)
        self._starting.start()
        while self._launched is None:
            event = self._next(None)
            if isinstance(event, Started):
                self._launched = event.launched
            elif event is not None:
                self._handle(event)
        launched = self._launched
        facts = about(
            report.path.stem,
            self.options.cluster_string,
            cluster_class.batch_system,
            parameters,
            self.options.timeout,
        )
        launched.cluster.loop.add_callback(launched.plugin.introduce, facts)
        report.announce(launched)
        logger.info(
            "Running after %.1f s: scheduler at %s, dashboard at port %d, %s.",
            time.monotonic() - begin,
            launched.cluster.scheduler.address,
            launched.dashboard_port,
            f"inactivity timeout {self.options.timeout:g} s"
            if self.options.timeout is not None
            else "no inactivity timeout",
        )

    def _complete(self, error: ParametersError) -> ParametersError:
        """Add the other problems of the parameters, for this cluster class."""
        try:
            return with_further_problems(error, resolve(self.options.cluster_string))
        except WrapperError:  # the cluster string is wrong as well: report it later
            return error

    def _launch(self, parameters: Parameters, cluster_class: Any) -> None:
        """Start the cluster; in a thread, because the home directory may hang as well."""
        try:
            if cluster_class.kind == "jobqueue":
                directory = logs.run_directory(self.options.status_file.stem)
                if directory is not None and logs.make(directory):
                    self._job_output = directory
            launched = launch(
                parameters,
                cluster_class,
                self.options.endpoint,
                run_loop(lambda error: self._events.put(Failure(error))),
                self._on_news,
                self._ends.is_set,
                self._job_output,
                self.options.status_file.stem,
            )
            if self._job_output is not None:
                script = logs.keep_script(self._job_output, launched.cluster)
                if script is not None:
                    logger.info("Jobs run %s; their output is kept beside it.", script)
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            self._events.put(Failure(error))
        else:
            gc.collect()
            gc.freeze()  # collections need not visit the imported objects
            self._events.put(Started(launched))

    def _on_news(self, news: News) -> None:
        """The jobs have changed. The guard learns it first, whatever the wrapper does."""
        assert self._guard is not None
        self._guard.watch(news)
        self._events.put(news)

    # --- watch

    def _watch(self) -> None:
        """Wait for a reason to end, and raise it."""
        assert self._launched and self._report and self._guard
        timeout = self.options.timeout
        look = LOOK_SECONDS[1]
        if timeout is not None:
            look = min(max(timeout / 10, LOOK_SECONDS[0]), LOOK_SECONDS[1])
        answered = time.monotonic()
        mentioned = False
        pending = False
        while True:
            event = self._next(look)
            self._guard.look()
            if isinstance(event, Activity):
                answered, pending, mentioned = time.monotonic(), False, False
                self._judge(event)
            elif event is not None:
                self._handle(event)
            elif not pending:
                self._ask_for_activity()
                pending = True
            elif time.monotonic() - answered > SILENCE_SECONDS and not mentioned:
                mentioned = True
                logger.warning(
                    "The scheduler has not answered for %g s.", SILENCE_SECONDS
                )

    def _ask_for_activity(self) -> None:
        assert self._launched is not None
        scheduler = self._launched.cluster.scheduler
        plugin = self._launched.plugin
        events = self._events

        def answer() -> None:
            try:
                running = scheduler.status.name == "running"
                snapshot = plugin.activity_snapshot() if running else None
            except Exception as error:  # noqa: BLE001 - the main thread raises it
                events.put(Failure(error))
            else:
                events.put(Activity(snapshot))

        self._launched.cluster.loop.add_callback(answer)

    def _judge(self, activity: Activity) -> None:
        if activity.snapshot is None:
            raise Asked("the scheduler was shut down by a client")
        timeout = self.options.timeout
        idle = activity.snapshot["idle_seconds"]
        if timeout is not None and idle >= timeout:
            raise Asked(f"no work for {idle:.0f} s, the timeout is {timeout:g} s")

    # --- events

    def _next(self, seconds: float | None) -> Event | None:
        try:
            return self._events.get(timeout=seconds)
        except Empty:
            return None

    def _handle(self, event: Event) -> None:
        """Raise the error or the reason to end that an event stands for, if any."""
        if isinstance(event, SignalArrived):
            self._hurried = True
            raise Asked(f"received {signal.Signals(event.number).name}")
        if isinstance(event, FileLost):
            raise event.error
        if isinstance(event, Failure):
            raise event.error
        if isinstance(event, News):
            self._news = event
            assert self._report is not None
            self._report.tell(event)

    # --- end

    def _close(self, code: ExitCode) -> ExitCode:
        """End everything; return the exit code, which may be worse than `code`."""
        self._ends.set()
        closing = Closing(
            self._events,
            guard=self._guard,
            starting=self._starting,
            launched=self._launched,
            news=self._news,
            hurried=self._hurried,
        )
        if not closing.run() and code is ExitCode.CLEAN:
            code = ExitCode.FORCED
        left = closing.news
        if left.jobs or left.doubtful:
            unknown = [f"any named {left.job_name}, since a submission had no answer"]
            assert self._guard is not None
            self._guard.look()
            logger.error(
                "Jobs that may be left in the queue: %s. %s.",
                ", ".join([*left.jobs, *(unknown if left.doubtful else [])]),
                "A process stays behind that tries to cancel them"
                if self._guard.runs
                else "No process tries to cancel them",
            )
            if code in (ExitCode.CLEAN, ExitCode.FORCED):
                code = ExitCode.JOBS_LEFT
        elif self._guard is not None and not closing.still_starting:
            self._guard.dismiss()
        return code

    def _tidy_up(self, code: ExitCode) -> None:
        """Delete the output of jobs if all went well; it helps only to find faults."""
        if self._job_output is None:
            return
        jobs = self._launched.jobs if self._launched is not None else None
        healthy = code is ExitCode.CLEAN and jobs is not None and jobs.healthy
        prune = functools.partial(logs.prune, self._job_output, success=healthy)
        thread = threading.Thread(target=prune, name="tidy up", daemon=True)
        thread.start()
        thread.join(TIDY_SECONDS)
        if thread.is_alive():
            logger.warning("%s does not answer: not tidied up.", self._job_output)

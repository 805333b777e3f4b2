"""Submits jobs with the scripts and commands of dask_jobqueue, and finds their workers."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import re
import shlex
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from . import commands
from .queues import Queue
from .submission_answers import (
    Accepted,
    is_doubtful,
    is_id,
    is_terse,
    read_answer,
)
from .surroundings import for_submission, withheld

logger = logging.getLogger(__name__)

#: Submissions without an answer that are remembered.
MOST_LOST = 100


class Refused(Exception):
    """A submission failed. `doubtful` says that its job may be in the queue nevertheless.

    `asked` says that the batch system was asked, so that the refusal may be its own.
    """

    def __init__(self, reason: str, *, doubtful: bool, asked: bool = True):
        super().__init__(reason)
        self.doubtful = doubtful
        self.asked = asked


@dataclass(frozen=True)
class Submitted:
    """A job that the batch system has accepted."""

    id: str
    #: Nodes on which it must not start.
    avoids: tuple[str, ...] = ()
    #: Why it was refused with nodes to avoid; empty if it was not.
    impossible: str = ""
    #: The name of its worker.
    worker: str = ""


class Submitter:
    """Submits jobs, one after the other, for a cluster of dask_jobqueue.

    The cluster's own list of jobs is not used: it identifies jobs by names that workers
    do not have (on SLURM they are named after the job), and forgets refused jobs.
    """

    def __init__(self, cluster: Any, queue: Queue):
        #: The commands about jobs; the answer to a submission may add options.
        self.queue = queue
        #: The job that was accepted last.
        self.last = Submitted("")
        self._cluster = cluster
        self._names: dict[str, str] = {}
        #: Names of workers of jobs that may have been accepted, with unknown ids.
        self._lost: list[str] = []
        self._count = 0
        self._told = False
        # workers of an earlier cluster must not be taken for ours
        self._prefix = f"worker-x{uuid.uuid4().hex[:6]}"
        self._job_class = cluster.new_spec["cls"]

    async def submit(self, excluded_nodes: Iterable[str]) -> str:
        """Submit one job; return its id. `last` has more information about it.

        If the batch system refuses a job that avoids the excluded nodes, the job is
        submitted without them. Raises `Refused` if that fails as well. After any other
        error of a class of jobs, the job may be in the queue.
        """
        nodes = sorted(excluded_nodes) if self.queue.exclude is not None else []
        try:
            self.last = replace(await self._submit(nodes), avoids=tuple(nodes))
        except Refused as error:
            if not nodes or error.doubtful or not error.asked:
                raise
            self.last = replace(await self._submit([]), impossible=str(error))
        return self.last.id

    async def _submit(self, nodes: list[str]) -> Submitted:
        options = copy.copy(self._cluster.new_spec["options"])
        if nodes and self.queue.exclude is not None:
            directives = list(options.get("job_extra_directives") or [])
            options["job_extra_directives"] = self.queue.exclude(directives, nodes)
        name = f"{self._prefix}-{self._count}"
        self._count += 1
        scheduler = self._cluster.scheduler
        address = getattr(scheduler, "contact_address", None) or scheduler.address
        attempt = _attempt(self._job_class, self.queue.system)
        try:
            job = attempt(address, name=name, **options)
        except Exception as error:
            # of any class of a site; dask_jobqueue makes the directory for output, whose
            # file system may be away
            raise Refused(
                f"no job can be made: {type(error).__name__}: {error}",
                doubtful=False,
                asked=False,
            ) from error
        self._tell_what_is_withheld(job.environment)
        # removed below when the answer is clear; it stays if this coroutine is cancelled
        self._lost = [*self._lost[-MOST_LOST:], name]
        try:
            await job.start()
        except commands.NotStarted as error:
            self._lost.remove(name)
            raise Refused(str(error), doubtful=False, asked=False) from None
        except commands.CommandFailed as error:
            doubtful = error.unfinished or is_doubtful(str(error))
            if not doubtful:
                self._lost.remove(name)
            raise Refused(str(error), doubtful=doubtful) from None
        except ValueError as error:
            raise Refused(str(error), doubtful=True) from None
        self._lost.remove(name)
        accepted: Accepted = job.accepted
        self._names[name] = accepted.id
        self._remember_cluster(accepted.cluster)
        return Submitted(accepted.id, worker=name)

    def doubt(self) -> None:
        """The id of the job that was accepted last is that of another job."""
        del self._names[self.last.worker]
        self._lost = [*self._lost[-MOST_LOST:], self.last.worker]

    def _tell_what_is_withheld(self, environment: dict[str, str]) -> None:
        names = withheld(self.queue.system, os.environ, environment)
        if names and not self._told:
            self._told = True
            logger.info(
                "Variables for the commands of the batch system that are not handed to "
                "them, since they would win over the parameters: %s.",
                ", ".join(names),
            )

    def _remember_cluster(self, cluster: str) -> None:
        """Add the cluster that accepted the job to the options of later commands."""
        known = {
            name
            for option in self.queue.options
            for name in option.removeprefix("--clusters=").split(",")
        }
        if cluster and cluster not in known:
            names = ",".join(sorted({*known, cluster}))
            self.queue = self.queue.of(self.queue.job_name, [f"--clusters={names}"])

    def job_of(self, worker_name: str) -> str | None:
        """The id of a worker's job, from the worker's name; None if it is not ours.

        Several workers of one job have names that end with ``-0``, ``-1``...
        """
        match = re.fullmatch(r"worker-(\d+)(?:-\d+)*", worker_name)
        if match:  # the script names the worker after the job
            return match[1]
        return self._names.get(worker_name) or self._names.get(
            worker_name.rpartition("-")[0]
        )

    def found(self, job_ids: list[str]) -> None:
        """Jobs were found in the queue by name; match one with its worker if possible."""
        if len(job_ids) == 1 and len(self._lost) == 1:
            self._names[self._lost.pop()] = job_ids[0]

    def forget(self, job_id: str) -> None:
        """A job has ended; none of its workers will connect."""
        for name in [name for name, known in self._names.items() if known == job_id]:
            del self._names[name]


def _attempt(job_class: Any, system: str) -> Any:
    """The job class of dask_jobqueue, with our code to run commands and read answers."""

    class Attempt(job_class):
        accepted: Accepted | None = None
        job_file = _job_file

        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **options)
            self.environment = for_submission(system, os.environ, self.job_script())

        async def _call(self, command: list[str], *, shell: bool = False) -> Any:
            return await commands.call(
                command, shell=shell, environment=self.environment
            )

        def _job_id_from_submit_output(self, result: commands.Result) -> str:
            terse = is_terse(f"{self.submit_command}\n{self.job_script()}")
            self.accepted = read_answer(
                system, result.output, result.errors, terse=terse
            )
            ours = job_class.__module__.startswith("dask_jobqueue.")
            if self.accepted is None and not (ours and system):
                # a class of a site, whose answer may look different
                job_id = super()._job_id_from_submit_output(result.output)
                self.accepted = Accepted(str(job_id)) if is_id(str(job_id)) else None
            if self.accepted is None:
                said = (result.output.strip() or result.errors.strip())[:500]
                raise ValueError(
                    f"the answer of {self.submit_command} holds no id of a job that is "
                    f"certain: {said!r}"
                )
            return self.accepted.id

    Attempt.__name__ = job_class.__name__
    return Attempt


@contextmanager
def _job_file(job: Any) -> Iterator[str]:
    """Write the script to a private temporary file with a name that others cannot guess.

    Raises `commands.NotStarted` if there is no room for it.
    """
    script = job.job_script().encode(errors="surrogateescape")
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".sh"))
            file.write(script)
            file.flush()
        except OSError as error:
            raise commands.NotStarted(
                f"The job script cannot be written to the directory for temporary "
                f"files: {error}"
            ) from None
        # dask_jobqueue uses a shell if the script goes to standard input
        shell = getattr(job, "use_stdin", False)
        yield shlex.quote(file.name) if shell else file.name

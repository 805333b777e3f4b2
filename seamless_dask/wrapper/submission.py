"""Submit jobs with the scripts and commands of dask_jobqueue, and know their workers."""

from __future__ import annotations

import contextlib
import copy
import os
import re
import shlex
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from . import commands
from .queues import Queue


class Submitter:
    """Makes one job after the other for a cluster of dask_jobqueue.

    The jobs themselves are not kept by the cluster: its own list goes by names that no
    worker bears (on SLURM they are called after the job), and forgets refused jobs.
    """

    def __init__(self, cluster: Any, queue: Queue):
        self._cluster = cluster
        self._queue = queue
        os.environ.update(queue.environment)
        self._names: dict[str, str] = {}
        self._count = 0
        # workers of an earlier cluster must not be taken for ours
        self._prefix = f"worker-x{uuid.uuid4().hex[:6]}"
        self._job_class = type(
            cluster.new_spec["cls"].__name__,
            (cluster.new_spec["cls"],),
            {"_call": staticmethod(commands.call), "job_file": _job_file},
        )

    async def submit(self, excluded_nodes: Iterable[str]) -> str:
        """Submit one job; return its id.

        Raises `commands.CommandFailed` if the batch system does not take it, ValueError
        if its answer holds no job id.
        """
        options = copy.copy(self._cluster.new_spec["options"])
        nodes = sorted(excluded_nodes)
        if nodes and self._queue.exclude is not None:
            directives = list(options.get("job_extra_directives") or [])
            options["job_extra_directives"] = self._queue.exclude(directives, nodes)
        name = f"{self._prefix}-{self._count}"
        self._count += 1
        scheduler = self._cluster.scheduler
        address = getattr(scheduler, "contact_address", None) or scheduler.address
        job = self._job_class(address, name=name, **options)
        await job.start()
        self._names[name] = job.job_id
        return str(job.job_id)

    def job_of(self, worker_name: str) -> str | None:
        """The job of a worker, by the name of the worker; None if it is not ours.

        Several workers of one job have names that end with ``-0``, ``-1``...
        """
        match = re.fullmatch(r"worker-(\d+)(?:-\d+)?", worker_name)
        if match:  # the script names it after the job
            return match[1]
        return self._names.get(worker_name) or self._names.get(
            worker_name.rpartition("-")[0]
        )

    def forget(self, job_id: str) -> None:
        """A job has ended; none of its workers will connect."""
        for name in [name for name, known in self._names.items() if known == job_id]:
            del self._names[name]


@contextmanager
def _job_file(job: Any) -> Iterator[str]:
    """Write the script for our eyes only, to a file that nobody can put there first.

    Raises `commands.CommandFailed` if there is no room for it.
    """
    script = job.job_script().encode(errors="surrogateescape")
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".sh"))
            file.write(script)
            file.flush()
        except OSError as error:
            raise commands.CommandFailed(
                f"The job script cannot be written to the directory for temporary "
                f"files: {error}"
            ) from None
        # dask_jobqueue gives it to a shell where the script goes to standard input
        shell = getattr(job, "use_stdin", False)
        yield shlex.quote(file.name) if shell else file.name

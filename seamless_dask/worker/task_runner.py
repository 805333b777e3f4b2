"""Executes the tasks of a Dask worker: each is one transformation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from distributed import Reschedule
from seamless import Buffer, CacheMissError, Checksum
from seamless_transformer.probe_index import RecordBucketError
from seamless_transformer.remote_job import parse_remote_job_written
from seamless_transformer.transformation_utils import tf_get_buffer

from scheduler_ext import messages, reports
from scheduler_ext.error_texts import with_pointer
from scheduler_ext.functions import DIGITS

from ..cluster.inner import CALLER_WAITS
from ..cluster.leases import Leases, ignore
from ..errors import DependencyFailed, JobFailed, TransformationError
from ..neighbours.pins import buffers_to_run, code_checksum
from ..pool.pool import Pool
from ..storage.cache import BufferStore, ensure_uploaded
from ..storage.database import known_result
from ..storage.deep_results import ensure_members_uploaded
from ..storage.execution_records import Execution, Recorder
from ..storage.job_report import JobReport
from ..storage.uploads import Uploads
from ..submit.submissions import with_dependencies
from ..types import TransformationResult
from .callers import RunningJobs
from .nested import NestedWork
from .output import OutputSender
from .recompute import Recompute

if TYPE_CHECKING:
    from distributed import Worker

    from ..submit.submitter import Submitter
    from ..submit.tasks import Job

logger = logging.getLogger(__name__)

#: results up to this size (bytes) travel with their checksum
INLINE_LIMIT = 32 * 1024


@dataclass(eq=False)
class _Attempt:
    """A Dask task that this worker executes, from its beginning to its end."""

    job: Job
    task: asyncio.Task[TransformationResult]
    cancelled: bool = False
    #: whether its result is being written: then it is too late to cancel it
    storing: bool = False
    #: results that were found for nested transformations, which then need no task
    cache_hits: int = 0
    #: the report of its Seamless process, if the transformation ended there
    report: JobReport | None = None

    def check(self) -> None:
        """Raise CancelledError if it was cancelled, in case other code has caught it."""
        if self.cancelled:
            raise asyncio.CancelledError


class TaskRunner:
    """Runs transformations on one Dask worker; lives on the worker's event loop.

    Parameters
    ----------
    worker
        The Dask worker.
    submitter
        Submits nested transformations.
    pool
        The Seamless processes.
    """

    def __init__(self, worker: Worker, submitter: Submitter, pool: Pool) -> None:
        self.submitter = submitter
        self.pool = pool
        #: event loop of the Dask worker
        self.loop = asyncio.get_running_loop()
        self.leases = Leases(worker)
        #: buffers that its Seamless processes have made, on their way to the hashserver
        self.uploads = Uploads(pool.buffers)
        #: the transformations that it executes, and which of them wait
        self.running = RunningJobs(worker, pool.jobs_of)
        self.recompute = Recompute(
            pool.buffers, self.uploads, self.running, pool.dispatch
        )
        self.nested = NestedWork(
            submitter=submitter,
            leases=self.leases,
            running=self.running,
            buffers=pool.buffers,
            uploads=self.uploads,
            recompute=self.recompute,
            on_cache_hit=self._count_cache_hit,
            job_of=self._job_of,
        )
        self._output = OutputSender(worker, pool, submitter.names.shown)
        self._worker = worker
        self._recorder = Recorder(pool.buffers)
        self._closed = False
        #: results that are being stored by tasks that have given their slot back
        self._stored_without_slot = 0
        #: {key of a task: its attempt}
        self._attempts: dict[str, _Attempt] = {}
        worker.stream_handlers[messages.PUSH_CANCEL] = self.cancel
        worker.handlers[CALLER_WAITS] = self._caller_waits

    def __repr__(self) -> str:
        return f"<TaskRunner of {self._worker.address}: {len(self._attempts)} tasks>"

    @property
    def buffers(self) -> BufferStore:
        """Buffers of this process."""
        return self.pool.buffers

    async def run(
        self, job: Job, dependencies: Sequence[TransformationResult]
    ) -> TransformationResult:
        """Execute one transformation and store its result.

        Errors of the transformation are part of the returned result. A result is
        announced only after it was stored.

        Raises
        ------
        distributed.Reschedule
            If the task was cancelled: it runs again if a client has asked for it since
            then. Or if this runner was closed meanwhile: the worker's next runner, or
            another worker, executes the task.
        """
        if not self._is_wanted(job.key):
            raise Reschedule
        task = asyncio.create_task(self._run(job, dependencies))
        self._attempts[job.key] = attempt = _Attempt(job, task)
        try:
            result = await task
        except asyncio.CancelledError:
            if attempt.cancelled or self._closed:
                raise Reschedule from None
            raise
        else:
            if self._closed and result.error is not None:
                raise Reschedule  # perhaps it failed only because this runner closed
            result = self._with_pointer(job, result)
            self._report(job, attempt, result)
            return result
        finally:
            del self._attempts[job.key]
            self._output.forget(job.key)

    def _with_pointer(
        self, job: Job, result: TransformationResult
    ) -> TransformationResult:
        """Let an error say which transformation has failed first."""
        if result.error is None or result.tf_checksum is None:
            return result
        name = self.submitter.names.shown(job.key)
        return replace(
            result, error=with_pointer(result.error, name, result.tf_checksum)
        )

    def _is_wanted(self, key: str) -> bool:
        """Whether a task was not cancelled between its start and now."""
        task = self._worker.state.tasks.get(key)
        return task is not None and task.state != "cancelled"

    async def _run(
        self, job: Job, dependencies: Sequence[TransformationResult]
    ) -> TransformationResult:
        tf_checksum = job.tf_checksum
        names = self.submitter.names
        names.learn(code_checksum(job.transformation_dict), job.name)
        try:
            job = with_dependencies(job, dependencies)
            buffer = tf_get_buffer(job.transformation_dict)
            tf_checksum = buffer.get_checksum().hex()
            self.buffers.add(buffer)
            for checksum, content in job.contents.items():
                self.buffers.add(Buffer(content, checksum=Checksum(checksum)))
            self.buffers.add_contents(dependencies)
            if dependencies:
                self._tell_checksum(job.key, tf_checksum)
                await ensure_uploaded(tf_checksum, buffer)
            if dependencies or self._runs_again(job.key):
                known = await known_result(tf_checksum)
                if known is not None:
                    return self._result(tf_checksum, known, cached=True)
            inputs = await self._resolve_inputs(job)
            if job.name is None:
                names.note(job.transformation_dict, self.buffers.at_hand)
            # The process also needs the buffer of the transformation itself.
            result = await self._execute(job, tf_checksum, [buffer, *inputs])
        except JobFailed as error:
            self._attempts[job.key].report = error.report
            return TransformationResult(tf_checksum, None, str(error))
        except DependencyFailed as error:  # ends with the dependency's traceback
            return TransformationResult(tf_checksum, None, str(error))
        except (TransformationError, RecordBucketError) as error:
            return TransformationResult(tf_checksum, None, f"{error}\n")
        except CacheMissError as error:
            text = f"The buffer of an input is nowhere to be found: {error}\n"
            return TransformationResult(tf_checksum, None, text)
        return self._result(tf_checksum, result)

    def _runs_again(self, key: str) -> bool:
        """Whether a worker had the task before, and may have stored its result."""
        task = self._worker.state.tasks.get(key)
        return task is not None and messages.RUNS_AGAIN in (task.annotations or {})

    def _result(
        self, tf_checksum: str, result: str, *, cached: bool = False
    ) -> TransformationResult:
        content = None
        if parse_remote_job_written(result) is None:
            buffer = self.buffers.at_hand(result)
            if buffer is not None and len(buffer) <= INLINE_LIMIT:
                content = buffer.content
        return TransformationResult(tf_checksum, result, content=content, cached=cached)

    def _report(
        self, job: Job, attempt: _Attempt, result: TransformationResult
    ) -> None:
        """Attach a report for the scheduler's counts to the message of the task's end.

        Attach the result as well, for the client that submitted the task.
        """
        task = self._worker.state.tasks.get(job.key)
        if task is None:
            return
        if result.error is not None or result.result_checksum is None:
            ending = "failed"
        elif parse_remote_job_written(result.result_checksum) is not None:
            ending = "remote_job"
        else:
            ending = "cached" if result.cached else "stored"
        ran = attempt.report
        task.metadata[reports.REPORT] = reports.report(
            ending,
            attempt.cache_hits,
            begun=None if ran is None else ran.begun,
            resume_wait=None if ran is None else ran.waited,
            usage=None
            if ran is None
            else (ran.wall, ran.cpu_user + ran.cpu_system, ran.memory_peak),
            error=(result.error or "") if ending == "failed" else None,
        )
        if job.client is not None and len(result.error or "") <= INLINE_LIMIT:
            task.metadata[reports.RESULT] = reports.parcel(job.client, asdict(result))

    def _job_of(self, key: str) -> Job | None:
        """The job of a task that this worker executes."""
        attempt = self._attempts.get(key)
        return None if attempt is None else attempt.job

    def _count_cache_hit(self, key: str) -> None:
        """Count a call of a running transformation that has a result already."""
        attempt = self._attempts.get(key)
        if attempt is not None:
            attempt.cache_hits += 1

    def _tell_checksum(self, key: str, tf_checksum: str) -> None:
        """Tell the scheduler the transformation checksum, by which clients cancel."""
        stream = self._worker.batched_stream
        if stream is not None and not stream.closed():
            stream.send(messages.name(key, tf_checksum))

    async def _resolve_inputs(self, job: Job) -> list[Buffer]:
        """Fetch the inputs concurrently; the returned list keeps them in memory."""
        checksums = buffers_to_run(job.transformation_dict, job.tf_dunder)
        if not job.allow_input_fingertip:
            return await self.buffers.resolve_all(checksums)
        with self.running.occupied(job.key, job.tf_checksum or "", job.depth):
            return await asyncio.gather(
                *(
                    self.recompute.buffer(c, key=job.key, depth=job.depth)
                    for c in checksums
                )
            )

    async def _execute(self, job: Job, tf_checksum: str, inputs: list[Buffer]) -> str:
        attempt = self._attempts[job.key]
        with self.running.occupied(job.key, tf_checksum, job.depth):
            async with self._recorder.execution(
                job.transformation_dict, job.tf_dunder
            ) as execution:
                attempt.check()
                result, made, report = await self.pool.dispatch(
                    job.transformation_dict,
                    tf_checksum=tf_checksum,
                    tf_dunder=job.tf_dunder,
                    scratch=job.scratch,
                    strict_dunder=job.strict_dunder,
                    key=job.key,
                    depth=job.depth,
                    inputs=inputs,
                    label=f"{self.submitter.names.shown(job.key)} {tf_checksum[:DIGITS]}",
                    streams=job.streams,
                    on_output=self._output.of(job, tf_checksum),
                )
        attempt.report = report
        self.uploads.received(made)
        if parse_remote_job_written(result) is not None:
            return result
        with self._storing(job.key):
            await self.uploads.wait(made)
            await self._store(job, tf_checksum, execution, result, report)
        return result

    async def _store(
        self,
        job: Job,
        tf_checksum: str,
        execution: Execution,
        result: str,
        report: JobReport,
    ) -> None:
        """Store the result of a transformation whose code has ended."""
        attempt = self._attempts[job.key]
        if job.scratch:
            self.recompute.remember(tf_checksum, job.tf_dunder)
        else:
            await self.uploads.ensure(result, self.buffers.at_hand(result))
            await ensure_members_uploaded(
                job.transformation_dict,
                job.tf_dunder,
                result,
                self.buffers,
                self.uploads,
            )
        attempt.check()
        attempt.storing = True
        await execution.store(tf_checksum, result, report, scratch=job.scratch)
        if not job.scratch:
            self.buffers.take_over(result)

    @contextmanager
    def _storing(self, key: str) -> Iterator[None]:
        """Give the slot of a task to another one while the result is being stored.

        As many results as there are slots may be stored without; after that, tasks keep
        their slots, so that results do not pile up where the hashserver is slow.
        """
        stream = self._worker.batched_stream
        tells = self._stored_without_slot < self.pool.processes * self.pool.throttle
        if not tells or stream is None or stream.closed():
            yield
            return
        stream.send(messages.stores(key))
        self._stored_without_slot += 1
        try:
            yield
        finally:
            self._stored_without_slot -= 1

    def cancel(self, keys: Sequence[str] = ()) -> None:
        """Stop tasks that this worker executes; their processes are replaced.

        Called by the scheduler, and when no client wants the tasks any more. Other
        executing tasks have processes of their own; tasks that wait in a stopped process
        begin again, see `seamless_dask.pool.processes`. Nothing is stored of stopped
        tasks.
        """
        for key in keys:
            attempt = self._attempts.get(key)
            if attempt is not None and not (attempt.cancelled or attempt.storing):
                attempt.cancelled = True
                attempt.task.cancel()

    def _caller_waits(
        self, process: str | None = None, key: str | None = None
    ) -> dict[str, Any]:
        """Note that a transformation waits for a process that it has started.

        Called by that process, which may know the address of any Dask worker in this
        process: see `seamless_dask.cluster.inner`.
        """
        return self.pool.user_of(key).running.caller_waits(process, key)

    def close(self) -> None:
        """Stop asking for leases; running tasks are rescheduled."""
        self._closed = True
        self._worker.stream_handlers[messages.PUSH_CANCEL] = ignore
        self._worker.handlers.pop(CALLER_WAITS, None)
        self.leases.close()
        self._output.close()
        self._recorder.close()

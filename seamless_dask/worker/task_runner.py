"""What a Dask worker does with the transformations that are its tasks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from distributed import Reschedule
from seamless import Buffer, CacheMissError, Checksum
from seamless_transformer.probe_index import RecordBucketError
from seamless_transformer.remote_job import parse_remote_job_written
from seamless_transformer.transformation_utils import tf_get_buffer

from scheduler_ext import messages

from ..child.job_runner import JobReport
from ..child.small_buffers import Contents
from ..cluster.leases import Leases
from ..pool.pool import JobFailed, Pool
from ..storage.cache import BufferStore, UploadError, ensure_uploaded
from ..storage.database import StorageError, known_result
from ..storage.deep_results import ensure_members_uploaded
from ..storage.execution_records import Recorder
from ..storage.outages import ServiceUnavailable
from ..storage.uploads import Uploads
from ..submit.submissions import DependencyFailed, with_dependencies
from ..types import TransformationResult
from .callers import RunningJobs
from .nested import NestedWork
from .recompute import Fingertips, buffers_to_run

if TYPE_CHECKING:
    from distributed import Worker

    from ..client import SeamlessDaskClient
    from ..submit.tasks import Job

logger = logging.getLogger(__name__)

#: results up to this size (bytes) travel with their checksum
INLINE_LIMIT = 32 * 1024


@dataclass(eq=False)
class _Attempt:
    """A Dask task that this worker executes, from its beginning to its end."""

    task: asyncio.Task[TransformationResult]
    cancelled: bool = False
    #: whether its result is being written: then it is too late to cancel it
    storing: bool = False
    #: results that were found for nested transformations, which then need no task
    cache_hits: int = 0
    #: how it went in its Seamless process, if it came to an end there
    report: JobReport | None = None

    def check(self) -> None:
        """Raise CancelledError if it was cancelled and something has caught that."""
        if self.cancelled:
            raise asyncio.CancelledError


class WorkerRuntime:
    """Runs transformations on one Dask worker; lives on the worker's event loop.

    Parameters
    ----------
    worker
        The Dask worker.
    client
        By which nested transformations are submitted.
    pool
        The Seamless processes.
    """

    def __init__(self, worker: Worker, client: SeamlessDaskClient, pool: Pool) -> None:
        self.worker = worker
        self.client = client
        self.pool = pool
        self.loop = asyncio.get_running_loop()
        self.leases = Leases(worker)
        self.uploads = Uploads()
        self.recorder = Recorder(pool.buffers)
        self.fingertips = Fingertips(self)
        worker.stream_handlers[messages.PUSH_CANCEL] = self.cancel
        self._closed = False
        self._attempts: dict[str, _Attempt] = {}
        self.running = RunningJobs(worker, pool.jobs_of)
        self.nested = NestedWork(self)

    @property
    def buffers(self) -> BufferStore:
        """Buffers of this process."""
        return self.pool.buffers

    async def run(
        self, job: Job, dependencies: Sequence[TransformationResult]
    ) -> TransformationResult:
        """Execute one transformation and store its result.

        Whatever goes wrong with the transformation is part of the answer; nothing is
        announced that has not been stored.

        Raises
        ------
        distributed.Reschedule
            If it was cancelled: whoever has asked for it since then gets it. Or if
            this runtime was closed meanwhile: the next one of the worker executes it,
            or another worker.
        """
        if not self._is_wanted(job.key):
            raise Reschedule
        task = asyncio.create_task(self._run(job, dependencies))
        self._attempts[job.key] = attempt = _Attempt(task)
        try:
            result = await task
        except asyncio.CancelledError:
            if attempt.cancelled or self._closed:
                raise Reschedule from None
            raise
        else:
            if self._closed and result.error is not None:
                raise Reschedule  # perhaps only since nothing answers it any more
            self._report(job, attempt, result)
            return result
        finally:
            del self._attempts[job.key]

    def _is_wanted(self, key: str) -> bool:
        """Whether a task was not cancelled between its start and now."""
        task = self.worker.state.tasks.get(key)
        return task is not None and task.state != "cancelled"

    async def _run(
        self, job: Job, dependencies: Sequence[TransformationResult]
    ) -> TransformationResult:
        tf_checksum = job.tf_checksum
        try:
            job = with_dependencies(job, dependencies)
            buffer = tf_get_buffer(job.transformation_dict)
            tf_checksum = buffer.get_checksum().hex()
            self.buffers.add(buffer)
            for checksum, content in job.contents.items():
                self.buffers.add(Buffer(content, checksum=Checksum(checksum)))
            self.add_contents(dependencies)
            if dependencies:
                self._tell_checksum(job.key, tf_checksum)
                await ensure_uploaded(tf_checksum, buffer)
            if dependencies or self._runs_again(job.key):
                known = await known_result(tf_checksum)
                if known is not None:
                    return self._result(tf_checksum, known, cached=True)
            inputs = await self._resolve_inputs(job)
            # The process looks into the transformation's own buffer as well.
            result = await self._execute(job, tf_checksum, [buffer, *inputs])
        except JobFailed as exc:
            self._attempts[job.key].report = exc.report
            return TransformationResult(tf_checksum, None, str(exc))
        except DependencyFailed as exc:
            return TransformationResult(tf_checksum, None, str(exc))
        except (
            UploadError,
            StorageError,
            ServiceUnavailable,
            RecordBucketError,
        ) as exc:
            return TransformationResult(tf_checksum, None, f"{exc}\n")
        except CacheMissError as exc:
            text = f"The buffer of an input is nowhere to be found: {exc}\n"
            return TransformationResult(tf_checksum, None, text)
        return self._result(tf_checksum, result)

    def add_contents(self, results: Iterable[TransformationResult]) -> None:
        """Keep the small buffers that have come with results."""
        for result in results:
            if result.content is not None and result.result_checksum is not None:
                checksum = Checksum(result.result_checksum)
                self.buffers.add(Buffer(result.content, checksum=checksum))

    def _runs_again(self, key: str) -> bool:
        """Whether a task has been with a worker before, which may have stored it."""
        task = self.worker.state.tasks.get(key)
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
        """Let the scheduler count how it went; this travels with the task's end.

        So does the result, for the client that submitted the task.
        """
        task = self.worker.state.tasks.get(job.key)
        if task is None:
            return
        if result.error is not None or result.result_checksum is None:
            ending = "failed"
        elif parse_remote_job_written(result.result_checksum) is not None:
            ending = "remote_job"
        else:
            ending = "cached" if result.cached else "stored"
        ran = attempt.report
        task.metadata[messages.REPORT] = messages.report(
            ending,
            attempt.cache_hits,
            begun=None if ran is None else ran.begun,
            resume_wait=None if ran is None else ran.waited,
        )
        if job.client is not None and len(result.error or "") <= INLINE_LIMIT:
            task.metadata[messages.RESULT] = messages.parcel(job.client, asdict(result))

    def count_cache_hit(self, key: str) -> None:
        """Note that what a running transformation called has a result already."""
        attempt = self._attempts.get(key)
        if attempt is not None:
            attempt.cache_hits += 1

    def _tell_checksum(self, key: str, tf_checksum: str) -> None:
        """Tell the scheduler what a task runs, so that it can be cancelled by that."""
        stream = self.worker.batched_stream
        if stream is not None and not stream.closed():
            stream.send(messages.name(key, tf_checksum))

    async def _resolve_inputs(self, job: Job) -> list[Buffer]:
        """Bring the inputs into this process, all at once; the list keeps them here."""
        checksums = buffers_to_run(job.transformation_dict, job.tf_dunder)
        if not job.allow_input_fingertip:
            return await self.buffers.resolve_all(checksums)
        with self.running.occupied(job.key, job.tf_checksum or "", job.depth):
            return await asyncio.gather(
                *(
                    self.fingertips.buffer(c, key=job.key, depth=job.depth)
                    for c in checksums
                )
            )

    def received(self, buffers: Contents | None) -> None:
        """Keep, and write to the hashserver, what has come from a Seamless process."""
        for checksum, content in (buffers or {}).items():
            self.made(Buffer(content, checksum=Checksum(checksum)))

    def made(self, buffer: Buffer) -> None:
        """Keep, and write to the hashserver, what a Seamless process has made."""
        self.buffers.add(buffer)
        self.uploads.add(buffer)

    async def _execute(self, job: Job, tf_checksum: str, inputs: list[Buffer]) -> str:
        attempt = self._attempts[job.key]
        with self.running.occupied(job.key, tf_checksum, job.depth):
            execution = await self.recorder.begin(
                job.transformation_dict, job.tf_dunder
            )
            try:
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
                )
            finally:
                await execution.end()
        attempt.report = report
        self.received(made)
        if parse_remote_job_written(result) is not None:
            return result
        await self.uploads.wait(made)
        if job.scratch:
            self.fingertips.remember(tf_checksum, job.tf_dunder)
        else:
            await self.uploads.ensure(result, self.buffers.at_hand(result))
            await ensure_members_uploaded(job, result, self.buffers, self.uploads)
        attempt.check()
        attempt.storing = True
        await execution.store(tf_checksum, result, report, scratch=job.scratch)
        if not job.scratch:
            self.buffers.take_over(result)
        return result

    def cancel(self, keys: Sequence[str] = ()) -> None:
        """Stop tasks that this worker executes; their processes are replaced.

        Called by the scheduler, and when nobody wants the tasks any more. Others that
        execute have processes of their own; what waits in one of these processes begins
        again, see `seamless_dask.pool.allocation`. Nothing is stored of what is stopped.
        """
        for key in keys:
            attempt = self._attempts.get(key)
            if attempt is not None and not (attempt.cancelled or attempt.storing):
                attempt.cancelled = True
                attempt.task.cancel()

    def close(self) -> None:
        """Stop asking for leases; what is under way begins again elsewhere."""
        self._closed = True
        self.worker.stream_handlers.pop(messages.PUSH_CANCEL, None)
        self.nested.close()
        self.leases.close()
        self.recorder.close()

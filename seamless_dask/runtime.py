"""What a Dask worker does with transformations: its own, and those they call."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from distributed import Reschedule
from distributed.worker_state_machine import SecedeEvent
from seamless import Buffer, CacheMissError, Checksum
from seamless_transformer.probe_index import RecordBucketError
from seamless_transformer.remote_job import parse_remote_job_written
from seamless_transformer.transformation_utils import tf_get_buffer

from scheduler_ext.messages import RUNS_AGAIN

from .buffers import BufferStore, UploadError, await_pending_uploads, ensure_uploaded
from .deep import ensure_members_uploaded
from .envelopes import EnvelopeMismatch
from .fingertips import Fingertips, buffers_to_run, with_tuples
from .inner import CALLER_WAITS
from .keys import is_driver
from .leases import LeaseRefused, Leases
from .patience import ServiceUnavailable
from .pool import JobFailed, Pool
from .recorder import Recorder
from .records import StorageError, known_result
from .small_buffers import BUFFERS, SMALL, Contents
from .types import TransformationInputSpec, TransformationResult
from .types import TransformationSubmission as Submission
from .uploads import Uploads

if TYPE_CHECKING:
    from distributed import Worker

    from .client import SeamlessDaskClient
    from .tasks import Job

logger = logging.getLogger(__name__)

#: message by which the scheduler has tasks of this worker stopped
CANCEL = "seamless_cancel"
#: results up to this size (bytes) travel with their checksum
INLINE_LIMIT = 32 * 1024


@dataclass(eq=False)
class RunningJob:
    """A transformation that this worker is executing."""

    key: str
    tf_checksum: str
    depth: int
    started: float = field(default_factory=time.monotonic)
    #: nested transformations that it waits for
    pending: int = 0
    #: what it has asked for, also in a process that is gone: when it runs again, it
    #: will ask again
    requests: set[asyncio.Task[dict[str, Any]]] = field(default_factory=set)
    #: whether Dask has been told that the task waits
    seceded: bool = False


@dataclass(eq=False)
class _Attempt:
    """A Dask task that this worker executes, from its beginning to its end."""

    task: asyncio.Task[TransformationResult]
    cancelled: bool = False
    #: whether its result is being written: then it is too late to cancel it
    storing: bool = False


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
        worker.stream_handlers[CANCEL] = self.cancel
        worker.handlers[CALLER_WAITS] = self.caller_waits
        self._attempts: dict[str, _Attempt] = {}
        self._running: dict[str, RunningJob] = {}

    @property
    def buffers(self) -> BufferStore:
        """Buffers of this process."""
        return self.pool.buffers

    def is_running(self, key: str) -> bool:
        """Whether this worker executes the task with this key; from any thread."""
        return key in self._running

    # -- a transformation of ours ------------------------------------------------

    async def run(
        self, job: Job, dependencies: Sequence[TransformationResult]
    ) -> TransformationResult:
        """Execute one transformation and store its result.

        Whatever goes wrong with the transformation is part of the answer; nothing is
        announced that has not been stored.

        Raises
        ------
        distributed.Reschedule
            If it was cancelled: whoever has asked for it since then gets it.
        """
        task = asyncio.create_task(self._run(job, dependencies))
        self._attempts[job.key] = attempt = _Attempt(task)
        try:
            return await task
        except asyncio.CancelledError:
            if attempt.cancelled:
                raise Reschedule from None
            raise
        finally:
            del self._attempts[job.key]

    async def _run(
        self, job: Job, dependencies: Sequence[TransformationResult]
    ) -> TransformationResult:
        tf_checksum = job.tf_checksum
        try:
            job = _with_dependencies(job, dependencies)
            buffer = tf_get_buffer(job.transformation_dict)
            tf_checksum = buffer.get_checksum().hex()
            self.buffers.add(buffer)
            for checksum, content in job.contents.items():
                self.buffers.add(Buffer(content, checksum=Checksum(checksum)))
            self._add_contents(dependencies)
            if dependencies:
                await ensure_uploaded(tf_checksum, buffer)
            if dependencies or self._runs_again(job.key):
                known = await known_result(tf_checksum)
                if known is not None:
                    return self._result(tf_checksum, known, cached=True)
            inputs = await self._resolve_inputs(job)
            result = await self._execute(job, tf_checksum, inputs)
        except (JobFailed, DependencyFailed) as exc:
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

    def _add_contents(self, results: Iterable[TransformationResult]) -> None:
        """Keep the small buffers that have come with results."""
        for result in results:
            if result.content is not None and result.result_checksum is not None:
                checksum = Checksum(result.result_checksum)
                self.buffers.add(Buffer(result.content, checksum=checksum))

    def _runs_again(self, key: str) -> bool:
        """Whether a task has been with a worker before, which may have stored it."""
        task = self.worker.state.tasks.get(key)
        return task is not None and RUNS_AGAIN in (task.annotations or {})

    def _result(
        self, tf_checksum: str, result: str, *, cached: bool = False
    ) -> TransformationResult:
        content = None
        if parse_remote_job_written(result) is None:
            buffer = self.buffers.at_hand(result)
            if buffer is not None and len(buffer.content) <= INLINE_LIMIT:
                content = buffer.content
        return TransformationResult(tf_checksum, result, content=content, cached=cached)

    async def _resolve_inputs(self, job: Job) -> list[Buffer]:
        """Bring the inputs into this process, all at once; the list keeps them here."""
        checksums = buffers_to_run(job.transformation_dict, job.tf_dunder)
        if not job.allow_input_fingertip:
            return await asyncio.gather(*map(self.buffers.resolve, checksums))
        with self.occupied(job.key, job.tf_checksum or "", job.depth):
            return await asyncio.gather(
                *(
                    self.fingertips.buffer(c, key=job.key, depth=job.depth)
                    for c in checksums
                )
            )

    @contextmanager
    def occupied(self, key: str, tf_checksum: str, depth: int) -> Iterator[None]:
        """Count a task as one that executes, so that it may have nested work."""
        if key in self._running:
            yield
            return
        self._running[key] = running = RunningJob(key, tf_checksum, depth)
        try:
            yield
        except asyncio.CancelledError:
            self._cancel_requests(running)
            raise
        finally:
            del self._running[key]

    async def _execute(self, job: Job, tf_checksum: str, inputs: list[Buffer]) -> str:
        running = RunningJob(job.key, tf_checksum, job.depth)
        self._running[job.key] = running
        try:
            execution = await self.recorder.begin(
                job.transformation_dict, job.tf_dunder
            )
        except BaseException:
            self._running.pop(job.key, None)
            raise
        try:
            result, made = await self.pool.dispatch(
                job.transformation_dict,
                tf_checksum=tf_checksum,
                tf_dunder=job.tf_dunder,
                scratch=job.scratch,
                strict_dunder=job.strict_dunder,
                key=job.key,
                depth=job.depth,
                inputs=inputs,
            )
        except asyncio.CancelledError:
            self._cancel_requests(running)
            raise
        finally:
            self._running.pop(job.key, None)
            await execution.end()
        self.received(made)
        if parse_remote_job_written(result) is not None:
            return result
        await self.uploads.wait(made)
        if job.scratch:
            self.fingertips.remember(tf_checksum, job.tf_dunder)
        else:
            if not self.uploads.is_written(result):
                await ensure_uploaded(result, self.buffers.at_hand(result))
            await ensure_members_uploaded(job, result, self.buffers)
        self._attempts[job.key].storing = True
        await execution.store(tf_checksum, result, scratch=job.scratch)
        if not job.scratch:
            self.buffers.take_over(result)
        return result

    def cancel(self, keys: Sequence[str] = ()) -> None:
        """Stop tasks that this worker executes; their processes are replaced.

        Called by the scheduler, and when nobody wants the tasks any more. What else
        runs in these processes runs again. Nothing is stored of what is stopped.
        """
        for key in keys:
            attempt = self._attempts.get(key)
            if attempt is not None and not (attempt.cancelled or attempt.storing):
                attempt.cancelled = True
                attempt.task.cancel()

    def _cancel_requests(self, running: RunningJob) -> None:
        """Want what a cancelled transformation has asked for no longer."""
        for request in tuple(running.requests):
            others = (r for r in self._running.values() if r is not running)
            if not any(request in other.requests for other in others):
                request.cancel()

    # -- a transformation that one of ours calls -----------------------------------

    async def nested(self, process: str, request: dict[str, Any]) -> dict[str, Any]:
        """Have a nested transformation computed, wherever in the cluster.

        Parameters
        ----------
        process
            Name of the Seamless process in which the calling transformation runs.
        request
            What seamless-transformer sends to delegate a transformation.

        Returns
        -------
        dict
            The answer as seamless-transformer expects it.
        """
        callers = self._callers(process, request.get("owner_dask_key"))
        work = asyncio.create_task(self._answer(callers, request))
        for caller in callers:
            caller.requests.add(work)
            work.add_done_callback(caller.requests.discard)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # The process is gone. Its jobs run again and will ask for the same: that
            # must not be stopped meanwhile.
            if not callers:
                work.cancel()
            raise

    async def _answer(
        self, callers: Sequence[RunningJob], request: dict[str, Any]
    ) -> dict[str, Any]:
        try:
            return await self._nested(callers, request)
        except (
            LeaseRefused,
            ServiceUnavailable,
            UploadError,
            CacheMissError,
            EnvelopeMismatch,
            ValueError,
        ) as exc:
            return _failure(f"{type(exc).__name__}: {exc}")

    async def _nested(
        self, callers: Sequence[RunningJob], request: dict[str, Any]
    ) -> dict[str, Any]:
        tf_checksum = Checksum(request["tf_checksum"]).hex()
        tf_dunder = request.get("tf_dunder") or {}
        self.received(request.get(BUFFERS))
        known = await known_result(tf_checksum)
        if known is not None:
            return self._success(known)
        transformation_dict = request.get("transformation_dict")
        if transformation_dict is None:
            buffer = await self.buffers.resolve(tf_checksum)
            transformation_dict = with_tuples(await buffer.get_value_async("plain"))
        depth = 1 + max((caller.depth for caller in callers), default=0)
        submission = submission_of(
            transformation_dict,
            tf_checksum=tf_checksum,
            tf_dunder=tf_dunder,
            scratch=bool(request.get("scratch")),
            strict_dunder=bool(request.get("strict_dunder")),
        )
        with self._waiting(callers):
            checksums = checksums_of(submission)
            await asyncio.gather(
                await_pending_uploads(checksums), self.uploads.wait(checksums)
            )
            lease = None
            if not is_driver(transformation_dict, tf_dunder):
                owner = callers[0].key if callers else None
                key = self.client.task_key(submission)
                lease = await self.leases.acquire(key, owner, depth)
            try:
                return await self._submit(submission, depth)
            finally:
                if lease is not None:
                    self.leases.release(lease)

    async def _submit(self, submission: Submission, depth: int) -> dict[str, Any]:
        futures = self.client.submit_transformation(submission, priority_boost=depth)
        try:
            result: TransformationResult = await futures.base.wait()
        except asyncio.CancelledError:
            if futures.base.cancelled():
                return _failure("Delegated transformation cancelled")
            raise
        finally:
            self.client.release_transformation_futures(futures, cancel=True)
        if result.error is not None:
            return _failure(result.error)
        assert result.result_checksum is not None
        self._add_contents([result])
        return self._success(result.result_checksum)

    def _success(self, result_checksum: str) -> dict[str, Any]:
        answer: dict[str, Any] = {"status": "done", "result": result_checksum}
        if parse_remote_job_written(result_checksum) is None:
            buffer = self.buffers.at_hand(result_checksum)
            if buffer is not None and len(buffer.content) <= SMALL:
                answer[BUFFERS] = {result_checksum: buffer.content}
        return answer

    def received(self, buffers: Contents | None) -> None:
        """Keep, and write to the hashserver, what has come from a Seamless process."""
        for checksum, content in (buffers or {}).items():
            buffer = Buffer(content, checksum=Checksum(checksum))
            self.buffers.add(buffer)
            self.uploads.add(buffer)

    async def has_buffer(self, process: str, checksum: str) -> bool:
        """Have a buffer in memory that a process asks for, computed if it must be.

        Parameters
        ----------
        process
            Name of the Seamless process.
        checksum
            64 hexadecimal digits.

        Returns
        -------
        bool
            False if it cannot be had.
        """
        callers = self._callers(process, None)
        key = callers[0].key if callers else f"base-{checksum}"
        depth = 1 + max((caller.depth for caller in callers), default=0)
        try:
            await self.fingertips.buffer(checksum, key=key, depth=depth)
        except CacheMissError as exc:
            logger.info("Process %s asks for what is nowhere: %s", process, exc)
            return False
        return True

    def caller_waits(
        self, process: str | None = None, key: str | None = None
    ) -> dict[str, Any]:
        """Note that a transformation waits for a process that it has started.

        Called by that process: see `seamless_dask.inner`.

        Parameters
        ----------
        process
            Name of the Seamless process under which it runs.
        key
            Key of the transformation's task, if that is known.
        """
        runtime = self.pool.runtime_of(key)
        callers = runtime._callers(process or "", key)
        for caller in callers:
            runtime._secede(caller)
        return {
            "key": callers[0].key if callers else None,
            "depth": max((caller.depth for caller in callers), default=0),
        }

    def _callers(self, process: str, owner_key: str | None) -> list[RunningJob]:
        """Return the transformation that asks, or all that it may be.

        It is known exactly except for calls from threads that the user's code has
        started: those come without the key.
        """
        if owner_key is not None:
            running = self._running.get(owner_key)
            return [] if running is None else [running]
        candidates = self.pool.jobs_of(process)
        return [r for r in self._running.values() if r.key in candidates]

    @contextmanager
    def _waiting(self, callers: Sequence[RunningJob]) -> Iterator[None]:
        for caller in callers:
            caller.pending += 1
            self._secede(caller)
        try:
            yield
        finally:
            for caller in callers:
                caller.pending -= 1

    def _secede(self, job: RunningJob) -> None:
        """Tell Dask that a task waits, so that its slot is free for what it waits for.

        The same as `distributed.secede`, which is for tasks that run in threads.
        """
        if job.seceded:
            return
        job.seceded = True
        self.worker.handle_stimulus(
            SecedeEvent(
                key=job.key,
                compute_duration=time.monotonic() - job.started,
                stimulus_id=f"seamless-secede-{time.time()}",
            )
        )

    def close(self) -> None:
        """Stop asking for leases."""
        self.worker.stream_handlers.pop(CANCEL, None)
        self.worker.handlers.pop(CALLER_WAITS, None)
        self.leases.close()
        self.recorder.close()


class DependencyFailed(RuntimeError):
    """A transformation that this one depends on has no result."""


def _with_dependencies(job: Job, results: Sequence[TransformationResult]) -> Job:
    if not results:
        return job
    transformation_dict = dict(job.transformation_dict)
    dependencies = {}
    for name, result in zip(job.dependencies, results, strict=True):
        if result.error is not None or result.result_checksum is None:
            raise DependencyFailed(
                f"Dependency '{name}' has an exception:\n{result.error}"
            )
        if parse_remote_job_written(result.result_checksum) is not None:
            raise DependencyFailed(
                f"Dependency '{name}' has no result: it was written as a remote job"
            )
        celltype, subcelltype, _ = transformation_dict[name]
        transformation_dict[name] = celltype, subcelltype, result.result_checksum
        dependencies[name] = result.tf_checksum
    known = job.tf_dunder.get("__deps__") or {}
    tf_dunder = {**job.tf_dunder, "__deps__": {**known, **dependencies}}
    return replace(job, transformation_dict=transformation_dict, tf_dunder=tf_dunder)


def submission_of(
    transformation_dict: dict[str, Any],
    *,
    tf_checksum: str,
    tf_dunder: dict[str, Any],
    scratch: bool,
    strict_dunder: bool,
) -> Submission:
    """Return the submission of a transformation whose inputs are all known.

    Raises
    ------
    ValueError
        If a pin has no checksum; all of them are named.
    """
    inputs = {}
    missing = []
    for name, value in transformation_dict.items():
        if name.startswith("__") or not isinstance(value, tuple) or len(value) < 3:
            continue
        celltype, subcelltype, checksum = value
        if checksum is None:
            missing.append(name)
            continue
        inputs[name] = TransformationInputSpec(
            name=name,
            celltype=celltype,
            subcelltype=subcelltype,
            checksum=Checksum(checksum).hex(),
            kind="checksum",
        )
    if missing:
        raise ValueError(f"Transformation {tf_checksum}: inputs {missing} are unknown")
    meta = transformation_dict.get("__meta__") or {}
    return Submission(
        transformation_dict=transformation_dict,
        inputs=inputs,
        input_futures={},
        tf_checksum=tf_checksum,
        tf_dunder=tf_dunder,
        scratch=scratch,
        require_value=False,
        allow_input_fingertip=bool(meta.get("allow_input_fingertip")),
        strict_dunder=strict_dunder,
    )


def checksums_of(submission: Submission) -> set[str]:
    """Return the checksums of the buffers that a submission refers to."""
    checksums = {spec.checksum for spec in submission.inputs.values()}
    checksums.add(submission.tf_checksum)
    return {checksum for checksum in checksums if checksum is not None}


def _failure(error: str) -> dict[str, Any]:
    return {"status": "error", "error": error}

"""Calls of nested transformations, from the request to the answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from seamless import Buffer, CacheMissError, Checksum
from seamless_transformer.remote_job import parse_remote_job_written

from scheduler_ext.task_keys import base_key

from ..child.small_buffers import BUFFERS, SMALL
from ..cluster.leases import Leases
from ..errors import TransformationError
from ..neighbours.pins import with_tuples
from ..storage.cache import BufferStore, await_pending_uploads
from ..storage.database import known_result
from ..storage.uploads import Uploads
from ..submit.identity import is_driver
from ..submit.submissions import checksums_of, submission_of
from ..submit.submitter import Submitter
from ..submit.tasks import Job
from ..types import TransformationFutures, TransformationResult
from ..types import TransformationSubmission as Submission
from .callers import RunningJob, RunningJobs
from .recompute import Recompute

logger = logging.getLogger(__name__)

#: the error of a call that was cancelled from elsewhere, worded as in a driver script
CANCELED = "Transformation was canceled"


class NestedWork:
    """Answers the Seamless processes of a worker; lives on the worker's event loop.

    Parameters
    ----------
    submitter
        Submits nested transformations.
    leases
        Asks the permission manager for leases.
    running
        The transformations that the worker executes.
    buffers, uploads
        The buffers of this process, and those on their way to the hashserver.
    recompute
        Gets buffers that are stored nowhere.
    on_cache_hit
        Called with the key of the calling task when a call has a result already.
    job_of
        Returns the job of a task that the worker executes, None if it does not.
    """

    def __init__(
        self,
        *,
        submitter: Submitter,
        leases: Leases,
        running: RunningJobs,
        buffers: BufferStore,
        uploads: Uploads,
        recompute: Recompute,
        on_cache_hit: Callable[[str], object],
        job_of: Callable[[str], Job | None],
    ) -> None:
        self._submitter = submitter
        self._leases = leases
        self._running = running
        self._buffers = buffers
        self._uploads = uploads
        self._recompute = recompute
        self._on_cache_hit = on_cache_hit
        self._job_of = job_of

    async def answer(self, process: str, request: dict[str, Any]) -> dict[str, Any]:
        """Have a nested transformation computed, anywhere in the cluster.

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
        owner = request.get("owner_dask_key")
        callers = self._running.callers(process, owner)
        if owner is not None and not callers:
            return _failure("The transformation that calls has ended, or was cancelled")
        work = asyncio.create_task(self._answer(callers, request))
        for caller in callers:
            caller.requests.add(work)
            work.add_done_callback(caller.requests.discard)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # The process has died. Its jobs run again and repeat their calls, so the
            # nested work must go on meanwhile.
            if not callers:
                work.cancel()
            raise

    async def _answer(
        self, callers: Sequence[RunningJob], request: dict[str, Any]
    ) -> dict[str, Any]:
        try:
            return await self._nested(callers, request)
        except (TransformationError, CacheMissError, ValueError) as error:
            text = self._submitter.names.readable(str(error))
            return _failure(f"{type(error).__name__}: {text}")

    async def _nested(
        self, callers: Sequence[RunningJob], request: dict[str, Any]
    ) -> dict[str, Any]:
        tf_checksum = Checksum(request["tf_checksum"]).hex()
        tf_dunder = request.get("tf_dunder") or {}
        self._uploads.received(request.get(BUFFERS))
        known = await known_result(tf_checksum)
        if known is not None:
            if callers:
                self._on_cache_hit(callers[0].key)
            return self._success(known)
        transformation_dict = request.get("transformation_dict")
        if transformation_dict is None:
            buffer = await self._buffers.resolve(tf_checksum)
            transformation_dict = with_tuples(await buffer.get_value_async("plain"))
        depth = 1 + max((caller.depth for caller in callers), default=0)
        submission = submission_of(
            transformation_dict,
            tf_checksum=tf_checksum,
            tf_dunder=tf_dunder,
            scratch=bool(request.get("scratch")),
            strict_dunder=bool(request.get("strict_dunder")),
        )
        caller = self._job_of(callers[0].key) if callers else None
        if caller is not None:
            submission.script = caller.script
            submission.streams = caller.streams
        with self._running.waiting(callers):
            checksums = checksums_of(submission)
            await await_pending_uploads(checksums)
            await self._uploads.wait(checksums)
            self._submitter.names.note(transformation_dict, self._buffers.at_hand)
            owner = callers[0].key if callers else None
            if is_driver(transformation_dict, tf_dunder):
                futures = self._submitter.submit_transformation(
                    submission, priority_boost=depth, owner=owner
                )
                return await self._answer_of(futures)
            key, resources = self._submitter.task_of(submission)
            lease = await self._leases.acquire(key, owner, depth, resources)
            ended = False
            try:
                futures = self._submit(submission, depth)
                base = futures.base
                runs = base.key == key and not base.done()
                answer = await self._answer_of(futures)
                # If the task was run for this call, the lease has ended with it.
                ended = runs and not base.cancelled()
                return answer
            finally:
                if ended:
                    self._leases.ended(lease)
                else:
                    self._leases.release(lease)

    def _submit(self, submission: Submission, depth: int) -> TransformationFutures:
        return self._submitter.submit_transformation(submission, priority_boost=depth)

    async def _answer_of(self, futures: TransformationFutures) -> dict[str, Any]:
        try:
            result: TransformationResult = await futures.base.wait()
        except asyncio.CancelledError:
            if futures.base.cancelled():
                return _failure(CANCELED)
            raise
        finally:
            self._submitter.release_transformation_futures(futures, cancel=True)
        if result.error is not None:
            return _failure(result.error)
        assert result.result_checksum is not None
        self._buffers.add_contents([result])
        return self._success(result.result_checksum)

    def _success(self, result_checksum: str) -> dict[str, Any]:
        answer: dict[str, Any] = {"status": "done", "result": result_checksum}
        if parse_remote_job_written(result_checksum) is None:
            buffer = self._buffers.at_hand(result_checksum)
            if buffer is not None and len(buffer) <= SMALL:
                answer[BUFFERS] = {result_checksum: buffer.content}
        return answer

    async def buffer(self, process: str, checksum: str) -> Buffer | None:
        """Return a buffer that a process asks for; recompute it if necessary.

        Parameters
        ----------
        process
            Name of the Seamless process.
        checksum
            64 hexadecimal digits.

        Returns
        -------
        Buffer or None
            None if it cannot be obtained.
        """
        callers = self._running.callers(process, None)
        key = callers[0].key if callers else base_key(checksum, {})
        depth = 1 + max((caller.depth for caller in callers), default=0)
        try:
            return await self._recompute.buffer(checksum, key=key, depth=depth)
        except CacheMissError as error:
            logger.info("Process %s asks for a missing buffer: %s", process, error)
            return None


def _failure(error: str) -> dict[str, Any]:
    return {"status": "error", "error": error}

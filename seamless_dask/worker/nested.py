"""Transformations that transformations call: from the request to the answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from seamless import Buffer, CacheMissError, Checksum
from seamless_transformer.remote_job import parse_remote_job_written

from scheduler_ext.task_keys import base_key

from ..child.small_buffers import BUFFERS, SMALL
from ..cluster.inner import CALLER_WAITS
from ..cluster.leases import LeaseRefused
from ..storage.cache import UploadError, await_pending_uploads
from ..storage.database import known_result
from ..storage.outages import ServiceUnavailable
from ..submit.envelopes import EnvelopeMismatch
from ..submit.identity import is_driver
from ..submit.submissions import checksums_of, submission_of
from ..types import TransformationFutures, TransformationResult
from ..types import TransformationSubmission as Submission
from .callers import RunningJob
from .recompute import with_tuples

if TYPE_CHECKING:
    from .task_runner import WorkerRuntime

logger = logging.getLogger(__name__)

#: the error of a call that was cancelled from elsewhere, worded as for a driver
CANCELED = "Transformation was canceled"


class NestedWork:
    """Answers the Seamless processes of a worker; lives on the worker's event loop.

    Parameters
    ----------
    runtime
        Of the Dask worker.
    """

    def __init__(self, runtime: WorkerRuntime) -> None:
        self._runtime = runtime
        self._running = runtime.running
        runtime.worker.handlers[CALLER_WAITS] = self.caller_waits

    def close(self) -> None:
        """Stop listening."""
        self._runtime.worker.handlers.pop(CALLER_WAITS, None)

    async def answer(self, process: str, request: dict[str, Any]) -> dict[str, Any]:
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
        self._runtime.received(request.get(BUFFERS))
        known = await known_result(tf_checksum)
        if known is not None:
            if callers:
                self._runtime.count_cache_hit(callers[0].key)
            return self._success(known)
        transformation_dict = request.get("transformation_dict")
        if transformation_dict is None:
            buffer = await self._runtime.buffers.resolve(tf_checksum)
            transformation_dict = with_tuples(await buffer.get_value_async("plain"))
        depth = 1 + max((caller.depth for caller in callers), default=0)
        submission = submission_of(
            transformation_dict,
            tf_checksum=tf_checksum,
            tf_dunder=tf_dunder,
            scratch=bool(request.get("scratch")),
            strict_dunder=bool(request.get("strict_dunder")),
        )
        with self._running.waiting(callers):
            checksums = checksums_of(submission)
            await await_pending_uploads(checksums)
            await self._runtime.uploads.wait(checksums)
            if is_driver(transformation_dict, tf_dunder):
                return await self._answer_of(self._submit(submission, depth))
            owner = callers[0].key if callers else None
            key = self._runtime.client.task_key(submission)
            lease = await self._runtime.leases.acquire(key, owner, depth)
            ended = False
            try:
                futures = self._submit(submission, depth)
                base = futures.base
                runs = base.key == key and not base.done()
                answer = await self._answer_of(futures)
                # Then the lease has ended with the task.
                ended = runs and not base.cancelled()
                return answer
            finally:
                if ended:
                    self._runtime.leases.ended(lease)
                else:
                    self._runtime.leases.release(lease)

    def _submit(self, submission: Submission, depth: int) -> TransformationFutures:
        return self._runtime.client.submit_transformation(
            submission, priority_boost=depth
        )

    async def _answer_of(self, futures: TransformationFutures) -> dict[str, Any]:
        try:
            result: TransformationResult = await futures.base.wait()
        except asyncio.CancelledError:
            if futures.base.cancelled():
                return _failure(CANCELED)
            raise
        finally:
            self._runtime.client.release_transformation_futures(futures, cancel=True)
        if result.error is not None:
            return _failure(result.error)
        assert result.result_checksum is not None
        self._runtime.add_contents([result])
        return self._success(result.result_checksum)

    def _success(self, result_checksum: str) -> dict[str, Any]:
        answer: dict[str, Any] = {"status": "done", "result": result_checksum}
        if parse_remote_job_written(result_checksum) is None:
            buffer = self._runtime.buffers.at_hand(result_checksum)
            if buffer is not None and len(buffer) <= SMALL:
                answer[BUFFERS] = {result_checksum: buffer.content}
        return answer

    async def buffer(self, process: str, checksum: str) -> Buffer | None:
        """Return a buffer that a process asks for, computed if it must be.

        Parameters
        ----------
        process
            Name of the Seamless process.
        checksum
            64 hexadecimal digits.

        Returns
        -------
        Buffer or None
            None if it cannot be had.
        """
        callers = self._running.callers(process, None)
        key = callers[0].key if callers else base_key(checksum, {})
        depth = 1 + max((caller.depth for caller in callers), default=0)
        try:
            return await self._runtime.fingertips.buffer(checksum, key=key, depth=depth)
        except CacheMissError as exc:
            logger.info("Process %s asks for what is nowhere: %s", process, exc)
            return None

    def caller_waits(
        self, process: str | None = None, key: str | None = None
    ) -> dict[str, Any]:
        """Note that a transformation waits for a process that it has started.

        Called by that process: see `seamless_dask.cluster.inner`.

        Parameters
        ----------
        process
            Name of the Seamless process under which it runs.
        key
            Key of the transformation's task, if that is known.
        """
        running = self._runtime.pool.runtime_of(key).running
        callers = running.callers(process or "", key)
        for caller in callers:
            running.secede(caller)
        return {
            "key": callers[0].key if callers else None,
            "depth": max((caller.depth for caller in callers), default=0),
        }


def _failure(error: str) -> dict[str, Any]:
    return {"status": "error", "error": error}

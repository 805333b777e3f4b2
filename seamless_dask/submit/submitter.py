"""Submits transformations to a Dask cluster, and keeps track of them."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import logging
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import dask
from distributed import Client, Future
from seamless import Buffer, Checksum

from scheduler_ext.error_texts import with_pointer
from scheduler_ext.messages import OWNER, PUSH_RESULT
from scheduler_ext.task_keys import (
    NESTED_RESOURCE,
    TOP_LEVEL_RESOURCE,
)

from ..cluster import scheduler
from ..cluster.inner import InnerLeases
from ..storage import serialization
from ..storage.recent import recent_buffers
from ..types import TransformationFutures, TransformationResult
from . import tasks
from .batches import Batches
from .client_loop import ClientLoop
from .envelopes import Envelope
from .envelopes import check as check_envelope
from .fetching import FatFuture, Fetcher
from .function_names import FunctionNames
from .handles import Handle
from .identity import identify
from .intake import Intake
from .pace import Pace
from .progress import Progress
from .registry import Entry, Registry
from .result_waiter import Results
from .streamed import Streamed

if TYPE_CHECKING:
    from ..types import TransformationSubmission

logger = logging.getLogger(__name__)

T = TypeVar("T")

Resources = dict[str, float]
#: kind of process that submits: see `Submitter`
Role = Literal["driver", "worker", "inner"]
#: seconds that a finished task and a buffer stay cached after their last use
CACHE_TTL = 10.0
#: transformations that wait for room, up to which a further one is looked up at once
LOOKED_UP = 2_000


def _at_exit(intake: weakref.ref[Intake]) -> None:
    found = intake()
    if found is not None:
        found.exit()


class Submitter:
    """Submits transformations by a `distributed.Client`.

    Parameters
    ----------
    dask_client
        A synchronous client; the caller remains responsible for closing it.
    role
        ``"driver"``: the client of a driver script. ``"worker"``: the client of a
        Dask worker, for the nested work of its transformations. ``"inner"``: the
        client of a process that a transformation has started (for instance
        ``seamless-run`` in a bash job); its submissions are nested work.
    local_results
        Looks up a finished task's result in this process by its key, so that a Dask
        worker does not request its own results.
    """

    def __init__(
        self,
        dask_client: Client,
        *,
        role: Role,
        local_results: Callable[[Any], Any] | None = None,
    ) -> None:
        serialization.register()
        #: the client of distributed
        self.client = dask_client
        self.role: Role = role
        #: asks for a lease before each submission; None: this client needs no leases
        self.inner = InnerLeases(dask_client) if role == "inner" else None
        #: the cluster's record mode, which a driver script must share; None: unknown
        self.record: bool | None = None
        #: keeps submissions from piling up at the scheduler
        self.pace = Pace(dask_client)
        #: protects the registry
        self._lock = threading.RLock()
        #: names of functions, which it tells the scheduler
        self.names = FunctionNames(dask_client)
        #: shows the output of transformations in a driver script
        self.streamed = Streamed(dask_client, shows=role != "worker")
        #: shows the progress of what a driver script waits for
        self.progress = Progress(dask_client, shows=role == "driver")
        self._registry = Registry(lambda entry: entry.anchor.release())
        self._results = Results(dask_client, local_results, self.pace)
        #: whether a call of `_prune` is scheduled
        self._pruning = False
        self._loop = ClientLoop(dask_client)
        self._intake = Intake(self._loop, lambda: self.is_crowded)
        self.pace.on_room = self._intake.wake
        self.pace.not_begun = lambda: len(self._intake)
        self._intake.on_fewer = self.pace.tell
        atexit.register(_at_exit, weakref.ref(self._intake))
        self._batches = Batches(dask_client, self._loop, self.pace, self._not_sent)
        self._fetcher = Fetcher(dask_client, self._batches.flush)
        dask_client._stream_handlers[PUSH_RESULT] = self._on_result

    def __repr__(self) -> str:
        return f"<{type(self).__name__} ({self.role}): {self._registry!r}>"

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop on which the client works, in a thread of its own."""
        return self._loop.asyncio_loop

    def start(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run a coroutine on the client's loop; see `ClientLoop.start`."""
        return self._loop.start(coroutine)

    def begin(
        self, evaluation: Coroutine[Any, Any, None]
    ) -> concurrent.futures.Future[None]:
        """Run an evaluation on the client's loop when its turn comes; see `Intake`."""
        return self._intake.put(evaluation)

    # -- submission --------------------------------------------------------------

    def submit_transformation(
        self,
        submission: TransformationSubmission,
        need_fat: bool = False,
        priority_boost: int = 0,
        owner: str | None = None,
    ) -> TransformationFutures:
        """Submit a transformation, or join the submission of the same one.

        Returns at once; any thread may call.

        Parameters
        ----------
        submission
            The transformation.
        need_fat
            Also return a future of the result's buffer.
        priority_boost
            Above 0 for nested work: its depth in the tree of transformations. Deeper
            work runs first, and nested work does not take the units of top-level
            work.
        owner
            Key of the transformation that calls, for those who watch the cluster. Only
            needed without a lease, which tells it as well.

        Raises
        ------
        ValueError
            If the required resources are malformed.
        EnvelopeMismatch
            If the submission is strict and the same transformation is under way with
            another envelope.
        ForkedDriverError
            In a process that was forked from the one that has made the client.
        """
        self._loop.check_process()
        identity = identify(submission)
        nested = priority_boost > 0 or self.role != "driver"
        depth = max(1, int(priority_boost)) if nested else 0
        dependencies = identity.dependencies
        job = tasks.Job(
            key=identity.key,
            transformation_dict=submission.transformation_dict,
            tf_checksum=None if dependencies else submission.tf_checksum,
            tf_dunder=submission.tf_dunder,
            dependencies=tuple(dependencies),
            scratch=submission.scratch,
            allow_input_fingertip=submission.allow_input_fingertip,
            strict_dunder=submission.strict_dunder,
            depth=depth,
            contents=submission.contents,
            client=None if self.role == "worker" else self.client.id,
            name=self.names.note(submission.transformation_dict),
            script=submission.script if self.role == "worker" else self.client.id,
            streams=self.streamed.wants(submission),
        )
        unit = NESTED_RESOURCE if nested or identity.driver else TOP_LEVEL_RESOURCE
        with self._lock:
            if submission.strict_dunder and submission.tf_checksum is not None:
                check_envelope(
                    submission.tf_checksum,
                    Envelope(submission.tf_dunder, submission.scratch),
                    self._registry.active_envelopes(submission.tf_checksum),
                )
            entry = self._registry.reuse(identity.key, time.monotonic())
            if entry is None:
                entry = self._submit_base(
                    job,
                    list(dependencies.values()),
                    {**identity.resources, unit: 1},
                    {} if owner is None else {OWNER: owner},
                )
            futures = self._handles(entry)
        if need_fat:
            futures.fat = self.ensure_fat_future(futures)
        return futures

    def task_of(self, submission: TransformationSubmission) -> tuple[str, Resources]:
        """Describe the Dask task that a submission has, or would have now.

        Returns
        -------
        str
            Its key.
        dict
            The Dask resources that it needs, apart from the unit of top-level work.

        Raises
        ------
        ValueError
            If the required resources are malformed.
        """
        identity = identify(submission)
        with self._lock:
            return self._registry.key(identity.key), identity.resources

    def _submit_base(
        self,
        job: tasks.Job,
        dependencies: list[Entry],
        resources: dict[str, float],
        annotations: dict[str, str],
    ) -> Entry:
        name = job.key
        job = replace(job, key=self._registry.key(name))

        def submit() -> Future:
            arguments = [self._results.as_argument(each) for each in dependencies]
            with dask.annotate(**annotations):
                return self.client.submit(
                    tasks.run_transformation,
                    job,
                    *arguments,
                    key=job.key,
                    priority=job.depth,
                    resources=resources,
                    pure=False,
                )

        if dependencies:
            self._batches.flush()  # a dependency may be among them
            anchor = submit()
        else:
            anchor = Future(job.key, self.client)
        entry = Entry(
            name,
            job.key,
            job.tf_checksum,
            submit,
            anchor,
            Envelope(job.tf_dunder, job.scratch),
            tuple(dependencies),
        )
        self.pace.sent()
        self.pace.began()
        self._loop.start_in_background(self._watch(entry))
        self._registry.add(entry)
        if not dependencies:
            # Not earlier: it may be sent at once, and `_not_sent` must find the entry.
            self._batches.submit(job, resources, annotations, anchor)
        return entry

    def _not_sent(self, job: tasks.Job, error: Exception) -> None:
        """End a task that could not be sent to the scheduler."""
        logger.warning("Task %s cannot be submitted: %r", job.key, error)
        entry = self._registry.of_key(job.key)
        if entry is not None and not entry.outcome.done():
            text = f"The transformation cannot be submitted: {error!r}\n"
            entry.outcome.set_result(
                TransformationResult(entry.tf_checksum, None, text)
            )
            entry.anchor.release()  # ends the watch over its task

    def _handles(self, entry: Entry) -> TransformationFutures:
        return TransformationFutures(
            base=Handle(self, entry, lambda result: result),
            thin=Handle(self, entry, TransformationResult.thin),
            tf_checksum=entry.tf_checksum,
            entry=entry,
        )

    def _on_result(self, key: str, result: dict[str, Any]) -> None:
        """Keep a result that a worker has sent with the end of a task."""
        entry = self._registry.of_key(key)
        if entry is not None:
            entry.pushed = TransformationResult(**result)

    async def _watch(self, entry: Entry) -> None:
        outcome = entry.outcome
        try:
            result = await self._results.of(entry)
        except (asyncio.CancelledError, concurrent.futures.CancelledError):
            outcome.cancel()
        except Exception as error:  # noqa: BLE001 - every way a task can fail ends here
            # The callers are told of a lost connection anyway, so it is only logged.
            ended = isinstance(error, ConnectionError)
            level = logging.INFO if ended else logging.WARNING
            logger.log(level, "Task %s failed: %r", entry.key, error)
            text = f"Task {entry.key} failed: {error!r}\n"
            if entry.tf_checksum is not None and not ended:
                name = self.names.shown(entry.key)
                text = with_pointer(text, name, entry.tf_checksum)
            if not outcome.cancelled():
                outcome.set_result(TransformationResult(entry.tf_checksum, None, text))
        else:
            if result.content is not None and result.result_checksum is not None:
                recent_buffers.remember(
                    Buffer(result.content, checksum=Checksum(result.result_checksum))
                )
            if not outcome.cancelled():
                outcome.set_result(result)
            if result.tf_checksum is not None:
                with self._lock:
                    self._registry.learn(entry, result.tf_checksum)
        finally:
            self.pace.ended()
        entry.last_used = time.monotonic()
        self._schedule_pruning()

    # -- handles -----------------------------------------------------------------

    def hold(self, entry: Entry) -> None:
        """Count one more handle on a task."""
        with self._lock:
            self._registry.hold(entry)

    def unhold(self, entry: Entry, *, cancel: bool) -> None:
        """Give a handle back; with `cancel`, the last one cancels the task."""
        if self._loop.of_parent:
            return  # it belongs to the parent
        with self._lock:
            abandoned = self._registry.unhold(entry, cancel=cancel)
        if abandoned:
            entry.outcome.cancel()

    def get_transformation_futures(
        self, tf_checksum: Checksum | str
    ) -> TransformationFutures | None:
        """Return new handles on a transformation that this client knows, or None."""
        checksum = Checksum(tf_checksum).hex()
        with self._lock:
            entry = self._registry.of_checksum(checksum)
            if entry is None:
                return None
            entry.last_used = time.monotonic()
            return self._handles(entry)

    def share(self, futures: TransformationFutures) -> TransformationFutures:
        """Return further handles on the task of some."""
        return self._handles(futures.entry)

    @property
    def defers(self) -> bool:
        """Whether a task may be submitted before its inputs are known."""
        return self.inner is None

    async def keep_pace(self) -> None:
        """Wait until the scheduler has processed most of the submissions."""
        await self.pace.keep()

    @property
    def is_crowded(self) -> bool:
        """Whether so many wait until others have ended that the next is not looked up."""
        return self.pace.kept_back >= LOOKED_UP

    async def admit(self) -> bool:
        """Wait until there is room for another task; see `Pace.admit`."""
        return self._keeps_back and await self.pace.admit()

    def submitted(self) -> None:
        """A transformation that was admitted has its task, or needs none."""
        if self._keeps_back:
            self.pace.submitted()

    @property
    def _keeps_back(self) -> bool:
        """Whether it may: calls of transformations have their slots, and never wait."""
        return self.role != "worker"

    async def result_of(self, futures: TransformationFutures) -> TransformationResult:
        """Wait for the end of a transformation; see `Handle.wait`."""
        result: TransformationResult = await futures.base.wait()
        return result

    def release_transformation_futures(
        self, futures: TransformationFutures, cancel: bool = False
    ) -> None:
        """Release the handles of one caller.

        Parameters
        ----------
        futures
            Made by `submit_transformation` or `get_transformation_futures`.
        cancel
            Cancel the task if it has not ended and no other caller has a handle on it.
            Finished tasks, and other callers' handles, are not affected.
        """
        if futures.fat is not None:
            futures.fat.release()
        for handle in (futures.base, futures.thin):
            if handle is not None:
                handle.release(cancel=cancel)

    def cancel_by_checksum(self, tf_checksum: Checksum | str) -> bool:
        """Cancel a transformation wherever it runs or waits, for all clients.

        Any thread may call, also one with a running event loop; the call takes at
        most five seconds.

        Returns
        -------
        bool
            Whether there was anything to cancel.
        """
        self._loop.check_process()
        checksum = Checksum(tf_checksum).hex()
        with self._lock:
            entry = self._registry.of_checksum(checksum)
            pending = entry is not None and not entry.outcome.done()
            if entry is not None and pending:
                self._registry.forget(entry)
        if entry is not None and pending:
            entry.outcome.cancel()
        request = self.start(self._cancel_on_scheduler(checksum))
        if self._loop.is_current():
            return pending
        return bool(request.result(timeout=5)) or pending

    async def _cancel_on_scheduler(self, checksum: str) -> list[str]:
        keys = await scheduler.cancel(self.client, [checksum])
        now = time.monotonic()
        with self._lock:
            for key in keys:
                self._registry.cancelled(key, now)
        self._schedule_pruning()
        return keys

    # -- buffers -----------------------------------------------------------------

    def ensure_fat_future(self, futures: TransformationFutures) -> FatFuture:
        """Return a future of the result's buffer; any thread, no waiting."""
        return self._fetcher.of_result(futures.entry, fingertip=False)

    def ensure_fat_finger_future(self, futures: TransformationFutures) -> FatFuture:
        """Like `ensure_fat_future`; a buffer that cannot be found is recomputed."""
        return self._fetcher.of_result(futures.entry, fingertip=True)

    def get_fat_checksum_future(self, checksum: Checksum | str) -> Future:
        """Fetch the buffer of a checksum by a task; any thread, no waiting.

        Returns
        -------
        distributed.Future
            Its result is ``(checksum, buffer, error)``: 64 hexadecimal digits, a
            `seamless.Buffer` and None; or the digits, None and a text if the buffer
            cannot be found. It may be given to other Dask tasks.
        """
        return self._fetcher.of_checksum(Checksum(checksum).hex(), fingertip=False)

    def get_fat_finger_checksum_future(self, checksum: Checksum | str) -> Future:
        """Like `get_fat_checksum_future`; recomputes a buffer that cannot be found."""
        return self._fetcher.of_checksum(Checksum(checksum).hex(), fingertip=True)

    # -- caches ------------------------------------------------------------------

    def _schedule_pruning(self) -> None:
        """Schedule `_prune` unless it is scheduled already. Called on the loop."""
        if not self._pruning:
            self._pruning = True
            self.loop.call_later(CACHE_TTL / 4, self._prune)

    def _prune(self) -> None:
        deadline = time.monotonic() - CACHE_TTL
        self._pruning = False
        with self._lock:
            self._registry.prune(deadline)
            again = recent_buffers.forget(deadline) or not self._registry.idle
        if again:
            self._schedule_pruning()

    def status(self) -> Awaitable[dict[str, Any]]:
        """Ask the scheduler's plugin for its state; await on any loop."""
        return asyncio.wrap_future(self.start(scheduler.status(self.client)))

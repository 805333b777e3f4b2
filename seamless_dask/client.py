"""The client: submits transformations to a Dask cluster and keeps track of them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from distributed import Client
from seamless import Buffer, Checksum

from scheduler_ext.messages import PUSH_RESULT
from scheduler_ext.task_keys import (
    NESTED_RESOURCE,
    TOP_LEVEL_RESOURCE,
    buffer_key,
    fat_key,
    name_and_attempt,
    task_key_of,
)

from .cluster import record_mode, scheduler, selection
from .cluster.inner import InnerLeases
from .neighbours import (
    bounded_tables,
    connections,
    event_loops,
    fewer_requests,
    own_random,
)
from .neighbours.services import of_current_stage
from .storage import serialization
from .storage.recent import recent_buffers
from .submit import forked_drivers, tasks
from .submit.envelopes import Envelope
from .submit.envelopes import check as check_envelope
from .submit.handles import Entry, FatFuture, Handle, identify
from .submit.ongoing import ClientClosed
from .submit.pace import Pace
from .submit.result_waiter import Results
from .types import TransformationFutures, TransformationResult

if TYPE_CHECKING:
    from distributed import Future

    from .types import TransformationSubmission

__all__ = ["SeamlessDaskClient"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: seconds that a finished task and a buffer stay cached after their last use
CACHE_TTL = 10.0
#: Dask priority of tasks that only fetch a buffer: ahead of everything else
FETCH_PRIORITY = 1_000_000
#: set for processes that run inside a transformation; see `SeamlessDaskClient`
SCHEDULER_ENV = "SEAMLESS_DASK_SCHEDULER"

assert serialization  # imported to register the handlers for Buffer


class SeamlessDaskClient:
    """Submits transformations to the cluster of a `distributed.Client`.

    Parameters
    ----------
    dask_client
        A synchronous client; it stays the caller's.
    worker_plugin_workers
        Seamless processes that each Dask worker is to run.
    remote_clients
        The hashservers and databases that workers use, as
        ``seamless_config.extern_clients.collect_remote_clients`` returns them. None:
        take part in a cluster that somebody else has configured.
    is_local_cluster, interactive
        What the launcher knows of the cluster; informative.
    role
        ``"driver"``: of a user's process. ``"worker"``: of a Dask worker, for the
        nested work of its transformations. ``"inner"``: of a process that a
        transformation has started (for instance ``seamless-run`` in a bash job): what
        it submits is nested work. Default: ``"inner"`` when the environment names the
        scheduler of the surrounding worker and `remote_clients` is None, otherwise
        ``"driver"``.
    on_detach
        Called without arguments when the client stops being the one of this process.
    local_results
        Looks up a finished task's result in this process by its key; a client in a
        Dask worker need not have its own worker's results sent to it.

    Raises
    ------
    RuntimeError
        If the scheduler runs without the Seamless plugin and does not let clients
        install it, or with the plugin of another version. If the cluster's record
        mode is not that of this process.
    """

    def __init__(
        self,
        dask_client: Client,
        *,
        worker_plugin_workers: int = 1,
        remote_clients: Mapping[str, Any] | None = None,
        is_local_cluster: bool = False,
        interactive: bool = False,
        role: Literal["driver", "worker", "inner"] | None = None,
        on_detach: Callable[[], None] | None = None,
        local_results: Callable[[Any], Any] | None = None,
    ) -> None:
        if role is None:
            surrounded = SCHEDULER_ENV in os.environ and remote_clients is None
            role = "inner" if surrounded else "driver"
        #: a forked process has the object, but not the threads that serve it
        self._process = os.getpid()
        self.client = dask_client
        self.role: Literal["driver", "worker", "inner"] = role
        self.worker_plugin_workers = int(worker_plugin_workers)
        if role == "driver" and remote_clients is not None:
            remote_clients = of_current_stage(remote_clients)
        self.remote_clients = remote_clients
        self.is_local_cluster = bool(is_local_cluster)
        self.interactive = bool(interactive)
        self._on_detach = on_detach
        self._lock = threading.RLock()
        #: keeps submissions from piling up before the scheduler
        self.pace = Pace(dask_client)
        self._results = Results(dask_client, local_results, self.pace)
        self._entries: dict[str, Entry] = {}
        self._by_checksum: dict[str, Entry] = {}
        self._attempts: dict[str, tuple[int, float]] = {}
        self._pruning = False
        self._background: set[asyncio.Task[None]] = set()
        loop: Any = dask_client.loop
        self._loop: asyncio.AbstractEventLoop = loop.asyncio_loop
        #: what the process must ask before it submits; None: it may submit at will
        self.inner = InnerLeases(dask_client) if role == "inner" else None
        bounded_tables.bound_tables(worker=role == "worker")
        event_loops.install()
        own_random.install()
        dask_client._stream_handlers[PUSH_RESULT] = self._on_result
        fewer_requests.install()
        connections.install()
        #: the cluster's record mode, which a driver must have as well
        self.record: bool | None = None
        if role == "driver":
            self.record = record = record_mode.of_this_process()
            scheduler.ensure_plugin(dask_client)
            scheduler.ensure_record_mode(dask_client, record)
            scheduler.ensure_worker_plugin(
                dask_client,
                processes=self.worker_plugin_workers,
                remote_clients=remote_clients,
                record=record,
                selection=selection.current(),
            )
            self.start(bounded_tables.evict_buffers())

    # -- calls between threads ---------------------------------------------------

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop on which the client works, in a thread of its own."""
        return self._loop

    def start(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run a coroutine on the client's loop.

        Raises
        ------
        ForkedDriverError
            In a process that was forked from the one that has made the client.
        ClientClosed
            If the Dask client is closed.
        """
        try:
            forked_drivers.check(self._process)
            if not self._loop.is_running():
                raise ClientClosed
        except (forked_drivers.ForkedDriverError, ClientClosed):
            coroutine.close()
            raise
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _on_loop(self) -> bool:
        """Whether the calling thread is that of the client's loop."""
        return threading.get_ident() == getattr(self._loop, "_thread_id", None)

    def _start_here(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Like `start`, but without a detour if this is the loop's thread."""
        if not self._on_loop():
            self.start(coroutine)
            return
        task = self._loop.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # -- submission --------------------------------------------------------------

    def submit_transformation(
        self,
        submission: TransformationSubmission,
        need_fat: bool = False,
        priority_boost: int = 0,
    ) -> TransformationFutures:
        """Submit a transformation, or join the submission of the same one.

        Returns at once; any thread may call.

        Parameters
        ----------
        submission
            What is to run.
        need_fat
            Also give a future of the result's buffer.
        priority_boost
            Above 0 for nested work: its depth in the tree of transformations. Deeper
            work runs first, and nested work does not take the units of top-level
            work.

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
        forked_drivers.check(self._process)
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
        )
        unit = NESTED_RESOURCE if nested or identity.driver else TOP_LEVEL_RESOURCE
        with self._lock:
            if submission.strict_dunder:
                self._check_envelope(submission)
            entry = self._entry_for_reuse(identity.key)
            if entry is None:
                entry = self._submit_base(
                    job,
                    list(dependencies.values()),
                    {**identity.resources, unit: 1},
                )
            futures = self._handles(entry)
        if need_fat:
            futures.fat = self.ensure_fat_future(futures)
        return futures

    def _check_envelope(self, submission: TransformationSubmission) -> None:
        checksum = submission.tf_checksum
        if checksum is None:
            return  # nothing can be known to be the same
        active = [
            entry.envelope
            for entry in self._entries.values()
            if entry.tf_checksum == checksum and not entry.outcome.done()
        ]
        own = Envelope(submission.tf_dunder, submission.scratch)
        check_envelope(checksum, own, active)

    def _entry_for_reuse(self, key: str) -> Entry | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.failed():
            self._forget(entry)
            attempt, _ = self._attempts.get(key, (0, 0.0))
            self._attempts[key] = attempt + 1, time.monotonic()
            return None
        entry.last_used = time.monotonic()
        return entry

    def task_key(self, submission: TransformationSubmission) -> str:
        """Return the key that the Dask task of a submission has, or would have now.

        Raises
        ------
        ValueError
            If the required resources are malformed.
        """
        name = identify(submission).key
        with self._lock:
            entry = self._entries.get(name)
            if entry is not None and not entry.failed():
                return entry.key
            attempt, _ = self._attempts.get(name, (0, 0.0))
            return task_key_of(name, attempt if entry is None else attempt + 1)

    def _submit_base(
        self, job: tasks.Job, dependencies: list[Entry], resources: dict[str, float]
    ) -> Entry:
        name = job.key
        attempt, _ = self._attempts.get(name, (0, 0.0))
        job = replace(job, key=task_key_of(name, attempt))

        def submit() -> Future:
            return self.client.submit(
                tasks.run_transformation,
                job,
                *(self._results.as_argument(dependency) for dependency in dependencies),
                key=job.key,
                priority=job.depth,
                resources=resources,
                pure=False,
            )

        envelope = Envelope(job.tf_dunder, job.scratch)
        entry = Entry(name, job.key, job.tf_checksum, submit, submit(), envelope)
        self.pace.sent()
        self._entries[name] = entry
        if job.tf_checksum is not None:
            self._by_checksum[job.tf_checksum] = entry
        self._start_here(self._watch(entry))
        return entry

    def _handles(self, entry: Entry) -> TransformationFutures:
        return TransformationFutures(
            base=Handle(self, entry, lambda result: result),
            thin=Handle(self, entry, TransformationResult.thin),
            tf_checksum=entry.tf_checksum,
            entry=entry,
        )

    def _on_result(self, key: str, result: dict[str, Any]) -> None:
        """Take a result that a worker has sent with the end of a task."""
        entry = self._entries.get(name_and_attempt(key)[0])
        if entry is not None and entry.key == key:
            entry.pushed = TransformationResult(**result)

    async def _watch(self, entry: Entry) -> None:
        outcome = entry.outcome
        try:
            result = await self._results.of(entry)
        except (asyncio.CancelledError, concurrent.futures.CancelledError):
            outcome.cancel()
        except Exception as exc:  # noqa: BLE001 - every way a task can fail ends here
            # What fails with the connection is told to those who wait for it.
            ended = isinstance(exc, ConnectionError)
            level = logging.INFO if ended else logging.WARNING
            logger.log(level, "Task %s failed: %r", entry.key, exc)
            if not outcome.cancelled():
                outcome.set_result(
                    TransformationResult(
                        entry.tf_checksum, None, f"Task {entry.key} failed: {exc!r}\n"
                    )
                )
        else:
            if result.content is not None and result.result_checksum is not None:
                recent_buffers.remember(
                    Buffer(result.content, checksum=Checksum(result.result_checksum))
                )
            if not outcome.cancelled():
                outcome.set_result(result)
            if result.tf_checksum is not None:
                with self._lock:
                    if self._entries.get(entry.name) is entry:
                        entry.tf_checksum = result.tf_checksum
                        self._by_checksum[result.tf_checksum] = entry
        entry.last_used = time.monotonic()
        self._schedule_pruning()

    # -- handles -----------------------------------------------------------------

    def _hold(self, entry: Entry) -> None:
        with self._lock:
            entry.holders += 1

    def _unhold(self, entry: Entry, *, cancel: bool) -> None:
        if os.getpid() != self._process:
            return  # it is the parent's
        with self._lock:
            entry.holders -= 1
            abandoned = cancel and entry.holders <= 0 and not entry.outcome.done()
            if abandoned:
                self._forget(entry)
        if abandoned:
            entry.outcome.cancel()

    def _forget(self, entry: Entry) -> None:
        """Drop an entry from the registry. Called with the lock held."""
        if self._entries.get(entry.name) is entry:
            del self._entries[entry.name]
        checksum = entry.tf_checksum
        if checksum is not None and self._by_checksum.get(checksum) is entry:
            del self._by_checksum[checksum]
        entry.anchor.release()

    def get_transformation_futures(
        self, tf_checksum: Checksum | str
    ) -> TransformationFutures | None:
        """Return new handles on a transformation that this client knows, or None."""
        checksum = Checksum(tf_checksum).hex()
        with self._lock:
            entry = self._by_checksum.get(checksum)
            if entry is None:
                return None
            entry.last_used = time.monotonic()
            return self._handles(entry)

    @property
    def defers(self) -> bool:
        """Whether a task may be submitted before its inputs are known."""
        return self.inner is None

    async def keep_pace(self) -> None:
        """Wait until the scheduler has taken in most of what was submitted."""
        await self.pace.keep()

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
            What `submit_transformation` or `get_transformation_futures` returned.
        cancel
            Cancel what has not ended and is not wanted by anybody else. Finished
            work, and other callers' handles, are not affected.
        """
        if futures.fat is not None:
            futures.fat.release()
        for handle in (futures.base, futures.thin):
            if handle is not None:
                handle.release(cancel=cancel)

    def cancel_by_checksum(self, tf_checksum: Checksum | str) -> bool:
        """Cancel a transformation wherever it runs or waits, for everybody.

        Any thread may call, also one with a running event loop; the call takes at
        most five seconds.

        Returns
        -------
        bool
            Whether there was anything to cancel.
        """
        forked_drivers.check(self._process)
        checksum = Checksum(tf_checksum).hex()
        with self._lock:
            entry = self._by_checksum.get(checksum)
            pending = entry is not None and not entry.outcome.done()
            if entry is not None and pending:
                self._forget(entry)
        if entry is not None and pending:
            entry.outcome.cancel()
        request = self.start(self._cancel_on_scheduler(checksum))
        if self._on_loop():
            return pending
        return bool(request.result(timeout=5)) or pending

    async def _cancel_on_scheduler(self, checksum: str) -> list[str]:
        keys = await scheduler.cancel(self.client, [checksum])
        # Dask will tell all clients, by key. That must not hit a task that is
        # submitted before the message arrives here.
        now = time.monotonic()
        with self._lock:
            for key in keys:
                name, attempt = name_and_attempt(key)
                known, _ = self._attempts.get(name, (0, 0.0))
                self._attempts[name] = max(known, attempt + 1), now
        self._schedule_pruning()
        return keys

    # -- buffers -----------------------------------------------------------------

    def ensure_fat_future(self, futures: TransformationFutures) -> FatFuture:
        """Return a future of the result's buffer; any thread, no waiting."""
        return self._fat_of_entry(futures.entry, fingertip=False)

    def ensure_fat_finger_future(self, futures: TransformationFutures) -> FatFuture:
        """Like `ensure_fat_future`; a buffer that is nowhere is recomputed."""
        return self._fat_of_entry(futures.entry, fingertip=True)

    def get_fat_checksum_future(self, checksum: Checksum | str) -> Future:
        """Have the buffer of a checksum fetched; any thread, no waiting.

        Returns
        -------
        distributed.Future
            Its result is ``(checksum, buffer, error)``: 64 hexadecimal digits, a
            `seamless.Buffer` and None; or the digits, None and a text if the buffer is
            nowhere. It may be given to other Dask tasks.
        """
        return self._fetch_checksum(checksum, fingertip=False)

    def get_fat_finger_checksum_future(self, checksum: Checksum | str) -> Future:
        """Like `get_fat_checksum_future`; a buffer that is nowhere is recomputed."""
        return self._fetch_checksum(checksum, fingertip=True)

    def _fetch_checksum(self, checksum: Checksum | str, *, fingertip: bool) -> Future:
        digits = Checksum(checksum).hex()
        return self._submit_fetch(
            tasks.fetch_checksum, buffer_key(digits), digits, fingertip
        )

    def _fat_of_entry(self, entry: Entry, *, fingertip: bool) -> FatFuture:
        return FatFuture(
            lambda: self._submit_fetch(
                tasks.fetch_buffer, fat_key(entry.key), entry.anchor, fingertip
            ),
            entry,
        )

    def _submit_fetch(
        self,
        fetch: Callable[..., Any],
        key: str,
        source: Future | str,
        fingertip: bool,
    ) -> Future:
        forked_drivers.check(self._process)
        key = f"{key}-finger" if fingertip else key
        return self.client.submit(
            fetch,
            source,
            fingertip,
            key,
            key=key,
            priority=FETCH_PRIORITY,
            resources={NESTED_RESOURCE: 1},
            pure=False,
        )

    # -- caches ------------------------------------------------------------------

    def _schedule_pruning(self) -> None:
        """Arrange for `_prune` while anything is cached. Called on the loop."""
        if not self._pruning:
            self._pruning = True
            self._loop.call_later(CACHE_TTL / 4, self._prune)

    def _prune(self) -> None:
        deadline = time.monotonic() - CACHE_TTL
        self._pruning = False
        with self._lock:
            for entry in list(self._entries.values()):
                if entry.outcome.done() and entry.last_used < deadline:
                    self._forget(entry)
            for name in [n for n, v in self._attempts.items() if v[1] < deadline]:
                del self._attempts[name]
            recent = recent_buffers.forget(deadline)
            again = recent or self._entries or self._attempts
        if again:
            self._schedule_pruning()

    # -- the end -----------------------------------------------------------------

    def detached(self) -> None:
        """React to not being the client of this process any longer."""
        on_detach, self._on_detach = self._on_detach, None
        if on_detach is not None and os.getpid() == self._process:
            on_detach()

    def status(self) -> Awaitable[dict[str, Any]]:
        """Ask the scheduler's plugin for its state; await on any loop."""
        return asyncio.wrap_future(self.start(scheduler.status(self.client)))

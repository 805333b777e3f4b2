"""Computes a tree of Transformation objects on the cluster.

Everything here runs on the client's event loop, so any number of transformations can
be under way without a thread each.
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seamless_transformer.run import _driver_context
from seamless_transformer.transformation_cache import TransformationCancelledError

from ..cluster import record_mode, scheduler
from ..errors import TransformationError, Unavailable
from ..neighbours import connections
from ..neighbours import transformation as definition
from ..neighbours.pins import checksums_in
from ..storage.cache import await_pending_uploads, contents_at_hand
from ..storage.database import known_result
from ..storage.recent import recent_buffers
from ..types import TransformationFutures, TransformationResult
from ..types import TransformationSubmission as Submission
from . import handles, optional
from .identity import is_driver
from .other_clients import Guest
from .submissions import checksums_of, deferred_submission_of, submission_of

if TYPE_CHECKING:
    from .submitter import Submitter


@dataclass(frozen=True)
class Submitted:
    """A transformation has a task on the cluster."""

    futures: TransformationFutures


@dataclass(frozen=True)
class Settled:
    """A transformation has come to an end, and has no task to wait for.

    Parameters
    ----------
    result
        The outcome to put into the transformation; None: that has been done.
    cancelled
        Whether it was cancelled.
    """

    result: TransformationResult | None = None
    cancelled: bool = False


def _failed(error: str) -> Settled:
    return Settled(TransformationResult(None, None, error))


@dataclass(eq=False)
class _Node:
    """A transformation of the tree that has no result yet."""

    transformation: Any
    #: its submission, which ends when it has a task or needs none
    submission: asyncio.Task[Submitted | Settled]


async def evaluate(
    client: Submitter | Guest,
    transformation: Any,
    *,
    driver_context: bool = False,
) -> None:
    """Compute a transformation and its dependencies; put the outcome into each.

    Parameters
    ----------
    client
        The client of the cluster.
    transformation
        A `seamless_transformer.Transformation`.
    driver_context
        Whether a driver transformation asks for it.

    Raises
    ------
    asyncio.CancelledError
        If it was cancelled, here or elsewhere.
    """
    if definition.is_settled(transformation):
        return
    evaluation = _Evaluation(client, driver_context)
    with _waiting(client):
        nodes = evaluation.start(transformation)
        try:
            await evaluation.finish(nodes, transformation)
        except asyncio.CancelledError:
            for node in nodes:
                node.submission.cancel()
                evaluation.abandon(node.transformation)
            raise


async def submit(
    client: Submitter | Guest,
    transformation: Any,
    *,
    driver_context: bool = False,
) -> None:
    """Submit a transformation and its dependencies, without waiting for results."""
    nodes = _Evaluation(client, driver_context).start(transformation)
    await asyncio.gather(*(node.submission for node in nodes))


def _waiting(client: Submitter | Guest) -> contextlib.AbstractContextManager[None]:
    """Count a wait of a driver script, whose progress may be shown."""
    if isinstance(client, Guest):
        return contextlib.nullcontext()
    return client.progress.waiting()


class _Evaluation:
    def __init__(self, client: Submitter | Guest, driver_context: bool) -> None:
        self._client = client
        self._driver_context = driver_context
        self._nodes: dict[int, _Node] = {}
        #: of the transformations that have ended, as they were counted
        self._counted: set[int] = set()
        self._futures: dict[int, TransformationFutures] = {}

    def abandon(self, transformation: Any) -> None:
        """Release a transformation's task; mark it if that was cancelled elsewhere."""
        futures = self._futures.pop(id(transformation), None)
        if futures is None:
            return
        if transformation._dask_futures is futures:
            transformation._dask_futures = None
        if futures.base.cancelled() and not transformation._cancelled:
            transformation._mark_cancelled()
        self._client.release_transformation_futures(futures, cancel=True)

    def _settle(self, transformation: Any, outcome: Settled) -> None:
        """Put the outcome into a transformation, and release its task."""
        self._count(transformation, outcome)
        if outcome.cancelled:
            transformation._mark_cancelled()
        if outcome.result is None:
            return
        definition.apply(transformation, outcome.result)
        futures = self._futures.pop(id(transformation), None)
        if futures is None:
            return
        if transformation._dask_futures is futures:
            transformation._dask_futures = handles.ended(futures, outcome.result)
        self._client.release_transformation_futures(futures, cancel=False)

    def _count(self, transformation: Any, outcome: Settled) -> None:
        """Count the end of a transformation, once."""
        if isinstance(self._client, Guest) or id(transformation) in self._counted:
            return
        self._counted.add(id(transformation))
        counts, result = self._client.progress.counts, outcome.result
        counts.done += 1
        if result is not None and result.error is not None:
            counts.failed += 1
        elif result is not None:
            has_task = id(transformation) in self._futures
            counts.cached += result.cached or not has_task

    def start(self, root: Any) -> list[_Node]:
        """Start the submission of `root` and its dependencies, dependencies first."""
        for transformation in _upstream_first(root):
            task = asyncio.create_task(self._submit(transformation))
            self._nodes[id(transformation)] = _Node(transformation, task)
        if not isinstance(self._client, Guest):
            self._client.progress.counts.total += len(self._nodes)
        return list(self._nodes.values())

    async def finish(self, nodes: list[_Node], root: Any) -> None:
        """Wait for the root, then put the outcome into every transformation."""
        root_node = self._nodes.get(id(root))
        if root_node is None:
            return
        await self._finish(root_node)
        for node in nodes:
            if node is not root_node:
                await self._finish(node)

    async def _finish(self, node: _Node) -> None:
        submission = await node.submission
        if isinstance(submission, Settled):
            return
        try:
            outcome = Settled(await self._client.result_of(submission.futures))
        except Exception:  # noqa: BLE001 - becomes the transformation's exception
            outcome = _failed(traceback.format_exc().strip("\n") + "\n")
        self._settle(node.transformation, outcome)

    async def _submit(self, transformation: Any) -> Submitted | Settled:
        """Submit one transformation, or settle it if it needs no task."""
        try:
            outcome = await self._submitted_or_settled(transformation)
        except (TransformationError, ValueError) as error:
            outcome = _failed(str(error))
        if isinstance(outcome, Settled):
            self._settle(transformation, outcome)
            return outcome
        self._futures[id(transformation)] = outcome.futures
        if not handles.under_way(transformation._dask_futures):
            transformation._dask_futures = outcome.futures
        if transformation._cancelled:
            # It was cancelled before it had a task that `cancel` could reach.
            self.abandon(transformation)
            return Settled()
        return outcome

    async def _submitted_or_settled(self, transformation: Any) -> Submitted | Settled:
        record_mode.check(self._client.record)
        submission = await self._submission(transformation)
        if isinstance(submission, Settled):
            return submission
        client = self._client
        if not optional.is_optional(transformation) or isinstance(client, Guest):
            return Submitted(await self._admitted(submission))
        lease = await optional.has_room(client, submission)
        if lease is None:
            return await self._run_in_this_process(transformation, submission)
        try:
            return Submitted(await self._admitted(submission))
        except BaseException:
            scheduler.release_lease(client.client, lease)
            raise

    async def _admitted(self, submission: Submission) -> TransformationFutures:
        """Submit; a process that a transformation has started gets a lease first."""
        client = self._client
        if (
            isinstance(client, Guest)
            or client.inner is None
            or is_driver(submission.transformation_dict, submission.tf_dunder)
        ):
            return client.submit_transformation(submission)
        inner = client.inner
        lease = await inner.acquire(*client.task_of(submission))
        try:
            futures = client.submit_transformation(
                submission, priority_boost=lease.depth
            )
        except BaseException:
            inner.release(lease)
            raise
        futures.entry.outcome.add_done_callback(lambda _: inner.release(lease))
        return futures

    async def _submission(self, transformation: Any) -> Submission | Settled:
        if transformation._prefer_local_execution():
            await self._compute_locally(transformation)
            return Settled()
        pending = await self._pending(transformation)
        if pending and (
            not self._client.defers  # a lease is for a task that can start
            or definition.has_post_prepare_hook(transformation)
        ):
            await self._await_results(transformation)
            pending = {}
        if not pending and definition.has_post_prepare_hook(transformation):
            await asyncio.to_thread(self._construct, transformation)
        async with connections.place():
            await self._client.keep_pace()
            if pending:
                submission = deferred_submission_of(
                    transformation, pending, driver_context=self._driver_context
                )
            else:
                concrete = await self._concrete_submission(transformation)
                if isinstance(concrete, Settled):
                    return concrete
                submission = concrete
            submission.streams = definition.is_streamed(transformation)
            checksums = checksums_of(submission)
            submission.contents = contents_at_hand(checksums)
            await await_pending_uploads(checksums)
        return submission

    async def _pending(self, transformation: Any) -> dict[str, TransformationFutures]:
        """Return the futures of inputs that are still to be computed."""
        pending = {}
        for name, dependency in definition.dependencies(transformation).items():
            node = self._nodes.get(id(dependency))
            if node is not None and dependency._prefer_local_execution():
                await self._finish(node)
                node = None
            submission = None if node is None else await node.submission
            if isinstance(submission, Submitted):
                pending[name] = submission.futures
            else:
                _check(name, dependency)
        return pending

    async def _await_results(self, transformation: Any) -> None:
        for name, dependency in definition.dependencies(transformation).items():
            node = self._nodes.get(id(dependency))
            if node is not None:
                await self._finish(node)
            _check(name, dependency)

    async def _compute_locally(self, transformation: Any) -> None:
        for dependency in definition.dependencies(transformation).values():
            node = self._nodes.get(id(dependency))
            if node is not None:
                await self._finish(node)
        await asyncio.to_thread(transformation.compute)

    async def _run_in_this_process(
        self, transformation: Any, submission: Submission
    ) -> Settled:
        if submission.tf_checksum is None:
            await self._await_results(transformation)
            concrete = await self._concrete_submission(transformation)
            if isinstance(concrete, Settled):
                return concrete
            submission = concrete
        try:
            return Settled(await optional.run_here(submission))
        except TransformationCancelledError:
            return Settled(cancelled=True)

    async def _concrete_submission(self, transformation: Any) -> Submission | Settled:
        self._construct(transformation)
        tf_checksum = transformation._transformation_checksum
        if tf_checksum is None:
            raise Unavailable(transformation._exception or "Construction failed")
        transformation_dict, tf_dunder = definition.prepared(transformation)
        used = [tf_checksum.hex(), *checksums_in(transformation_dict)]
        recent_buffers.keep_uploaded(used)
        known = await known_result(tf_checksum.hex())
        if known is not None:
            return Settled(TransformationResult(tf_checksum.hex(), known))
        submission = submission_of(
            transformation_dict,
            tf_checksum=tf_checksum.hex(),
            tf_dunder=tf_dunder,
            scratch=transformation.scratch,
            strict_dunder=bool(transformation._strict_dunder),
        )
        may_recompute = definition.may_recompute_inputs(transformation)
        submission.allow_input_fingertip = may_recompute
        return submission

    def _construct(self, transformation: Any) -> None:
        with _driver_context(self._driver_context):
            transformation.construct()


def _upstream_first(root: Any) -> list[Any]:
    """Return the transformations without a result, each after its dependencies."""
    order: list[Any] = []
    seen: set[int] = set()
    stack: list[tuple[Any, bool]] = [(root, False)]
    while stack:
        transformation, expanded = stack.pop()
        if expanded:
            order.append(transformation)
            continue
        if id(transformation) in seen or definition.is_settled(transformation):
            continue
        seen.add(id(transformation))
        stack.append((transformation, True))
        for dependency in definition.dependencies(transformation).values():
            stack.append((dependency, False))
    return order


def _check(name: str, dependency: Any) -> None:
    if dependency._cancelled:
        raise Unavailable(f"Dependency '{name}' was canceled")
    if dependency._exception is not None and dependency._result_checksum is None:
        raise Unavailable(
            f"Dependency '{name}' has an exception:\n{dependency._exception}"
        )

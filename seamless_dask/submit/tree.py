"""Computes a tree of Transformation objects on the cluster.

Everything here runs on the client's event loop, so any number of transformations can
be under way without a thread each.
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from typing import TYPE_CHECKING, Any

from seamless_transformer.transformation_cache import TransformationCancelledError

from ..cluster import record_mode, scheduler
from ..errors import TransformationError, Unavailable
from ..neighbours import connections
from ..neighbours import transformation as definition
from ..types import TransformationFutures, TransformationResult
from ..types import TransformationSubmission as Submission
from . import handles, optional
from .identity import is_driver
from .nodes import Node, Settled, Submitted, node_of
from .other_clients import Guest
from .preparation import Preparation

if TYPE_CHECKING:
    from .submitter import Submitter


def _failed(error: str) -> Settled:
    return Settled(TransformationResult(None, None, error))


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
        evaluation.start(transformation)
        try:
            await evaluation.finish(transformation)
        except asyncio.CancelledError:
            evaluation.cancel()
            raise
        finally:
            evaluation.end()


async def submit(
    client: Submitter | Guest,
    transformation: Any,
    *,
    driver_context: bool = False,
) -> None:
    """Submit a transformation and its dependencies, without waiting for results."""
    evaluation = _Evaluation(client, driver_context)
    evaluation.start(transformation)
    try:
        await asyncio.gather(*evaluation.submissions())
    finally:
        evaluation.end()


def _waiting(client: Submitter | Guest) -> contextlib.AbstractContextManager[None]:
    """Count a wait of a driver script, whose progress may be shown."""
    if isinstance(client, Guest):
        return contextlib.nullcontext()
    return client.progress.waiting()


class _Evaluation:
    def __init__(self, client: Submitter | Guest, driver_context: bool) -> None:
        self._client = client
        self._prepare = Preparation(client.keep_pace, driver_context)
        #: {id of a transformation: its node}, of this evaluation or of another one
        self._nodes: dict[int, Node] = {}
        self._own: set[Node] = set()
        #: ids of the transformations whose end was counted
        self._counted: set[int] = set()
        #: {id of a transformation: its handles}
        self._futures: dict[int, TransformationFutures] = {}
        #: ids of those of them that another evaluation has submitted
        self._shared: set[int] = set()

    def submissions(self) -> list[asyncio.Task[Submitted | Settled]]:
        """The submissions of this evaluation."""
        return [node.submission for node in self._own]

    def cancel(self) -> None:
        """Give up all that no other evaluation wants."""
        for node in self._own:
            node.given_up = True
            node.submission.cancel()
        for node in list(self._nodes.values()):
            self._abandon(node.transformation)

    def end(self) -> None:
        """Let other evaluations find nothing of this one any more."""
        for node in self._own:
            node.withdraw()
        for number in self._shared:
            futures = self._futures.pop(number, None)
            if futures is not None:
                self._client.release_transformation_futures(futures, cancel=False)

    def _abandon(self, transformation: Any) -> None:
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
        node = self._nodes.get(id(transformation))
        if isinstance(self._client, Guest) or node not in self._own:
            return  # the evaluation that has begun it counts it
        if id(transformation) in self._counted:
            return
        self._counted.add(id(transformation))
        counts, result = self._client.progress.counts, outcome.result
        counts.done += 1
        if result is not None and result.error is not None:
            counts.failed += 1
        elif result is not None:
            has_task = id(transformation) in self._futures
            counts.cached += result.cached or not has_task

    def start(self, root: Any) -> None:
        """Start the submission of `root` and its dependencies, dependencies first.

        Dependencies for which another evaluation does that are left to it.
        """

        def ends(transformation: Any) -> bool:
            if definition.is_settled(transformation):
                return True
            node = node_of(transformation, self._client)
            if transformation is root or node is None:
                return False
            self._nodes[id(transformation)] = node
            return True

        for transformation in definition.upstream_first(root, ends):
            task = asyncio.create_task(self._submit(transformation))
            node = Node(transformation, self._client, task)
            self._nodes[id(transformation)] = node
            self._own.add(node)
            if not isinstance(self._client, Guest):
                node.publish()
                self._client.progress.counts.total += 1

    async def finish(self, root: Any) -> None:
        """Wait for the root, then put the outcome into every transformation."""
        root_node = self._nodes.get(id(root))
        if root_node is None:
            return
        await self._finish(root_node)
        for node in list(self._nodes.values()):
            if node is not root_node:
                await self._finish(node)

    async def _submission_of(self, node: Node) -> Submitted | Settled:
        """Wait until a transformation has a task or needs none."""
        transformation = node.transformation
        while node not in self._own:
            if not node.submission.done():
                await asyncio.wait({node.submission})
            if not (node.given_up or node.submission.cancelled()):
                return self._share(transformation, node.submission.result())
            if definition.is_settled(transformation):
                return Settled()
            self.start(transformation)
            node = self._nodes[id(transformation)]
        return await node.submission

    def _share(
        self, transformation: Any, outcome: Submitted | Settled
    ) -> Submitted | Settled:
        """Hold a task that another evaluation has submitted."""
        if isinstance(outcome, Settled) or isinstance(self._client, Guest):
            return outcome
        number = id(transformation)
        if number not in self._futures:
            self._futures[number] = self._client.share(outcome.futures)
            self._shared.add(number)
        return Submitted(self._futures[number])

    async def _finish(self, node: Node) -> None:
        submission = await self._submission_of(node)
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
            self._abandon(transformation)
            return Settled()
        return outcome

    async def _submitted_or_settled(self, transformation: Any) -> Submitted | Settled:
        record_mode.check(self._client.record)
        if transformation._prefer_local_execution():
            await self._compute_locally(transformation)
            return Settled()
        pending = await self._settled_inputs(transformation)
        client = self._client
        if not optional.is_optional(transformation) or isinstance(client, Guest):
            return await self._in_turn(transformation, pending)
        submission = await self._prepare.in_its_place(transformation, pending)
        if isinstance(submission, Settled):
            return submission
        lease = await optional.has_room(client, submission)
        if lease is None:
            return await self._run_in_this_process(transformation, submission)
        try:
            return Submitted(await self._admitted(submission))
        except BaseException:
            scheduler.release_lease(client.client, lease)
            raise

    async def _in_turn(
        self, transformation: Any, pending: dict[str, TransformationFutures]
    ) -> Submitted | Settled:
        """Submit when there is room; before that, if possible, look for a result.

        It is looked for again after it has waited: another transformation may have called
        the same one.
        """
        client = self._client
        submission: Submission | Settled | None = None
        async with connections.place():
            if not client.is_crowded:
                submission = await self._prepare.submission(transformation, pending)
        if isinstance(submission, Settled):
            return submission
        waited = await client.admit()
        try:
            if submission is None or waited:
                submission = await self._prepare.in_its_place(transformation, pending)
            if isinstance(submission, Settled):
                return submission
            return Submitted(await self._admitted(submission))
        finally:
            client.submitted()

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

    async def _settled_inputs(
        self, transformation: Any
    ) -> dict[str, TransformationFutures]:
        """Wait until the inputs are submitted, or have ended if they must have.

        Returns the futures of those that have not ended.
        """
        pending = await self._pending(transformation)
        if pending and (
            not self._client.defers  # a lease is for a task that can start
            or definition.has_post_prepare_hook(transformation)
        ):
            await self._await_results(transformation)
            pending = {}
        if not pending and definition.has_post_prepare_hook(transformation):
            await asyncio.to_thread(self._prepare.construct, transformation)
        return pending

    async def _pending(self, transformation: Any) -> dict[str, TransformationFutures]:
        """Return the futures of inputs that are still to be computed."""
        pending = {}
        for name, dependency in definition.dependencies(transformation).items():
            node = self._nodes.get(id(dependency))
            if node is not None and dependency._prefer_local_execution():
                await self._finish(node)
                node = None
            submission = None if node is None else await self._submission_of(node)
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
            concrete = await self._prepare.concrete(transformation)
            if isinstance(concrete, Settled):
                return concrete
            submission = concrete
        try:
            return Settled(await optional.run_here(submission))
        except TransformationCancelledError:
            return Settled(cancelled=True)


def _check(name: str, dependency: Any) -> None:
    if dependency._cancelled:
        raise Unavailable(f"Dependency '{name}' was canceled")
    if dependency._exception is not None and dependency._result_checksum is None:
        raise Unavailable(
            f"Dependency '{name}' has an exception:\n{dependency._exception}"
        )

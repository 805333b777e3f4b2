"""The methods that Dask adds to `seamless_transformer.Transformation`.

The class is a base of Transformation and is imported by every Seamless process, so
everything that needs Dask is imported when it is first used.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from .submit.forked_drivers import ForkedClient, ForkedDriverError
from .submit.ongoing import ClientClosed, Ongoing, stop

if TYPE_CHECKING:
    from seamless import Checksum

    from .submit.nodes import Node
    from .submit.streamed import Streamed
    from .submit.submitter import Submitter
    from .types import TransformationFutures


class TransformationDaskMixin:
    """Computes a transformation on the Dask cluster of this process's client."""

    #: this transformation's own handles while it is submitted; afterwards they only
    #: hold the key of the task, ``_dask_futures.base.key``
    _dask_futures: TransformationFutures | None = None
    #: the evaluation that was started last
    _dask_evaluation: Ongoing | None = None
    #: where the evaluation under way finds it
    _dask_node: Node | None = None
    #: what `start` has made to await the evaluation
    _computation_task: Any = None
    _streaming = False

    def __init_subclass__(cls, **options: Any) -> None:
        """Prepare the process: seamless-transformer makes its Transformation class.

        It is the only code of ours that runs before a driver script starts services.
        """
        super().__init_subclass__(**options)
        from .neighbours.launcher import make_programs_found

        make_programs_found()

    @property
    def streaming(self) -> bool:
        """Whether the driver script shows the output of this transformation.

        While it runs, with that of the transformations that it calls. It is read when
        the transformation is submitted, and changes no checksum and no result.

        Raises
        ------
        TypeError
            If it is set to anything but True or False.
        """
        return self._streaming

    @streaming.setter
    def streaming(self, value: bool) -> None:
        if not isinstance(value, bool):
            raise TypeError(f"streaming: got {value!r}, allowed are True and False")
        self._streaming = value

    def _dask_client(self) -> Submitter:
        """Return the client of this process.

        Raises
        ------
        RuntimeError
            If there is none.
        """
        from .transformer_client import get_seamless_dask_client

        client = get_seamless_dask_client()
        if client is None:
            raise RuntimeError(
                "No Seamless Dask client is set in this process: select a cluster with "
                "'remote: daskserver', or call set_seamless_dask_client"
            )
        return client

    def _start_evaluation(self) -> Ongoing:
        """Start to evaluate the transformation on the client's event loop.

        Raises
        ------
        ClientClosed, ForkedDriverError
            If the client is closed, or belongs to the process from which this one was
            forked.
        """
        from seamless_transformer.run import is_driver_context

        chosen = self._dask_client()
        if isinstance(chosen, ForkedClient):
            raise chosen.error
        from .submit.other_clients import adapt
        from .submit.tree import evaluate

        client = adapt(chosen)
        evaluation = evaluate(client, self, driver_context=is_driver_context())
        try:
            running = client.begin(evaluation)
            self._dask_evaluation = ongoing = Ongoing(running, client.loop)
        except (KeyboardInterrupt, SystemExit):
            # It may be with the client already, and what would cancel it is lost.
            stop(evaluation, client.loop)
            raise
        return ongoing

    def _give_up(self, running: Ongoing | None) -> None:
        """End an evaluation because its caller was interrupted, or cancelled.

        Parameters
        ----------
        running
            The evaluation; None stands for the last one.
        """
        latest = self._dask_evaluation
        if running is None or running is latest:
            running = latest
            # First: who waits for it as well begins another one.
            self._dask_evaluation = self._computation_task = None
        if running is not None:
            running.give_up()

    def _begins_anew(self, running: Ongoing) -> bool:
        """Whether an evaluation was given up by a caller, but not by all."""
        return running.given_up and running.cancelled() and not self._is_cancelled()

    def _failed(self, error: Exception) -> None:
        """Mark the transformation as failed: no client evaluates it."""
        from .neighbours import transformation

        if not transformation.is_settled(self):
            transformation.fail(self, f"{error}\n")

    def _end_evaluation(self, futures: TransformationFutures | None) -> None:
        """Stop the evaluation of a cancelled transformation.

        Parameters
        ----------
        futures
            The handles that the transformation had when it was cancelled.
        """
        running, self._dask_evaluation = self._dask_evaluation, None
        if running is not None:
            running.cancel()
        if futures is not None:
            from .submit.other_clients import adapt
            from .transformer_client import get_seamless_dask_client

            client = get_seamless_dask_client()
            if client is not None:
                adapt(client).release_transformation_futures(futures, cancel=True)

    def _compute_with_dask(self, require_value: bool) -> Checksum | None:
        """Compute on the cluster; blocks the calling thread.

        Parameters
        ----------
        require_value
            The value must be obtainable as well, not only its checksum.

        Returns
        -------
        Checksum or None
            None on failure or cancellation; the transformation then holds the
            exception.
        """
        running = None
        try:
            running = self._start_evaluation()
            return self._wait_for(running, require_value)
        except (ClientClosed, ForkedDriverError) as error:
            self._failed(error)
            return None
        except BaseException:  # an interrupt, whenever it comes
            self._give_up(running)
            raise

    def _wait_for(self, ongoing: Ongoing, require_value: bool) -> Checksum | None:
        try:
            ongoing.result()
        except concurrent.futures.CancelledError:
            if self._begins_anew(ongoing):
                return self._compute_with_dask(require_value)
            return self._abandoned()
        except (ClientClosed, ForkedDriverError) as error:
            self._failed(error)
            return None
        streamed = self._streamed()
        if streamed is not None:
            streamed.catch_up()
        if require_value:
            self._require_value_sync()
        return self._outcome()

    def _streamed(self) -> Streamed | None:
        """Return what shows streamed output here, None if there was none."""
        from .transformer_client import get_seamless_dask_client

        streamed = getattr(get_seamless_dask_client(), "streamed", None)
        return streamed if streamed is not None and streamed.shown else None

    def _compute_with_dask_async(
        self, require_value: bool
    ) -> Coroutine[Any, Any, Checksum | None]:
        """Compute on the cluster, for `start`; see `_compute_with_dask`.

        Cancelling the coroutine cancels the evaluation. An interrupt does not: it is in
        the background. The evaluation starts at once, not when the coroutine is first
        awaited: in a synchronous script, `start` makes it a task on an event loop that
        does not run yet.
        """
        from .neighbours.transformation_methods import Begun

        try:
            running = self._start_evaluation()
        except (ClientClosed, ForkedDriverError) as error:
            self._failed(error)
            return _nothing()

        return Begun(_Awaited(self, running, require_value))

    async def _computation_with_dask(self, require_value: bool) -> Checksum | None:
        """Compute on the cluster, or wait for what `start` has begun.

        Cancelling the asyncio task that awaits it cancels the evaluation.
        """
        while True:
            started = self._dask_evaluation if self._computation_task else None
            running = started
            try:
                if running is None:
                    running = self._start_evaluation()
                outcome = await self._await_evaluation(running, require_value)
            except (ClientClosed, ForkedDriverError) as error:
                self._failed(error)
                return None
            except (KeyboardInterrupt, SystemExit):
                # It came in a step of this asyncio task, which ends. Its loop may go on.
                if started is None:
                    self._give_up(running)
                raise
            if not self._begins_anew(running):
                self._computation_task = None
                return outcome

    async def _await_evaluation(
        self, running: Ongoing, require_value: bool
    ) -> Checksum | None:
        try:
            await running.wait()
        except (ClientClosed, ForkedDriverError) as error:
            self._failed(error)
            return None
        except asyncio.CancelledError as error:
            self._interrupted(running, error)
            return None
        if self._begins_anew(running):
            return None
        if running.cancelled():  # from elsewhere: our asyncio task was not cancelled
            return self._abandoned()
        running.result()
        streamed = self._streamed()
        if streamed is not None:
            await asyncio.to_thread(streamed.catch_up)
        if require_value:
            await self._ensure_result_value()  # type: ignore[attr-defined]
        return self._outcome()

    def _interrupted(self, running: Ongoing, error: asyncio.CancelledError) -> None:
        """Stop an evaluation because the asyncio task that awaits it is cancelled.

        Raises
        ------
        asyncio.CancelledError
            Unless the transformation itself was cancelled.
        """
        if not getattr(self, "_cancel_requested", False):
            self._give_up(running)
            raise error
        running.cancel()
        self._abandoned()

    def _ensure_dask_futures(
        self, client: Submitter | None = None, **_options: Any
    ) -> TransformationFutures | None:
        """Submit the transformation unless it is under way; return its handles."""
        from .submit.handles import under_way

        if not under_way(self._dask_futures):
            from .submit.other_clients import adapt
            from .submit.tree import submit

            chosen = adapt(self._dask_client() if client is None else client)
            chosen.start(submit(chosen, self)).result()
        return self._dask_futures

    def _require_value_sync(self) -> None:
        if self._outcome() is None:
            return
        asyncio.run(self._ensure_result_value())  # type: ignore[attr-defined]

    def _is_cancelled(self) -> bool:
        return bool(getattr(self, "_cancelled", False))

    def _abandoned(self) -> Checksum | None:
        """Mark as cancelled: the evaluation was, by `cancel` or from elsewhere."""
        if not self._is_cancelled():
            self._mark_cancelled()  # type: ignore[attr-defined]
        return None

    def _outcome(self) -> Checksum | None:
        return getattr(self, "_result_checksum", None)


class _Awaited:
    """An evaluation that is under way, as a coroutine needs it; there may be many."""

    __slots__ = ("_require_value", "_running", "_transformation")

    def __init__(
        self,
        transformation: TransformationDaskMixin,
        running: Ongoing,
        require_value: bool,
    ) -> None:
        self._transformation = transformation
        self._running = running
        self._require_value = require_value

    def wait(self) -> Coroutine[Any, Any, Checksum | None]:
        return self._transformation._await_evaluation(
            self._running, self._require_value
        )

    def interrupted(self, error: asyncio.CancelledError) -> None:
        self._transformation._interrupted(self._running, error)


async def _nothing() -> None:
    """Return None; awaited instead of an evaluation that could not start."""

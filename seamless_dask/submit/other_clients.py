"""Supports clients that other code implements.

Any object with the documented methods of `SeamlessDaskClient` can be the client of a
process: a wrapper around ours, a client for tests, a client that submits elsewhere.
`adapt` adds the methods that `seamless_dask.submit.tree` needs.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from ..neighbours.event_loops import ThreadLoop
from ..types import TransformationResult
from .handles import until_done
from .submitter import Submitter

if TYPE_CHECKING:
    from ..types import TransformationFutures, TransformationSubmission

T = TypeVar("T")


class Guest:
    """A client that only has the documented methods.

    Parameters
    ----------
    client
        Has ``submit_transformation(submission)``, whose futures have ``base`` and
        ``thin``; may have ``release_transformation_futures(futures, cancel=...)``.
    """

    #: record mode is not checked
    record = None
    #: whether a task may be submitted before its inputs are known
    defers = False

    def __init__(self, client: Any) -> None:
        self._client = client

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop on which evaluations run, the same for all guests."""
        return _loop()

    def start(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run a coroutine on `loop`."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def begin(
        self, evaluation: Coroutine[Any, Any, None]
    ) -> concurrent.futures.Future[None]:
        """Run an evaluation on `loop`."""
        return self.start(evaluation)

    def submit_transformation(
        self, submission: TransformationSubmission
    ) -> TransformationFutures:
        """Submit a transformation whose inputs are all known."""
        futures: TransformationFutures = self._client.submit_transformation(submission)
        return futures

    async def keep_pace(self) -> None:
        """Do nothing: limiting the submissions is left to the client."""

    #: limiting the tasks that have not ended is left to the client as well
    is_crowded = False

    async def admit(self) -> bool:
        """Return False: nothing is kept back."""
        return False

    def submitted(self) -> None:
        """Do nothing, as `admit`."""

    async def result_of(self, futures: TransformationFutures) -> TransformationResult:
        """Wait for the end of a transformation.

        Raises
        ------
        asyncio.CancelledError
            If it was cancelled.
        Exception
            The exception that the future has raised.
        """
        thin = futures.thin
        if not thin.done():
            if hasattr(thin, "add_done_callback"):
                await until_done(thin)
            else:
                await asyncio.to_thread(_wait, thin)
        if thin.cancelled():
            raise asyncio.CancelledError("the future was cancelled")
        tf_checksum, result_checksum, error = thin.result()
        if error:
            text = error if isinstance(error, str) else repr(error)
            return TransformationResult(tf_checksum, None, text)
        return TransformationResult(tf_checksum, result_checksum)

    def release_transformation_futures(
        self, futures: TransformationFutures, cancel: bool = False
    ) -> None:
        """Release futures of `submit_transformation`, if the client supports that."""
        release = getattr(self._client, "release_transformation_futures", None)
        if release is not None:
            release(futures, cancel=cancel)


def adapt(client: Any) -> Submitter | Guest:
    """Return a client that has the methods which `seamless_dask.submit.tree` needs."""
    return client if isinstance(client, Submitter) else Guest(client)


def _wait(future: Any) -> None:
    """Block until a future without callbacks has ended, successfully or not."""
    try:
        future.result()
    except BaseException:  # noqa: B036 - the caller calls `result` again
        if not (future.done() or future.cancelled()):
            raise


_lock: threading.Lock
_own_loop: ThreadLoop | None


def _forget() -> None:
    """A forked process has no thread that runs the loop, or would free the lock."""
    global _lock, _own_loop
    _lock, _own_loop = threading.Lock(), None


_forget()
os.register_at_fork(after_in_child=_forget)


def _loop() -> ThreadLoop:
    global _own_loop
    with _lock:
        if _own_loop is None:
            _own_loop = ThreadLoop()
        return _own_loop

"""Waits for an evaluation that runs in the thread of a client.

The thread may disappear: the client is closed, or this is a forked process, which has no
threads of its parent. Then the end of the evaluation would never be reported, so waiting
callers check regularly whether its event loop still runs.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os

from .forked_drivers import ForkedDriverError
from .mailbox import mailbox_of

#: seconds between two such checks
LOOK_INTERVAL = 2.0


class Ongoing:
    """An evaluation on another event loop.

    Parameters
    ----------
    future
        Done when the evaluation has ended.
    loop
        The event loop on which it runs.
    """

    def __init__(
        self,
        future: concurrent.futures.Future[None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._future = future
        self._loop = loop
        self._process = os.getpid()

    @property
    def of_parent(self) -> bool:
        """Whether it goes on in the process from which this one was forked."""
        return self._process != os.getpid()

    def cancel(self) -> None:
        """Stop it, unless it has ended."""
        if not self.of_parent and not self._future.done():
            self._future.cancel()

    def cancelled(self) -> bool:
        """Whether it was stopped, by `cancel` or from elsewhere."""
        return self._future.cancelled()

    def result(self) -> None:
        """Block until it has ended.

        Raises
        ------
        concurrent.futures.CancelledError
            If it was cancelled.
        ConnectionError
            If it cannot go on, because the client was closed.
        ForkedDriverError
            If it runs in the parent of this process.
        """
        while not self._future.done():
            self._check()
            concurrent.futures.wait([self._future], LOOK_INTERVAL)
        self._future.result()

    async def wait(self) -> None:
        """Wait until it has ended, successfully or not.

        Raises
        ------
        ConnectionError, ForkedDriverError
            As `result` does.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        looking: asyncio.Handle | None = None

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        def done(_: object) -> None:
            if not loop.is_closed():
                mailbox_of(loop).put(wake)

        def look() -> None:
            nonlocal looking
            if waiter.done():
                return
            try:
                self._check()
            except (ClientClosed, ForkedDriverError) as error:
                waiter.set_exception(error)
            else:
                looking = loop.call_later(LOOK_INTERVAL, look)

        look()
        self._future.add_done_callback(done)
        try:
            await waiter
        finally:
            if looking is not None:
                looking.cancel()

    def _check(self) -> None:
        """Raise if it no longer runs in this process."""
        if self._future.done():
            return
        if self.of_parent:
            raise ForkedDriverError(self._process)
        if not self._loop.is_running():
            raise ClientClosed


class ClientClosed(ConnectionError):
    """The client was closed, so its evaluations do not go on."""

    def __init__(self) -> None:
        super().__init__(
            "The Dask client of this process is closed: set another one with "
            "seamless_dask.set_seamless_dask_client, or call seamless.config.init() in "
            "a new process"
        )

"""An evaluation that goes on in the thread of a client, for whoever waits for it.

The thread may go away: the client is closed, or this is a forked process, which has no
threads of its parent. Then nobody would ever say that the evaluation has ended, so those
who wait look now and then whether its event loop still runs.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os

from .forked_drivers import ForkedDriverError

#: seconds between two looks
LOOK_INTERVAL = 2.0


class Ongoing:
    """An evaluation on another event loop.

    Parameters
    ----------
    future
        What says that it has ended.
    loop
        On which it runs.
    """

    def __init__(
        self,
        future: concurrent.futures.Future[None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._future = future
        self._loop = loop
        self._process = os.getpid()

    def cancel(self) -> None:
        """Stop it, unless it has ended."""
        if self._process == os.getpid() and not self._future.done():
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
            If nobody goes on with it, because the client was closed.
        ForkedDriverError
            If the parent of this process goes on with it.
        """
        while not self._future.done():
            self._check()
            concurrent.futures.wait([self._future], LOOK_INTERVAL)
        self._future.result()

    async def wait(self) -> None:
        """Wait until it has ended, one way or another.

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
                loop.call_soon_threadsafe(wake)

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
        """Raise if nobody goes on with it here."""
        if self._future.done():
            return
        if self._process != os.getpid():
            raise ForkedDriverError(self._process)
        if not self._loop.is_running():
            raise ClientClosed


class ClientClosed(ConnectionError):
    """The client was closed, so nothing that it does goes on."""

    def __init__(self) -> None:
        super().__init__(
            "The Dask client of this process is closed: set another one with "
            "seamless_dask.set_seamless_dask_client, or call seamless.config.init() in "
            "a new process"
        )

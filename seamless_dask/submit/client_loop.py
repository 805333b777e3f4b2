"""Hands work to the event loop of a client, from any thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from distributed import Client

from . import forked_drivers
from .mailbox import mailboxes
from .ongoing import ClientClosed

T = TypeVar("T")


class ClientLoop:
    """The event loop on which a Dask client works, in a thread of its own.

    Parameters
    ----------
    dask_client
        A synchronous client of this process.
    """

    def __init__(self, dask_client: Client) -> None:
        loop: Any = dask_client.loop
        self.asyncio_loop: asyncio.AbstractEventLoop = loop.asyncio_loop
        #: id of this process: a fork has a copy of the client, but not its threads
        self._process = os.getpid()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def of_parent(self) -> bool:
        """Whether it runs in the process from which this one was forked."""
        return os.getpid() != self._process

    def check_process(self) -> None:
        """Check that it belongs to this process.

        Raises
        ------
        ForkedDriverError
            If it does not.
        """
        forked_drivers.check(self._process)

    def is_current(self) -> bool:
        """Whether the calling thread is that of the loop."""
        return threading.get_ident() == getattr(self.asyncio_loop, "_thread_id", None)

    def call_soon(self, callback: Callable[..., object], *arguments: Any) -> None:
        """Call a function on the loop; the loop is woken only for another thread."""
        if self.is_current():
            self.asyncio_loop.call_soon(callback, *arguments)
        else:
            mailboxes.of(self.asyncio_loop).put(callback, *arguments)

    def start(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run a coroutine on the loop.

        Raises
        ------
        ForkedDriverError
            In a process that was forked from the one that has made the client.
        ClientClosed
            If the Dask client is closed.
        """
        self.check(coroutine)
        return asyncio.run_coroutine_threadsafe(coroutine, self.asyncio_loop)

    def check(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Check that a coroutine can run; otherwise close it.

        Raises
        ------
        ForkedDriverError, ClientClosed
            As `start` does.
        """
        try:
            self.check_process()
            if not self.asyncio_loop.is_running():
                raise ClientClosed
        except (forked_drivers.ForkedDriverError, ClientClosed):
            coroutine.close()
            raise

    def start_in_background(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Like `start`, but creates a task directly if this is the loop's thread."""
        if not self.is_current():
            self.start(coroutine)
            return
        task = self.asyncio_loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

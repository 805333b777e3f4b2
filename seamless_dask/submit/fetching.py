"""Fetches buffers of results or checksums, by tasks of their own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distributed import Client
from seamless import Buffer

from scheduler_ext.task_keys import NESTED_RESOURCE, buffer_key, fat_key

from . import forked_drivers, tasks
from .registry import Entry

if TYPE_CHECKING:
    from distributed import Future

#: Dask priority of tasks that only fetch a buffer: ahead of everything else
FETCH_PRIORITY = 1_000_000


class FatFuture:
    """A caller's handle on a buffer; its Dask task is submitted on first use.

    Resolves to `seamless.Buffer`. The task runs where the result is.
    """

    def __init__(self, submit: Callable[[], Future], entry: Entry) -> None:
        self._submit = submit
        self._future: Future | None = None
        #: the transformation whose result this is
        self.entry = entry
        self._lock = threading.Lock()
        self._released = False

    def future(self) -> Future:
        """Return the Dask future, submitting the task if need be."""
        with self._lock:
            if self._future is None:
                self._future = self._submit()
            return self._future

    def done(self) -> bool:
        """Whether the task has ended, or the handle was released."""
        return self._released or self.future().done()

    def cancelled(self) -> bool:
        """Whether the handle was released or the task cancelled."""
        if self._released:
            return True
        return self._future is not None and self._future.cancelled()

    def result(self, timeout: float | None = None) -> Buffer:
        """Wait up to `timeout` seconds for the buffer.

        Raises
        ------
        seamless.CacheMissError
            If the buffer cannot be found.
        """
        return self.future().result(timeout)

    def release(self) -> None:
        """Give the handle back."""
        with self._lock:
            future, self._future = self._future, None
            self._released = True
        if future is not None:
            future.release()


class Fetcher:
    """Submits tasks that fetch buffers; any thread may call, and no call blocks.

    Parameters
    ----------
    client
        The client of distributed.
    flush
        Sends the submissions of other tasks that are collected, see `batches`.
    """

    def __init__(self, client: Client, flush: Callable[[], None]) -> None:
        self._client = client
        self._flush = flush
        self._process = os.getpid()

    def of_result(self, entry: Entry, *, fingertip: bool) -> FatFuture:
        """Return a future of the buffer of a task's result.

        Parameters
        ----------
        entry
            The task.
        fingertip
            Recompute the buffer if it cannot be found.
        """
        return FatFuture(
            lambda: self._submit(
                tasks.fetch_buffer, fat_key(entry.key), entry.anchor, fingertip
            ),
            entry,
        )

    def of_checksum(self, checksum: str, *, fingertip: bool) -> Future:
        """Return a future of a buffer: ``(checksum, buffer, error)``.

        Parameters
        ----------
        checksum
            64 hexadecimal digits.
        fingertip
            Recompute the buffer if it cannot be found.
        """
        return self._submit(
            tasks.fetch_checksum, buffer_key(checksum), checksum, fingertip
        )

    def _submit(
        self,
        fetch: Callable[..., Any],
        key: str,
        source: Future | str,
        fingertip: bool,
    ) -> Future:
        forked_drivers.check(self._process)
        self._flush()
        key = f"{key}-finger" if fingertip else key
        return self._client.submit(
            fetch,
            source,
            fingertip,
            key,
            key=key,
            priority=FETCH_PRIORITY,
            resources={NESTED_RESOURCE: 1},
            pure=False,
        )

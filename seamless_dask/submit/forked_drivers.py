"""Driver scripts that fork: a forked process cannot use the client of its parent.

A connection to a Dask cluster is served by an event loop in a thread, and threads are not
forked. Its sockets are, so using them would disturb the parent. The forked process
therefore gets a `ForkedClient`, which raises an error on use; it never waits for threads
that it does not have.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing.process
import os
import selectors
import sys
import weakref
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import seamless

from ..neighbours import bounded_tables, event_loops
from ..neighbours.replacing import current, replace
from ..output import terminal


class ForkedDriverError(RuntimeError):
    """The process was forked from a driver script and cannot use the cluster."""

    def __init__(self, parent: int) -> None:
        super().__init__(
            f"This process (pid {os.getpid()}) was forked from a driver (pid {parent}) "
            "and cannot use its connection to the cluster. Start processes with "
            'multiprocessing.get_context("spawn") and call seamless.config.init() in '
            "each of them; a ProcessPoolExecutor takes such a context as mp_context. "
            "Or call transformations in the driver itself: "
            "seamless.transformer.parallel has many of them computed at a time"
        )


class ForkedClient:
    """Replaces the client of the parent in a forked process.

    Parameters
    ----------
    parent
        Process id of the driver script that has forked.
    """

    def __init__(self, parent: int) -> None:
        self._parent = parent

    @property
    def error(self) -> ForkedDriverError:
        """The error that any use of the client raises."""
        return ForkedDriverError(self._parent)

    def release_transformation_futures(
        self, futures: Any, cancel: bool = False
    ) -> None:
        """Do nothing: the futures belong to the parent."""

    def cancel_by_checksum(self, tf_checksum: Any) -> bool:
        """Return False: running transformations belong to the parent."""
        return False

    def detached(self) -> None:
        """Do nothing: the cluster, if the client owns it, belongs to the parent."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise self.error


def check(process: int) -> None:
    """Check that this is the process that has made a client.

    Parameters
    ----------
    process
        Process id of that process.

    Raises
    ------
    ForkedDriverError
        If it is not.
    """
    if os.getpid() != process:
        raise ForkedDriverError(process)


#: called in a newly forked process, to replace the parent's client
_leave_client: Callable[[], object] | None = None
#: packages whose finalizers at exit must run in the parent only
_OF_PARENT = ("distributed", "seamless_dask")


def install(leave_client: Callable[[], object]) -> None:
    """Prepare for processes that are forked from this one; idempotent.

    Parameters
    ----------
    leave_client
        Called in such a process; replaces the client of its parent.
    """
    global _leave_client
    installed, _leave_client = _leave_client is not None, leave_client
    if not installed and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forked)


def _forked() -> None:
    """Give up, in a newly forked process, all objects that belong to the parent."""
    if _leave_client is not None:
        _leave_client()
    _free_locks()
    _let_go_of_loops()
    _let_go_of_dask()
    _let_go_of_seamless_processes()
    # They remove directories of workers, for instance, which the parent still needs.
    registry = weakref.finalize._registry  # type: ignore[attr-defined]
    for finalizer, info in list(registry.items()):
        module = getattr(info.func, "__module__", None) or ""
        if module.split(".")[0] in _OF_PARENT:
            finalizer.atexit = False
    # Python would end the parent's child processes at exit.
    multiprocessing.process._children.clear()  # type: ignore[attr-defined]
    # Until it uses Seamless itself there is nothing to close.
    seamless._require_close = False


def _free_locks() -> None:
    """Free the locks of Seamless: a thread that exists only in the parent may hold one."""
    from seamless.caching import buffer_writer, eviction_cost
    from seamless.caching.buffer_cache import get_buffer_cache
    from seamless_remote import client
    from seamless_transformer import worker
    from seamless_transformer.transformation_cache import get_transformation_cache

    for lock in (
        get_buffer_cache().lock,
        buffer_writer._lock,
        eviction_cost._cost_module._lock,
        client._keepalive_lock,
        worker._DELEGATE_PROXY_LOCK,
        get_transformation_cache()._active_lock,
        bounded_tables.caches_lock,
        event_loops.starting,
        terminal.creation,
    ):
        lock._at_fork_reinit()  # type: ignore[union-attr]


def _let_go_of_dask() -> None:
    """Prevent Dask from closing the parent's clients and clusters at exit."""
    client = sys.modules.get("distributed.client")
    if client is not None:
        client._global_clients.clear()
    spec = sys.modules.get("distributed.deploy.spec")
    if spec is not None:
        spec.SpecCluster._instances.clear()


def _let_go_of_seamless_processes() -> None:
    """Compute local transformations here, not in the parent's Seamless processes.

    The threads that communicate with these processes exist only in the parent.
    """
    from seamless_transformer import transformation_class, worker

    replace(worker, "_worker_manager", None)
    worker._has_spawned = False
    threads = current(transformation_class, "_COMPUTE_EXECUTOR")._max_workers
    replace(transformation_class, "_COMPUTE_EXECUTOR", ThreadPoolExecutor(threads))


#: sockets by which these loops wake themselves. At its exit Python ends objects of a
#: cycle in any order, and a loop that finds its own closed complains.
_self_pipes: list[tuple[Any, Any]] = []


def _all_loops() -> list[Any]:
    # Python does not tell which objects a driver script has frozen, only that there are
    # some, and does not list them. What it has made since then is frozen with them.
    frozen = gc.get_freeze_count() > 0
    if frozen:
        gc.unfreeze()
    loops = [
        each
        for each in gc.get_objects()
        if issubclass(type(each), BaseSelectorEventLoop)
    ]
    if frozen:
        gc.freeze()
    return loops


def _let_go_of_loops() -> None:
    """Separate the copies of the parent's event loops from the originals.

    Both share one set of watched sockets in the operating system: closing a connection
    here would make the parent wait for it for ever. And a copied loop claims to run,
    although its thread was not forked, so callers would wait for it.
    """
    for loop in _all_loops():
        if loop.is_closed() or loop is asyncio.events._get_running_loop():
            continue  # a fork in a running loop is not expected to use it further
        loop._thread_id = None
        loop._selector = selectors.DefaultSelector()
        loop._close_self_pipe()
        loop._make_self_pipe()
        _self_pipes.append((loop._ssock, loop._csock))

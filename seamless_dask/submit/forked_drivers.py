"""Drivers that fork: a forked process cannot use the client of its parent.

A connection to a Dask cluster is served by an event loop in a thread, and threads are not
forked. Its sockets are, so going on with them would disturb the parent. The forked process
therefore has no client, but something in its place that says so; it never waits for
threads that it does not have.
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

from ..neighbours.replacing import current, replace


class ForkedDriverError(RuntimeError):
    """The process was forked from a driver and has no connection to the cluster."""

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
    """Stands for the client of the parent in a forked process.

    Parameters
    ----------
    parent
        Process id of the driver that was forked.
    """

    def __init__(self, parent: int) -> None:
        self._parent = parent

    @property
    def error(self) -> ForkedDriverError:
        """What everybody is told who wants to use the client."""
        return ForkedDriverError(self._parent)

    def release_transformation_futures(
        self, futures: Any, cancel: bool = False
    ) -> None:
        """Do nothing: they are the parent's."""

    def cancel_by_checksum(self, tf_checksum: Any) -> bool:
        """Return False: what runs is the parent's."""
        return False

    def detached(self) -> None:
        """Do nothing: the cluster, if the client owns it, is the parent's."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise self.error


def check(process: int) -> None:
    """Look whether this is the process that has made a client.

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


#: is called in a process just forked, to leave the client to the parent
_leave_client: Callable[[], object] | None = None
#: packages whose objects are the parent's: what they do at exit is up to the parent
_OF_PARENT = ("distributed", "seamless_dask")


def install(leave_client: Callable[[], object]) -> None:
    """Have processes that are forked from this one know it; idempotent.

    Parameters
    ----------
    leave_client
        Is called in such a process: has it use its parent's client no longer.
    """
    global _leave_client
    installed, _leave_client = _leave_client is not None, leave_client
    if not installed and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forked)


def _forked() -> None:
    """Leave to the parent what is the parent's. Called in a process just forked."""
    if _leave_client is not None:
        _leave_client()
    _let_go_of_loops()
    _let_go_of_dask()
    _let_go_of_seamless_processes()
    # Directories of workers, for instance, which the forked process must not remove.
    registry = weakref.finalize._registry  # type: ignore[attr-defined]
    for finalizer, info in list(registry.items()):
        module = getattr(info.func, "__module__", None) or ""
        if module.split(".")[0] in _OF_PARENT:
            finalizer.atexit = False
    # Python would end them at exit.
    multiprocessing.process._children.clear()  # type: ignore[attr-defined]
    # Until it uses Seamless itself there is nothing to close.
    seamless._require_close = False


def _let_go_of_dask() -> None:
    """Have Dask not close, at exit, the clients and clusters of the parent."""
    client = sys.modules.get("distributed.client")
    if client is not None:
        client._global_clients.clear()
    spec = sys.modules.get("distributed.deploy.spec")
    if spec is not None:
        spec.SpecCluster._instances.clear()


def _let_go_of_seamless_processes() -> None:
    """Have local transformations be computed here, not by the parent's processes.

    The threads that would ask these processes are the parent's, too.
    """
    from seamless_transformer import transformation_class, worker

    replace(worker, "_worker_manager", None)
    worker._has_spawned = False
    threads = current(transformation_class, "_COMPUTE_EXECUTOR")._max_workers
    replace(transformation_class, "_COMPUTE_EXECUTOR", ThreadPoolExecutor(threads))


#: sockets by which these loops wake themselves. At its exit Python ends objects of a
#: cycle in any order, and a loop that finds its own closed complains.
_self_pipes: list[tuple[Any, Any]] = []


def _let_go_of_loops() -> None:
    """Take event loops of the parent's threads apart from those of the parent.

    The operating system has one set of watched sockets for both: closing a connection
    here would let the parent wait for it for ever. And a loop whose thread was not
    forked says that it runs, so others wait for what it should do.
    """
    for loop in gc.get_objects():
        if not issubclass(type(loop), BaseSelectorEventLoop) or loop.is_closed():
            continue
        if loop is asyncio.events._get_running_loop():
            continue  # nobody forks in there who wants to go on
        loop._thread_id = None
        loop._selector = selectors.DefaultSelector()
        loop._close_self_pipe()
        loop._make_self_pipe()
        _self_pipes.append((loop._ssock, loop._csock))

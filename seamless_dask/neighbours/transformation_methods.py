"""Extends methods that seamless-transformer itself defines for a `Transformation`.

A transformation that is started, cancelled or awaited holds an asyncio task of an event
loop. In a synchronous script that loop never runs: it would keep the tasks of all
transformations that were ever started, and so the transformations. The evaluation itself
runs on the client's loop, independently of the task, so where no loop runs the task is
only made when it is awaited. Python warns about a task that is deleted before its end;
here that does no harm.

Transformations that are awaited begin some at a time, so that the event loop of the script
goes on.

Starting a transformation starts what it depends on, each once and without recursion:
seamless-transformer would walk through shared dependencies again and again.

``parallel`` leaves such tasks as well when it is interrupted, and no code would end them;
here their transformations are cancelled. Cancelling a transformation must also end an
evaluation that has submitted no task yet, and must change nothing once the transformation
has ended, with a result or with an error.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Protocol, TypeVar

from seamless import ensure_open
from seamless.util.get_event_loop import get_event_loop
from seamless_transformer.transformation_class import _dask_available

from ..garbage import search
from . import starts
from .replacing import extend
from .transformation import is_settled, upstream_first

T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)

_Make = Callable[[Callable[..., Any]], Callable[..., Any]]


class Awaited(Protocol[R_co]):
    """Work that is under way, to be awaited."""

    def wait(self) -> Coroutine[Any, Any, R_co]:
        """Return the coroutine that waits for the end."""
        ...

    def interrupted(self, error: asyncio.CancelledError) -> R_co:
        """Return the result, or raise: nobody waits any more."""
        ...


class Begun(Coroutine[Any, Any, T]):
    """A coroutine that waits for work that is under way already.

    Unlike an ordinary coroutine it may be deleted without ever having been awaited.

    Parameters
    ----------
    work
        ``wait`` is called when the coroutine begins; ``interrupted`` in place of that,
        with the exception, if the task that was to await it is cancelled before.
    """

    __slots__ = ("_waiting", "_work")

    def __init__(self, work: Awaited[T]) -> None:
        self._work = work
        self._waiting: Coroutine[Any, Any, T] | None = None

    def _begin(self) -> Coroutine[Any, Any, T]:
        if self._waiting is None:
            self._waiting = self._work.wait()
        return self._waiting

    def __await__(self) -> Generator[Any, Any, T]:
        return self._begin().__await__()

    def send(self, value: Any) -> Any:
        """Go on; see `collections.abc.Coroutine`."""
        return self._begin().send(value)

    def throw(self, kind: Any, value: Any = None, trace: Any = None) -> Any:
        """Go on with an exception; see `collections.abc.Coroutine`."""
        if self._waiting is not None:
            if isinstance(kind, BaseException):
                return self._waiting.throw(kind)
            return self._waiting.throw(kind if value is None else value)
        error = kind if isinstance(kind, BaseException) else value or kind()
        if isinstance(error, asyncio.CancelledError):
            raise StopIteration(self._work.interrupted(error))
        raise error

    def close(self) -> None:
        """End without an exception; see `collections.abc.Coroutine`."""
        if self._waiting is not None:
            self._waiting.close()


def install() -> None:
    """Extend seamless-transformer in this process; idempotent."""
    from seamless_transformer.multi import _ParallelIterator
    from seamless_transformer.pretransformation import PreTransformation
    from seamless_transformer.transformation_class import Transformation

    for owner, name, make in (
        (Transformation, "start", _start),
        (Transformation, "_compute", _compute),
        (Transformation, "task", _task),
        (Transformation, "computation", _computation),
        (Transformation, "_mark_cancelled", _mark_cancelled),
        (Transformation, "clear_exception", _clear_exception),
        (Transformation, "cancel", _cancel),
        (Transformation, "cancel_async", _cancel_async),
        (_ParallelIterator, "__next__", _next),
        (Transformation, "__del__", _while_running),
        (PreTransformation, "__del__", _while_running),
    ):
        extend(owner, name, functools.partial(_alike, make))


def _alike(make: _Make, method: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method with the name and docstring of the method that it replaces."""
    return functools.wraps(method)(make(method))


class Later:
    """Stands for an asyncio task where no event loop runs; made when it is awaited.

    Parameters
    ----------
    coroutine
        What the task is to await.
    loop
        The event loop of the thread.
    """

    def __init__(self, coroutine: Begun[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._coroutine = coroutine
        self._loop = loop
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False

    def __await__(self) -> Generator[Any, Any, Any]:
        if self._cancelled:
            raise asyncio.CancelledError
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._coroutine)
            _quiet(self._task)
        return (yield from self._task.__await__())

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop that awaits it, or else that of its thread."""
        return self._loop if self._task is None else self._task.get_loop()

    def done(self) -> bool:
        """Whether it was awaited to the end, or cancelled."""
        return self._cancelled if self._task is None else self._task.done()

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._cancelled if self._task is None else self._task.cancelled()

    def cancel(self) -> bool:
        """Cancel it unless it has ended; return whether that changed anything."""
        if self._task is not None:
            return self._task.cancel()
        changed, self._cancelled = not self._cancelled, True
        return changed

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Do nothing: an exception is retrieved by the caller that awaits it."""


class _Idle:
    """In place of an event loop that does not run, for `Transformation.start`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def create_task(self, coroutine: Any) -> Any:
        """Return a task, or what stands for it."""
        if isinstance(coroutine, Begun):
            return Later(coroutine, self._loop)
        return self._loop.create_task(coroutine)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


def _quiet(task: Any) -> None:
    """Let Python delete a task before its end without a warning."""
    if isinstance(task, asyncio.Task):
        task._log_destroy_pending = False  # type: ignore[attr-defined]


def _start(method: Callable[..., Any]) -> Callable[..., Any]:
    def start(self: Any, *, loop: asyncio.AbstractEventLoop | None = None) -> Any:
        if _needs_no_start(self):
            return self
        chosen: Any = get_event_loop() if loop is None else loop
        idle = chosen if chosen.is_running() else _Idle(chosen)
        # Its dependencies are started already when the method comes to them.
        for each in list(upstream_first(self, _needs_no_start)):
            on_cluster = _dask_available() and not each._prefer_local_execution()
            try:
                method(each, loop=idle if on_cluster else loop)
            except (KeyboardInterrupt, SystemExit):
                if on_cluster and each._computation_task is None:
                    each._give_up(None)
                raise
            _quiet(each._computation_task)
        return self

    return start


def _needs_no_start(transformation: Any) -> bool:
    if transformation._computation_task is not None:
        return True
    if transformation._computation_future is not None:
        return True
    return is_settled(transformation) and not transformation._prefer_local_execution()


def _compute(method: Callable[..., Any]) -> Callable[..., Any]:
    def compute(self: Any, api_origin: str) -> Any:
        # If it was started before, its task belongs to an event loop that other threads,
        # which compute other transformations, may run and stop at any moment.
        ongoing = self._dask_evaluation
        if (
            ongoing is None
            or self._computation_task is None
            or self._cancelled
            or self._evaluated
            or asyncio._get_running_loop() is not None
        ):
            return method(self, api_origin)
        result = self._wait_for(ongoing, require_value=False)
        self._computation_task = None
        return result

    return compute


def _task(method: Callable[..., Any]) -> Callable[..., Any]:
    def task(self: Any) -> Any:
        created = method(self)
        _quiet(created)
        search.add(created.get_loop())
        created.add_done_callback(_count_ended)
        return created

    return task


def _count_ended(task: asyncio.Task[Any]) -> None:
    search.remove(task.get_loop())


def _computation(method: Callable[..., Any]) -> Callable[..., Any]:
    async def computation(self: Any, require_value: bool = False) -> Any:
        if self._computation_task is None and _dask_available():
            await starts.turn()
        if self._cancelled or not _dask_available() or self._prefer_local_execution():
            return await method(self, require_value=require_value)
        ensure_open("transformation computation")
        # Not the task that `start` has made: whoever is cancelled would cancel it for all
        # others, and it may have ended by an interrupt while the evaluation goes on.
        return await self._computation_with_dask(require_value)

    return computation


def _mark_cancelled(method: Callable[..., Any]) -> Callable[..., Any]:
    def mark_cancelled(self: Any, message: str | None = None) -> None:
        # A task that awaits its value may be cancelled after the end. A transformation
        # that fails because it is being cancelled counts as cancelled.
        if is_settled(self) and not self._cancel_requested:
            return
        futures = self._dask_futures
        method(self, message)
        self._end_evaluation(futures)

    return mark_cancelled


def _clear_exception(method: Callable[..., Any]) -> Callable[..., Any]:
    def clear_exception(self: Any) -> None:
        failed = self._exception is not None and not self._cancelled
        method(self)
        if failed and self._dask_evaluation is not None:
            # The evaluation has ended: the next computation must begin a new one.
            self._dask_evaluation = self._computation_task = None

    return clear_exception


def _is_of_parent(transformation: Any) -> bool:
    """Whether it is evaluated in the process from which this one was forked."""
    evaluation = transformation._dask_evaluation
    return evaluation is not None and evaluation.of_parent


def _cancel(method: Callable[..., Any]) -> Callable[..., Any]:
    def cancel(self: Any, *, recursive: bool = False) -> bool:
        if is_settled(self):
            above = self._upstream_dependencies.values() if recursive else ()
            return any([each.cancel(recursive=True) for each in above])
        if _is_of_parent(self):
            return False
        # So that code that awaits its task knows why the task ends.
        self._cancel_requested = True
        changed = bool(method(self, recursive=recursive))
        self._cancel_requested = self._cancelled
        return changed

    return cancel


def _cancel_async(method: Callable[..., Any]) -> Callable[..., Any]:
    async def cancel_async(self: Any, *, recursive: bool = False) -> bool:
        if is_settled(self):
            above = self._upstream_dependencies.values() if recursive else ()
            return any([await each.cancel_async(recursive=True) for each in above])
        if _is_of_parent(self):
            return False
        self._cancel_requested = True
        changed = bool(await method(self, recursive=recursive))
        self._cancel_requested = self._cancelled
        return changed

    return cancel_async


def _next(method: Callable[..., Any]) -> Callable[..., Any]:
    def next_of_parallel(self: Any) -> Any:
        try:
            return method(self)
        except (KeyboardInterrupt, SystemExit):
            # The iterator can close itself only if no task runs on its loop.
            try:
                _end_tasks(self._loop)
            finally:
                self.close()
            raise

    return next_of_parallel


def _while_running(method: Callable[..., Any]) -> Callable[..., Any]:
    """Do nothing when the interpreter ends: a thread that it has stopped holds its locks."""

    # Python may have removed this module's globals by then.
    is_finalizing = sys.is_finalizing

    def deleted(self: Any) -> None:
        if not is_finalizing():
            method(self)

    return deleted


def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel the tasks of an event loop that does not run, and let them end."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:  # without any, it would be the future of another loop
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))

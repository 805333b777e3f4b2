"""Gives each thread that runs transformations an event loop that runs.

Code that calls transformations has seamless-transformer take the event loop of its
thread, make one if there is none, and run it in another thread. Three things go wrong
there if many do so:

- It goes on before that other thread runs the loop. If it is late, both threads run
  it, each takes the other's wake-ups, and the caller waits for ever.
- A thread forgets its loop with every ``run()``. The next one makes another, with a
  thread and three file descriptors, and none of them ever ends.
- A task that is created from another thread does not start: ``create_task`` does not
  wake a sleeping loop.

Here a thread has one loop, which runs before anybody gets it. When the thread ends, and
the tasks that it has started, the loop serves another one.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from .replacing import extend, replace

#: as it is before `seamless_dask.child.waits` replaces it: these loops are no job's
_Selector = selectors.DefaultSelector

#: threads of one loop; they are started as they are needed
MAX_THREADS = 4096


class JobExecutor(ThreadPoolExecutor):
    """A thread pool whose threads act for the job that has submitted the work."""

    def submit(
        self, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        """Run a function in the context of the caller."""
        return super().submit(copy_context().run, function, *args, **kwargs)


class ThreadLoop(asyncio.SelectorEventLoop):
    """An event loop that runs in a thread of its own and serves another one."""

    def __init__(self) -> None:
        super().__init__(_Selector())
        # Threads in which transformations run in the same process, for the job that
        # has called them.
        self.set_default_executor(
            JobExecutor(MAX_THREADS, thread_name_prefix="seamless-local")
        )
        self._runner = _run(self)

    def create_task(self, coro: Any, **options: Any) -> Any:
        """Create a task, also from the thread that the loop serves."""
        task = super().create_task(coro, **options)
        if threading.current_thread() is not self._runner:
            self.call_soon_threadsafe(_nothing)  # wakes it
        return task

    def free(self) -> None:
        """Serve another thread when the tasks have ended. Called on the loop."""
        tasks = asyncio.all_tasks(self)
        if tasks:
            ended = asyncio.gather(*tasks, return_exceptions=True)
            ended.add_done_callback(lambda _: self.free())
        else:
            _free.append(self)


def _nothing() -> None:
    """Be called by a loop that is to look what there is to do."""


def _run(loop: asyncio.AbstractEventLoop) -> threading.Thread:
    """Have a new thread run a loop; return when it does."""
    running = threading.Event()
    loop.call_soon(running.set)

    def run() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            running.set()

    thread = threading.Thread(target=run, name="seamless-loop", daemon=True)
    thread.start()
    running.wait()
    return thread


#: loops of threads that have ended
_free: list[ThreadLoop] = []


class _Served:
    """What a thread has as long as it lives: its loop."""

    def __init__(self) -> None:
        try:
            self.loop = _free.pop()
        except IndexError:
            self.loop = ThreadLoop()

    def __del__(self) -> None:
        if asyncio.all_tasks(self.loop):
            self.loop.call_soon_threadsafe(self.loop.free)
        else:  # nobody can give it any more: it need not be woken
            _free.append(self.loop)


#: what each thread has; made when it needs a loop
_own = threading.local()
_starting = threading.Lock()


def install() -> None:
    """Have seamless-transformer use these loops in this process; idempotent."""
    from seamless_transformer import transformation_class

    extend(transformation_class, "get_event_loop", _get_event_loop)
    replace(transformation_class, "_ensure_loop_running", ensure_running)


def _get_event_loop(
    original: Callable[[], asyncio.AbstractEventLoop],
) -> Callable[[], asyncio.AbstractEventLoop]:
    def get_event_loop() -> asyncio.AbstractEventLoop:
        """Return the loop that runs here, or that was set here, or the thread's."""
        try:
            return asyncio.get_running_loop()
        except RuntimeError:
            if threading.current_thread() is threading.main_thread():
                return original()
        try:
            loop = asyncio.get_event_loop()
        except RuntimeError:
            return _loop_of_thread()
        return _loop_of_thread() if loop.is_closed() else loop

    return get_event_loop


def _loop_of_thread() -> ThreadLoop:
    if not hasattr(_own, "served"):
        _own.served = _Served()
    return _own.served.loop


def ensure_running(loop: asyncio.AbstractEventLoop) -> None:
    """Return when a loop runs, in a thread of its own if it must be."""
    with _starting:
        if not loop.is_running():
            _run(loop)

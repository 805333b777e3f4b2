"""Gives each thread that runs transformations a running event loop.

When code calls a transformation, seamless-transformer takes the event loop of the calling
thread, makes one if there is none, and runs it in another thread. With many calling
threads this has three problems:

- The calling thread goes on before the other thread runs the loop. If the other thread is
  late, both run the loop, each takes the other's wake-ups, and the caller waits for ever.
- A thread forgets its loop with every ``run()``. The next call makes another loop, with a
  thread and three file descriptors, and none of them ever ends.
- A task that is created from another thread does not start: ``create_task`` does not
  wake a sleeping loop.

Here each thread has one loop, which runs before the thread gets it. When the thread and
the tasks that it has started have ended, the loop serves another thread.
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

#: the original, before `seamless_dask.child.waits` replaces it: no job owns these loops
_Selector = selectors.DefaultSelector

#: most threads of one loop; they are started when needed
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
        # Its threads run local transformations for the job that has called them.
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
    """Do nothing: scheduling this function wakes a loop."""


def _run(loop: asyncio.AbstractEventLoop) -> threading.Thread:
    """Run a loop in a new thread; return when it runs."""
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
    """Owns the loop of a thread, as long as the thread lives."""

    def __init__(self) -> None:
        try:
            self.loop = _free.pop()
        except IndexError:
            self.loop = ThreadLoop()

    def __del__(self) -> None:
        if asyncio.all_tasks(self.loop):
            self.loop.call_soon_threadsafe(self.loop.free)
        else:  # it cannot get new tasks, so it need not be woken
            _free.append(self.loop)


#: the `_Served` of each thread; made when the thread needs a loop
_own = threading.local()
#: held while one is started
starting = threading.Lock()


def install() -> None:
    """Make seamless-transformer use these loops in this process; idempotent."""
    from seamless_transformer import transformation_class

    extend(transformation_class, "get_event_loop", _get_event_loop)
    replace(transformation_class, "_ensure_loop_running", ensure_running)


def _get_event_loop(
    original: Callable[[], asyncio.AbstractEventLoop],
) -> Callable[[], asyncio.AbstractEventLoop]:
    def get_event_loop() -> asyncio.AbstractEventLoop:
        """Return the running loop, else the loop set for the thread, else our own."""
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
    """Return when a loop runs; start it in a thread of its own if it does not."""
    with starting:
        if not loop.is_running():
            _run(loop)

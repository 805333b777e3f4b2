"""The event loop of the cluster, in a thread whose end is noticed.

SystemExit or KeyboardInterrupt in any task or callback ends an event loop: of a plugin in
the scheduler, for example. In a thread of Dask nobody would notice, and all that wait for
the scheduler would wait for ever.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future

import dask.config
from dask.utils import import_required
from tornado.ioloop import IOLoop


def run_loop(on_end: Callable[[BaseException], None]) -> IOLoop:
    """Run an event loop until this process ends, in a thread; return it.

    It is of the kind that Dask's setting ``distributed.admin.event-loop`` names.

    Parameters
    ----------
    on_end
        Called in that thread with what has ended the loop.

    Raises
    ------
    RuntimeError
        If that kind is not installed.
    """
    running: Future[IOLoop] = Future()
    thread = threading.Thread(
        target=_run, args=(running, on_end), name="cluster", daemon=True
    )
    thread.start()
    return running.result()


def _run(running: Future[IOLoop], on_end: Callable[[BaseException], None]) -> None:
    try:
        loop = _new_loop()
    except BaseException as error:  # noqa: BLE001 - the caller raises it
        running.set_exception(error)
        return
    asyncio.set_event_loop(loop)
    loop.call_soon(lambda: running.set_result(IOLoop.current()))
    try:
        loop.run_forever()
        raise RuntimeError("something has stopped the event loop of the cluster")
    except BaseException as error:  # noqa: BLE001 - another thread raises it
        on_end(error)


def _new_loop() -> asyncio.AbstractEventLoop:
    if dask.config.get("distributed.admin.event-loop") != "uvloop":
        return asyncio.new_event_loop()
    uvloop = import_required(
        "uvloop",
        "distributed.admin.event-loop is 'uvloop', which is not installed: install it, "
        "or set the value to 'asyncio'.",
    )
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop

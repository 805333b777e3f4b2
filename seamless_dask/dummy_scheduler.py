"""A Dask scheduler with workers inside this process, for development and tests.

Most users need only ``create_dummy_client()``: it starts scheduler, workers, Seamless
processes and client in one call. ``python -m seamless_dask.dummy_scheduler`` serves a
scheduler for other processes.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import logging
import multiprocessing
import signal
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import dask.config
import seamless
from distributed import Client, Scheduler, Worker
from distributed.gc import disable_gc_diagnosis
from distributed.utils import silence_logging_cmgr

import scheduler_ext

from .cluster import private_directories

if TYPE_CHECKING:
    from types import TracebackType

    from .client import SeamlessDaskClient

logger = logging.getLogger(__name__)

#: seconds for everything to start, and for everything to stop
START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0

_address: str | None = None


def get_dummy_scheduler_address() -> str | None:
    """Return the address of the dummy scheduler in this process, None without one."""
    return _address


@asynccontextmanager
async def create_dummy_scheduler(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    workers: int = 1,
    worker_threads: int = 1,
) -> AsyncIterator[Scheduler]:
    """Run a scheduler with workers on the current event loop.

    Parameters
    ----------
    host, port
        Where the scheduler listens; port 0 takes a free one.
    workers
        Number of Dask workers, all in this process.
    worker_threads
        Tasks that each worker executes at a time.

    Raises
    ------
    ValueError
        Naming every argument that is out of range.
    """
    global _address
    problems = [
        f"{name}: got {value!r}, allowed is {lowest} or more"
        for name, value, lowest in (
            ("port", port, 0),
            ("workers", workers, 0),
            ("worker_threads", worker_threads, 1),
        )
        if not isinstance(value, int) or value < lowest
    ]
    if problems:
        raise ValueError("; ".join(problems))
    scratch = private_directories.make(
        dask.config.get("temporary-directory", None) or tempfile.gettempdir()
    )
    with dask.config.set({"temporary-directory": scratch}):  # for its own files
        new = Scheduler(host=host, port=port, dashboard_address=f"{host}:0")
    scheduler = await new
    running: list[Worker] = []
    try:
        scheduler_ext.attach(scheduler)
        for index in range(workers):
            worker = Worker(
                scheduler.address,
                nthreads=worker_threads,
                name=f"dummy-{index}",
                host=host,
                local_directory=scratch,
                dashboard=False,
                memory_limit=0,
            )
            running.append(await worker)
        # Python calls it in any thread, and a Ctrl-C that arrives meanwhile would be lost.
        disable_gc_diagnosis(force=True)
        _address = scheduler.address
        yield scheduler
    finally:
        _address = None
        await asyncio.gather(*(worker.close(timeout=2) for worker in running))
        await scheduler.close()


class DummySchedulerHandle:
    """A dummy scheduler that runs in a thread; also a context manager."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._address = ""
        self._thread = threading.Thread(
            target=self._run, name="seamless-dummy-scheduler", daemon=True
        )

    @property
    def address(self) -> str:
        """Address of the scheduler, for instance ``tcp://127.0.0.1:40000``."""
        return self._address

    def _start(self) -> None:
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT):
            raise TimeoutError(f"No dummy scheduler after {START_TIMEOUT:g} s")
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._ready.is_set():
                logger.exception("The dummy scheduler has failed")
            self._failure = error
            self._ready.set()

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        async with create_dummy_scheduler(**self._options) as scheduler:
            self._address = scheduler.address
            self._ready.set()
            await self._stopping.wait()

    def stop(self) -> None:
        """Stop workers and scheduler; repeated calls change nothing."""
        atexit.unregister(self.stop)
        loop, stopping = self._loop, self._stopping
        if loop is not None and stopping is not None and self._thread.is_alive():
            loop.call_soon_threadsafe(stopping.set)
            self._thread.join(STOP_TIMEOUT)
            if self._thread.is_alive():
                logger.warning("The dummy scheduler at %s does not stop", self.address)

    def __enter__(self) -> DummySchedulerHandle:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def start_dummy_scheduler(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    workers: int = 1,
    worker_threads: int = 1,
    register_at_exit: bool = True,
) -> DummySchedulerHandle:
    """Start a scheduler with workers in a background thread.

    Parameters
    ----------
    host, port, workers, worker_threads
        See `create_dummy_scheduler`.
    register_at_exit
        Stop it when the interpreter exits.

    Raises
    ------
    ValueError, OSError, TimeoutError
        If it does not start.
    """
    handle = DummySchedulerHandle(
        {
            "host": host,
            "port": port,
            "workers": workers,
            "worker_threads": worker_threads,
        }
    )
    handle._start()
    if register_at_exit:
        atexit.register(handle.stop)
    return handle


def create_dummy_client(
    *,
    workers: int = 1,
    worker_threads: int = 9,
    spawn_workers: int = 3,
    silence_logs: int | str = logging.WARNING,
) -> SeamlessDaskClient:
    """Start a scheduler, workers and Seamless processes, and return a client of them.

    The transformations of this process then use the client. ``seamless.close()`` ends
    everything, or ``set_seamless_dask_client(None)`` in a process that goes on.

    Parameters
    ----------
    workers
        Dask workers, in this process; they share the Seamless processes.
    worker_threads
        Transformations that each worker executes at a time, waiting ones not counted.
    spawn_workers
        Seamless processes.
    silence_logs
        The lowest level that Dask logs on the terminal meanwhile, as for
        ``distributed.LocalCluster``.

    Raises
    ------
    RuntimeError
        If the script calls this while a Seamless process is importing it.
    ValueError, OSError, TimeoutError
        If it does not start.
    """
    # multiprocessing makes the same check, but only when it is about to start a process
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            "create_dummy_client() was called in a process that only imports the main "
            "script, and would call it again and again. In the script, put what is to "
            'run once below: if __name__ == "__main__":'
        )
    from .client import SeamlessDaskClient
    from .transformer_client import set_seamless_dask_client

    closing = ExitStack()
    try:
        # bokeh serves the dashboard of the scheduler
        for root in ("distributed", "bokeh"):
            closing.enter_context(silence_logging_cmgr(silence_logs, root=root))
        handle = start_dummy_scheduler(workers=workers, worker_threads=worker_threads)
        closing.callback(handle.stop)
        dask_client = Client(handle.address, set_as_default=False)
        closing.callback(dask_client.close, timeout=2)
        client = SeamlessDaskClient(
            dask_client,
            worker_plugin_workers=spawn_workers,
            is_local_cluster=True,
            role="driver",
            on_detach=closing.close,
        )
    except BaseException:
        closing.close()
        raise
    atexit.unregister(handle.stop)
    # ``seamless.close`` ends the Seamless processes, and only then all the rest.
    seamless.register_close_hook(client.detached)
    atexit.register(client.detached)
    set_seamless_dask_client(client)
    return client


def serve_dummy_scheduler(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    workers: int = 1,
    worker_threads: int = 1,
) -> None:
    """Serve a scheduler with workers until SIGINT or SIGTERM; blocks.

    Parameters
    ----------
    host, port, workers, worker_threads
        See `create_dummy_scheduler`.
    """

    async def serve() -> None:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopping.set)
        async with create_dummy_scheduler(
            host=host, port=port, workers=workers, worker_threads=worker_threads
        ) as scheduler:
            print(f"Dummy scheduler at {scheduler.address}", flush=True)
            await stopping.wait()

    asyncio.run(serve())


def main() -> None:
    """Serve a dummy scheduler from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m seamless_dask.dummy_scheduler",
        description="Serve a Dask scheduler with workers in one process, for "
        "development and tests. Ctrl-C ends it. The workers get their Seamless "
        "processes from the first SeamlessDaskClient that connects.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument(
        "--port", type=int, default=0, help="port to listen on; 0 takes a free one"
    )
    parser.add_argument("--workers", type=int, default=1, help="number of Dask workers")
    parser.add_argument(
        "--worker-threads",
        type=int,
        default=9,
        help="transformations that a worker executes at a time",
    )
    arguments = parser.parse_args()
    try:
        serve_dummy_scheduler(**vars(arguments))
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()

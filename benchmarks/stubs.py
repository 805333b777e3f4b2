"""A stack without Seamless processes and servers: what driver, scheduler and worker cost.

Everything else is real: a Dask scheduler with our plugin, a Dask worker with ours, a
client. `StubPool` stands for the Seamless processes: it computes ``2 * i`` at once, after
it has had ``children`` further ones computed as nested calls. Nothing is stored.

As a preload of ``dask worker`` this module gives the worker a `StubPool`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import linecache
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scheduler_file import wait_for_facts
from seamless import Buffer, Checksum
from seamless.caching.buffer_cache import get_buffer_cache

#: seconds for scheduler and worker to start and to end
PATIENCE = 120.0


def double(salt, i, children, seconds):
    """What is computed; its source is never executed."""
    return 2 * i


def function_of(source: str) -> Any:
    """Return the function that a source defines, so that its source is found."""
    name = f"<{hashlib.sha256(source.encode()).hexdigest()}>"
    linecache.cache[name] = len(source), None, source.splitlines(True), name
    namespace: dict[str, Any] = {}
    exec(compile(source, name, "exec"), namespace)
    return next(f for f in namespace.values() if callable(f))


class StubPool:
    """In place of `seamless_dask.pool.pool.Pool`; see the module."""

    def __init__(self, processes: int, environment: Any, scratch: Any) -> None:
        from seamless_dask.storage.cache import BufferStore

        self.processes = processes
        self.throttle = 3
        self.alive = 0
        self.buffers = BufferStore()
        self._users: list[Any] = []

    of_this_process = classmethod(lambda cls, *arguments: cls(*arguments))

    def join(self, user: Any) -> None:
        """Serve a worker, which forgets buffers as with a hashserver."""
        self._users.append(user)
        asyncio.run_coroutine_threadsafe(
            get_buffer_cache().start_eviction_loop(), user.loop
        ).result()

    async def leave(self, user: Any) -> None:
        """Stop serving it."""
        self._users.remove(user)

    def user_of(self, owner_key: str | None) -> Any:
        """The only worker."""
        return self._users[0]

    def jobs_of(self, process_name: str) -> set[str]:
        """Each task has a process of its own, which is called like the task."""
        return {process_name}

    async def dispatch(
        self,
        transformation_dict: dict[str, Any],
        *,
        tf_checksum: str,
        key: str,
        inputs: Sequence[Buffer],
        **_: Any,
    ) -> tuple[str, dict[str, bytes], Any]:
        """Compute a transformation; see `Pool.dispatch`."""
        from seamless_dask.storage.job_report import JobReport

        found = {b.get_checksum().hex(): b.content for b in inputs}
        i, children, seconds = (
            json.loads(found[Checksum(transformation_dict[name][2]).hex()])
            for name in ("i", "children", "seconds")
        )
        if seconds:
            await asyncio.sleep(seconds)
        await asyncio.gather(
            *(
                self._call(transformation_dict, key, f"{i}.{n}", n)
                for n in range(children)
            )
        )
        value = Buffer(2 * i, "mixed")
        checksum = value.get_checksum().hex()
        return checksum, {checksum: value.content}, JobReport(checksum)

    async def _call(self, caller: dict[str, Any], key: str, salt: str, n: int) -> None:
        from seamless_transformer.transformation_utils import tf_get_buffer

        from seamless_dask.child.small_buffers import BUFFERS

        called, buffers = dict(caller), {}
        for name, value in (("salt", f"{key}{salt}"), ("i", n), ("children", 0)):
            celltype, subcelltype, _ = caller[name]
            buffer = Buffer(value, celltype)
            buffers[buffer.get_checksum().hex()] = buffer.content
            called[name] = celltype, subcelltype, buffer.get_checksum().hex()
        buffer = tf_get_buffer(called)
        buffers[buffer.get_checksum().hex()] = buffer.content
        answer = await self._users[0].nested.answer(
            key,
            {
                "tf_checksum": buffer.get_checksum().hex(),
                "transformation_dict": called,
                "owner_dask_key": key,
                BUFFERS: buffers,
            },
        )
        if answer["status"] != "done":
            raise RuntimeError(answer["error"])


def use() -> None:
    """Give the workers that start in this process a `StubPool`."""
    from seamless_dask.pool import pool

    pool.Pool = StubPool  # type: ignore[misc, assignment]


def dask_setup(worker: Any) -> None:
    """Called by Dask when a worker starts that has this module as a preload."""
    use()


def client(address: str, *, forgets: bool = False) -> Any:
    """Make a client of Seamless for a `StubStack`, which this process uses from now on.

    With ``forgets`` it forgets buffers as with a hashserver, also those of results.
    """
    from distributed import Client

    from seamless_dask import SeamlessDaskClient
    from seamless_dask.transformer_client import set_seamless_dask_client

    made = SeamlessDaskClient(
        Client(address, set_as_default=False), worker_plugin_workers=2
    )
    set_seamless_dask_client(made)
    if forgets:
        made.start(get_buffer_cache().start_eviction_loop()).result()
    return made


class StubStack:
    """A scheduler and a worker in processes of their own; a context manager."""

    def __enter__(self) -> StubStack:
        self._directory = tempfile.TemporaryDirectory(prefix="seamless-stubs-")
        #: of all processes of the stack
        self.environment = {**os.environ, "HOME": self._directory.name}
        file = Path(self._directory.name) / "scheduler.json"
        common = ["--scheduler-file", str(file), "--no-dashboard"]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._start("scheduler", *common, "--port", "0", "--preload", _PRELOAD)
        self.address: str = wait_for_facts(file, PATIENCE)["address"]
        self._start("worker", *common, "--no-nanny", "--preload", __file__)
        return self

    def _start(self, kind: str, *options: str) -> None:
        log = open(Path(self._directory.name) / f"{kind}.log", "wb")
        with log:
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "dask", kind, *options],
                    stdout=log,
                    stderr=log,
                    env={**self.environment, "TMPDIR": self._directory.name},
                )
            )

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of scheduler and worker."""
        scheduler, worker = self._processes
        return {"scheduler": scheduler.pid, "worker": worker.pid}

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._directory.cleanup()


_PRELOAD = "scheduler_ext.preload"

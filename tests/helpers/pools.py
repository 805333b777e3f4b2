"""The processes of the pool of this process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from distributed import Worker
from helpers.polling import wait_until

from seamless_dask import SeamlessDaskClient
from seamless_dask.pool import processes
from seamless_dask.pool.pool import Pool
from seamless_dask.pool.processes import Processes
from seamless_dask.submit.tasks import WORKER_PLUGIN

#: a guard against hanging
SOON = 30.0


async def _started(dask_worker: Worker) -> bool:
    plugin: Any = dask_worker.plugins.get(WORKER_PLUGIN)
    return plugin is not None and await plugin.runner() is not None


def until_started(client: SeamlessDaskClient) -> None:
    """Wait until the worker of a dummy scheduler has its Seamless processes."""

    def started() -> bool:
        answers = client.client.run(_started).values()
        return bool(answers) and all(answers)

    wait_until(started, "the worker has Seamless processes", SOON)


@pytest.fixture
def group(
    dummy: SeamlessDaskClient, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Processes]:
    """The processes of the dummy scheduler's worker; jobs share them from two on."""
    group = Pool.of_this_process(2, {}, "")._processes
    monkeypatch.setattr(processes, "IDLE_LIMIT", 0.0)
    wait_until(lambda: quiet(group), "only two processes are left", SOON)
    monkeypatch.setattr(group, "limit", 2)
    yield group


def quiet(group: Processes) -> bool:
    """Whether nothing runs, and no more processes are there than at the beginning."""
    if any(process.jobs for process in group.all()):
        return False
    for process in group.all()[2:]:
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(process.pid, signal.SIGKILL)
    return len(group.all()) == 2 and all(p.idle for p in group.all())

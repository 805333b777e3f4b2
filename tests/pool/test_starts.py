"""Starts of processes that fail."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seamless_dask.pool.processes import START_ATTEMPTS, Processes


class Starting(Processes):
    """Processes that do not start, so many times."""

    def __init__(self, size: int, failures: int, scratch: Path) -> None:
        super().__init__(None, size, size, {}, scratch)
        self.fails = failures
        self.started = 0

    async def _launch(self) -> Any:
        await asyncio.sleep(0)
        self.fails -= 1
        if self.fails >= 0:
            raise OSError("was killed")
        self.started += 1

        async def wait_ready() -> None:
            """It is."""

        process: Any = SimpleNamespace(
            name=f"process {self.started}",
            jobs={},
            ending=False,
            retiring=None,
            wait_ready=wait_ready,
        )
        self._by_name[process.name] = process
        return process


def test_all_that_start_at_the_same_time_are_killed(tmp_path: Path) -> None:
    """That is one failure, after which others start."""

    async def start() -> int:
        processes = Starting(2 * START_ATTEMPTS, 2 * START_ATTEMPTS, tmp_path)
        await asyncio.wait_for(processes.start(), 60)
        for timer in processes._idle.values():
            timer.cancel()
        return processes.started

    assert asyncio.run(start()) == 2 * START_ATTEMPTS


def test_one_start_after_the_other_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seamless_dask.pool.processes.START_INTERVAL", 0.1)

    async def start() -> None:
        processes = Starting(1, START_ATTEMPTS, tmp_path)
        try:
            await asyncio.wait_for(processes.start(), 60)
        finally:
            await processes.close()

    with pytest.raises(RuntimeError, match="was killed"):
        asyncio.run(start())

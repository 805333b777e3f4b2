"""Which transformation of a Dask worker is it that calls."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from seamless_dask.worker.callers import RunningJobs


def test_a_call_is_of_its_caller_or_of_nobody() -> None:
    """A caller that was cancelled must not be taken for one beside it."""
    jobs = RunningJobs(cast("Any", None), lambda process: {"first", "second"})
    with jobs.occupied("first", "1" * 64, 0), jobs.occupied("second", "2" * 64, 0):
        assert [job.key for job in jobs.callers("p", "first")] == ["first"]
        assert jobs.callers("p", "cancelled") == []
        # From a thread that no job has started: any of them may wait for it.
        assert {job.key for job in jobs.callers("p", None)} == {"first", "second"}


def jobs_of(*keys: str) -> tuple[RunningJobs, list[Any]]:
    """What a worker executes, all in one process, and what Dask is told."""
    told: list[Any] = []
    worker: Any = SimpleNamespace(handle_stimulus=told.append)
    return RunningJobs(worker, lambda process: set(keys)), told


def test_dask_is_told_once_that_a_task_waits() -> None:
    jobs, told = jobs_of("first", "second")
    with jobs.occupied("first", "1" * 64, 0), jobs.occupied("second", "2" * 64, 3):
        callers = jobs.callers("p", "first")
        with jobs.waiting(callers), jobs.waiting(callers):
            assert callers[0].pending == 2
        assert callers[0].pending == 0
        assert [event.key for event in told] == ["first"]
        # of a process that a transformation has started
        assert jobs.caller_waits(None, "second") == {"key": "second", "depth": 3}
        assert jobs.caller_waits(None, "second") == {"key": "second", "depth": 3}
        assert [event.key for event in told] == ["first", "second"]
    assert "first" not in jobs
    assert jobs.caller_waits("p", "first") == {"key": None, "depth": 0}


def test_the_likeliest_caller_does_not_wait_already_and_has_begun_last() -> None:
    jobs, _ = jobs_of("first", "second", "third")
    with (
        jobs.occupied("first", "1" * 64, 0),
        jobs.occupied("second", "2" * 64, 0),
        jobs.occupied("third", "3" * 64, 0),
    ):
        with jobs.waiting(jobs.callers("p", "third")):
            keys = [job.key for job in jobs.callers("p", None)]
    assert keys == ["second", "first", "third"]


def test_a_cancelled_task_cancels_its_requests_unless_they_are_shared() -> None:
    async def cancel() -> tuple[bool, bool]:
        jobs, _ = jobs_of("first", "second")
        own = asyncio.ensure_future(asyncio.sleep(60, {}))
        shared = asyncio.ensure_future(asyncio.sleep(60, {}))
        with jobs.occupied("second", "2" * 64, 0):
            jobs.callers("p", "second")[0].requests.add(shared)
            try:
                with jobs.occupied("first", "1" * 64, 0):
                    jobs.callers("p", "first")[0].requests |= {own, shared}
                    raise asyncio.CancelledError
            except asyncio.CancelledError:
                await asyncio.sleep(0)
            ended = own.cancelled(), shared.cancelled()
        shared.cancel()
        return ended

    assert asyncio.run(cancel()) == (True, False)

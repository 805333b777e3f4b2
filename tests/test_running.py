"""Which transformation of a Dask worker is it that calls."""

from __future__ import annotations

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

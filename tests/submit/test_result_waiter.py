"""How results come to a client, with a real scheduler and worker in this process."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from distributed import Client, LocalCluster
from helpers.schedulers import asynchronous

from seamless_dask.submit.envelopes import Envelope
from seamless_dask.submit.pace import Pace
from seamless_dask.submit.registry import Entry
from seamless_dask.submit.result_waiter import Results
from seamless_dask.types import TransformationResult

pytestmark = pytest.mark.cluster

COMPUTED = TransformationResult("1" * 64, "2" * 64)
PUSHED = TransformationResult("1" * 64, "3" * 64)


@asynccontextmanager
async def connected() -> AsyncIterator[Client]:
    async with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=False,
            dashboard_address=None,
            asynchronous=True,
        ) as cluster,
        Client(cluster, asynchronous=True) as client,
    ):
        yield client


def entry_of(client: Client, function: Callable[..., Any], *arguments: Any) -> Entry:
    key = f"base-{id(arguments)}-{function.__name__}"

    def submit() -> Any:
        return client.submit(function, *arguments, key=key, pure=False)

    return Entry(key, key, None, submit, submit(), Envelope({}, False))


def results_of(client: Client, local: Callable[[Any], Any] | None = None) -> Results:
    return Results(client, local, Pace(client))


def compute() -> TransformationResult:
    return COMPUTED


def fail() -> None:
    raise ValueError("so bad")


@asynchronous
async def test_the_result_of_a_task() -> None:
    async with connected() as client:
        entry = entry_of(client, compute)
        assert await results_of(client).of(entry) == COMPUTED


@asynchronous
async def test_a_result_that_has_come_with_the_end_of_the_task() -> None:
    """It is not asked for; but nothing is taken for a result before the end."""
    async with connected() as client:
        entry = entry_of(client, compute)
        entry.pushed = PUSHED
        assert await results_of(client).of(entry) == PUSHED
        failed = entry_of(client, fail)
        failed.pushed = PUSHED
        with pytest.raises(ValueError, match="so bad"):
            await results_of(client).of(failed)


@asynchronous
async def test_a_result_that_is_in_this_process() -> None:
    async with connected() as client:
        entry = entry_of(client, compute)
        assert await results_of(client, {entry.key: PUSHED}.get).of(entry) == PUSHED
        assert await results_of(client, {}.get).of(entry) == COMPUTED


@asynchronous
async def test_a_cancelled_task() -> None:
    async with connected() as client:
        entry = entry_of(client, compute)
        await client.cancel([entry.anchor], force=True)
        with pytest.raises((asyncio.CancelledError, concurrent.futures.CancelledError)):
            await results_of(client).of(entry)


@asynchronous
async def test_the_client_is_closed() -> None:
    """Its tasks are not cancelled: whoever waits is told what has happened."""
    async with connected() as client:
        entry = entry_of(client, compute)
        waiting = asyncio.ensure_future(results_of(client).of(entry))
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(ConnectionError, match="was closed|was lost"):
            await waiting


@asynchronous
async def test_what_a_dependent_task_is_given() -> None:
    """The result itself once that is known, else the task."""
    async with connected() as client:
        entry = entry_of(client, compute)
        results = results_of(client)
        assert results.as_argument(entry) is entry.anchor
        entry.outcome.set_result(COMPUTED)
        assert results.as_argument(entry) == COMPUTED

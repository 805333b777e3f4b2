"""How results come to a client, with a real scheduler and worker in this process."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from distributed import Client, LocalCluster, Scheduler, Worker
from helpers.schedulers import asynchronous, until

import scheduler_ext
from scheduler_ext.messages import PUSH_SEEN
from seamless_dask.cluster import scheduler as rpc_calls
from seamless_dask.submit.envelopes import Envelope
from seamless_dask.submit.pace import AHEAD, Pace
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


def compute(*inputs: TransformationResult) -> TransformationResult:
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


# -- connections that break ----------------------------------------------------------


@asynccontextmanager
async def over_tcp(*, workers: int = 0) -> AsyncIterator[tuple[Scheduler, Client]]:
    """A scheduler, and a client whose connections can be cut."""
    async with AsyncExitStack() as stack:
        scheduler = await stack.enter_async_context(
            Scheduler(host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0")
        )
        scheduler_ext.attach(scheduler)
        for _ in range(workers):
            await stack.enter_async_context(worker_of(scheduler))
        client = Client(scheduler.address, asynchronous=True, set_as_default=False)
        yield scheduler, await stack.enter_async_context(client)


def worker_of(scheduler: Scheduler) -> Worker:
    return Worker(scheduler.address, nthreads=1, dashboard_address="127.0.0.1:0")


async def cut(scheduler: Scheduler, client: Client, *entries: Entry) -> None:
    """Break the connection; return when the client has noticed."""
    scheduler.client_comms[client.id].comm.abort()
    await until(lambda: all(each.anchor.cancelled() for each in entries))


def chain_of(client: Client, results: Results, length: int) -> list[Entry]:
    """Each task needs the one before."""
    entries: list[Entry] = []
    for number in range(length):
        needs = tuple(entries[-1:])

        def submit(number: int = number, needs: tuple[Entry, ...] = needs) -> Any:
            arguments = [results.as_argument(each) for each in needs]
            return client.submit(compute, *arguments, key=f"base-{number}", pure=False)

        key, envelope = f"base-{number}", Envelope({}, False)
        entries.append(Entry(key, key, None, submit, submit(), envelope, needs))
    return entries


#: more than Python has room for if each member needs some nested calls
LONG = 500


@asynchronous
async def test_a_long_chain_after_a_lost_connection_as_an_argument() -> None:
    """All of it is submitted again, however long it is."""
    async with over_tcp() as (scheduler, client):
        results = results_of(client)
        entries = chain_of(client, results, LONG)
        await until(lambda: len(scheduler.tasks) == LONG)
        await cut(scheduler, client, *entries)
        assert results.as_argument(entries[-1]) is entries[-1].anchor
        await until(lambda: len(scheduler.tasks) == LONG)
        assert not any(each.anchor.cancelled() for each in entries)


@asynchronous
async def test_a_long_chain_after_a_lost_connection() -> None:
    """Whoever waits for its last member only gets the result."""
    async with over_tcp() as (scheduler, client):
        results = results_of(client)
        entries = chain_of(client, results, LONG)
        waiting = asyncio.create_task(results.of(entries[-1]))
        await until(lambda: len(scheduler.tasks) == LONG)
        await cut(scheduler, client)
        await until(lambda: all(each.renewed for each in entries) or waiting.done())
        async with worker_of(scheduler):
            assert await waiting == COMPUTED


@asynchronous
async def test_what_was_cancelled_meanwhile_is_not_submitted_again() -> None:
    """It may have to wait for others before its turn comes."""
    async with over_tcp() as (scheduler, client):
        client._stream_handlers[PUSH_SEEN] = lambda **_: None
        pace = Pace(client)
        results = Results(client, None, pace)
        entry = entry_of(client, compute)
        waiting = asyncio.create_task(results.of(entry))
        await until(lambda: scheduler.tasks)
        for _ in range(AHEAD):
            pace.sent()
        await cut(scheduler, client, entry)
        await until(lambda: pace._waiters)
        entry.outcome.cancel()
        pace._on_seen(AHEAD, 0, 1)
        with pytest.raises((asyncio.CancelledError, concurrent.futures.CancelledError)):
            await waiting
        assert not entry.renewed and not scheduler.tasks


class CutRequests:
    """Requests for results whose connection breaks before the answer."""

    def __init__(self, scheduler: Scheduler, client: Client, *, both: bool) -> None:
        self.broken = 0
        #: how many of them
        self.most = 1
        self._scheduler, self._client, self._both = scheduler, client, both
        self._stock = scheduler.handlers["gather"]
        scheduler.handlers["gather"] = self.gather

    async def gather(self, comm: Any, **arguments: Any) -> Any:
        if self.broken >= self.most:
            return await self._stock(**arguments)
        self.broken += 1
        if self._both:
            self._scheduler.client_comms[self._client.id].comm.abort()
        comm.abort()
        return None


@pytest.mark.parametrize("both", [False, True], ids=["request", "client"])
@asynchronous
async def test_the_connection_breaks_while_a_result_is_fetched(both: bool) -> None:
    """That of the request, or all of them: the client fetches it again."""
    async with over_tcp(workers=1) as (scheduler, client):
        requests = CutRequests(scheduler, client, both=both)
        entry = entry_of(client, compute)
        assert await results_of(client).of(entry) == COMPUTED
        assert requests.broken == 1
        assert entry.renewed == both


@asynchronous
async def test_a_result_that_can_never_be_fetched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client gives up as it does when it does not find the scheduler again."""
    monkeypatch.setattr(rpc_calls, "RETRY_INTERVAL", 0.01)
    async with over_tcp(workers=1) as (scheduler, client):
        requests = CutRequests(scheduler, client, both=False)
        requests.most = 1_000_000
        client._timeout = 0.3
        with pytest.raises(ConnectionError, match="was lost"):
            await results_of(client).of(entry_of(client, compute))
        assert requests.broken > 2


@asynchronous
async def test_a_client_that_is_closed_fetches_no_more() -> None:
    async with over_tcp(workers=1) as (scheduler, client):
        requests = CutRequests(scheduler, client, both=False)
        requests.most = 1_000_000
        waiting = asyncio.create_task(results_of(client).of(entry_of(client, compute)))
        await until(lambda: requests.broken)
        await client.close()
        with pytest.raises(ConnectionError, match="was lost|was closed"):
            await waiting


def fail_as_the_network_does() -> None:
    raise OSError("no route to host")


@asynchronous
async def test_a_task_that_raises_what_a_broken_connection_raises() -> None:
    """It is the error of the task, and comes at once."""
    async with over_tcp(workers=1) as (_, client):
        with pytest.raises(OSError, match="no route to host") as caught:
            await results_of(client).of(entry_of(client, fail_as_the_network_does))
        assert not isinstance(caught.value, ConnectionError)

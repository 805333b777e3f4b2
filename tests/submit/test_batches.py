"""Submissions that share a graph, on a real scheduler in this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from distributed import Client, Future, Scheduler
from helpers.schedulers import asynchronous, until

import scheduler_ext
from scheduler_ext.messages import OWNER
from seamless_dask.submit import batches
from seamless_dask.submit.batches import Batches
from seamless_dask.submit.client_loop import ClientLoop
from seamless_dask.submit.pace import Pace
from seamless_dask.submit.submitter import Submitter
from seamless_dask.submit.tasks import Job
from seamless_dask.types import TransformationSubmission

pytestmark = pytest.mark.cluster

UNIT = {"S": 1.0}


def job(number: int, *, depth: int = 0, **dunder: Any) -> Job:
    digits = f"{number:064x}"
    return Job(
        key=f"base-{digits}",
        transformation_dict={"__language__": "python"},
        tf_checksum=digits,
        tf_dunder=dunder,
        dependencies=(),
        scratch=False,
        allow_input_fingertip=False,
        strict_dunder=False,
        depth=depth,
    )


class Subject:
    """Batches of a client of a scheduler without workers, so that every task stays."""

    def __init__(self, scheduler: Scheduler, client: Client) -> None:
        self.scheduler = scheduler
        self.pace = Pace(client)
        self.failures: list[tuple[str, str]] = []
        self.graphs: list[int] = []
        map_stock = client.map

        def map_counted(function: Any, jobs: list[Job], **options: Any) -> Any:
            result = map_stock(function, jobs, **options)
            self.graphs.append(len(jobs))
            return result

        client.map = map_counted  # type: ignore[method-assign]
        self.batches = Batches(client, ClientLoop(client), self.pace, self.failed)

    def submit(self, job: Job, units: dict[str, float], **annotations: str) -> Future:
        future = Future(job.key, self.batches._client)
        self.batches.submit(job, units, annotations, future)
        return future

    def failed(self, job: Job, error: Exception) -> None:
        self.failures.append((job.key, type(error).__name__))

    async def there(self, number: int) -> None:
        await until(lambda: len(self.scheduler.tasks) == number)


@asynccontextmanager
async def subject() -> AsyncIterator[Subject]:
    async with Scheduler(
        host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0"
    ) as scheduler:
        async with Client(
            scheduler.address, asynchronous=True, set_as_default=False
        ) as client:
            yield Subject(scheduler, client)


@asynchronous
async def test_submissions_of_one_turn_share_a_graph() -> None:
    """Each has its own priority and resources nevertheless."""
    async with subject() as own:
        futures = [own.submit(job(i), UNIT) for i in range(5)]
        futures += [own.submit(job(i, depth=2), {"N": 1.0}) for i in (7, 8)]
        await own.there(7)
        assert own.graphs == [5, 2]
        tasks = own.scheduler.tasks
        nested = tasks[job(7).key]
        assert (nested.priority[0], nested.resource_restrictions) == (-2, {"N": 1.0})
        assert tasks[job(0).key].resource_restrictions == UNIT
        futures.append(own.submit(job(9), UNIT, caller="base-x"))
        await own.there(8)
        assert tasks[job(9).key].annotations["caller"] == "base-x"
        del futures
        await own.there(0)


@asynchronous
async def test_the_calls_of_one_transformation_share_a_graph() -> None:
    """Their tasks say which transformation that is; others say nothing."""
    async with subject() as own:
        calls = [({OWNER: "a"}, 2), ({OWNER: "b"}, 1), ({}, 2)]
        futures = []
        for annotations, number in calls:
            for _ in range(number):
                each = job(len(futures), depth=1)
                futures.append(own.submit(each, {"N": 1.0}, **annotations))
        await own.there(5)
        assert own.graphs == [2, 1, 2]
        found = [own.scheduler.tasks[f.key].annotations or {} for f in futures]
        assert [each.get(OWNER) for each in found] == ["a", "a", "b", None, None]


@asynchronous
async def test_while_the_cluster_has_enough_to_do_they_are_collected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nested work has its slot, and takes along what was collected."""
    monkeypatch.setattr(batches, "WINDOW", 3600.0)
    async with subject() as own:
        own.pace.held = batches.ENOUGH
        futures = [own.submit(job(0), UNIT)]
        for turn in range(1, 4):
            await asyncio.sleep(0)
            futures.append(own.submit(job(turn), UNIT))
        assert not own.graphs
        futures.append(own.submit(job(9, depth=1), {"N": 1.0}))
        await own.there(5)
        assert own.graphs == [4, 1]
        futures.append(own.submit(job(10), UNIT))
        own.batches.flush()
        await own.there(6)


@asynchronous
async def test_a_graph_has_so_many_tasks_at_the_most() -> None:
    """Else the scheduler would read nothing else for long."""
    async with subject() as own:
        number = 2 * batches.MOST + 1
        futures = [own.submit(job(i), UNIT) for i in range(number)]
        await own.there(len(futures))
        assert own.graphs == [batches.MOST, batches.MOST, 1]


@asynchronous
async def test_a_job_that_cannot_be_sent_concerns_no_other() -> None:
    """Locks cannot be pickled."""
    async with subject() as own:
        bad = job(1, lock=threading.Lock())
        futures = [own.submit(each, UNIT) for each in (job(0), bad, job(2))]
        await own.there(2)
        assert own.failures == [(bad.key, "TypeError")]
        assert futures[0].status == "pending"


@asynchronous
async def test_what_is_released_before_it_is_sent_never_becomes_a_task() -> None:
    """A cancelled submission leaves nothing."""
    async with subject() as own:
        own.pace.held = batches.ENOUGH
        kept, released = (own.submit(job(i), UNIT) for i in range(2))
        released.release()
        await until(lambda: released.cancelled())
        await own.there(1)
        assert set(own.scheduler.tasks) == {kept.key}


@asynchronous
async def test_a_closed_client_is_a_failure_of_each_job() -> None:
    """Nobody waits for ever for a task that was never sent."""
    async with subject() as own:
        own.pace.held = batches.ENOUGH
        client = own.batches._client
        future = own.submit(job(0), UNIT)
        await client.close()
        own.batches.flush()
        assert future.cancelled() or own.failures


@pytest.mark.parametrize("number", [1, batches.MOST])
@asynchronous
async def test_a_submission_that_cannot_be_sent_ends(number: int) -> None:
    """Also if it is the one that fills a batch, which is sent at once then."""
    async with subject() as own:
        scheduler_ext.attach(own.scheduler)
        submitter = Submitter(own.batches._client, role="driver")
        futures = [
            submitter.submit_transformation(
                TransformationSubmission(
                    transformation_dict={"__language__": "python"},
                    inputs={},
                    input_futures={},
                    tf_checksum=f"{i:064x}",
                    tf_dunder={"lock": threading.Lock()} if i == number else {},
                    scratch=False,
                    require_value=False,
                    allow_input_fingertip=False,
                    strict_dunder=False,
                )
            )
            for i in range(1, number + 1)
        ]
        await until(futures[-1].base.done)
        assert "cannot be submitted" in futures[-1].base.result().error
        assert not any(each.base.done() for each in futures[:-1])
        await own.there(number - 1)

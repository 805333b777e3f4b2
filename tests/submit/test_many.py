"""Many transformations from one driver script, without Seamless processes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import BENCHMARKS
from helpers.polling import wait_until

from seamless_dask import SeamlessDaskClient
from seamless_dask.neighbours import bounded_tables, starts
from seamless_dask.submit import intake, pace, submitter

sys.path.insert(0, str(BENCHMARKS))

import stubs
import tables

pytestmark = pytest.mark.cluster

#: a guard against hanging
SOON = 60.0


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[SeamlessDaskClient]:
    """A scheduler, a worker and a client in this process; the processes are stubs."""
    from seamless_dask import create_dummy_client, set_seamless_dask_client
    from seamless_dask.pool import pool

    monkeypatch.setattr(pool, "Pool", stubs.StubPool)
    client = create_dummy_client(worker_threads=6, spawn_workers=2)
    yield client
    set_seamless_dask_client(None)


def make(salt: Any, i: Any = 0, children: int = 0, seconds: float = 0.0) -> Any:
    from seamless.transformer import delayed

    return delayed(stubs.double)(salt, i, children, seconds)


def status(client: SeamlessDaskClient) -> dict[str, Any]:
    found: dict[str, Any] = client.start(client_status(client)).result()
    return found


async def client_status(client: SeamlessDaskClient) -> dict[str, Any]:
    from seamless_dask.cluster import scheduler

    return await scheduler.status(client.client)


def at_scheduler(client: SeamlessDaskClient) -> int:
    activity = status(client)["activity"]
    return sum(activity[s] for s in ("waiting", "queued", "no_worker", "processing"))


def keep_back(monkeypatch: pytest.MonkeyPatch, *, unended: int, looked_up: int) -> None:
    """Keep all others in the driver script: these are submitted, these looked up."""
    monkeypatch.setattr(pace, "UNENDED", unended)
    monkeypatch.setattr(pace, "PER_SLOT", 0)
    monkeypatch.setattr(submitter, "LOOKED_UP", looked_up)


def test_what_cannot_run_soon_stays_in_the_driver_script(
    client: SeamlessDaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All end nevertheless, also those that need one that was kept back."""
    keep_back(monkeypatch, unended=20, looked_up=30)
    slow = [make("slow", i, seconds=3600.0) for i in range(20)]
    for each in slow:
        each.start()
    wait_until(lambda: at_scheduler(client) == 20, "they are submitted", SOON)
    others = [make("others", i, children=i % 2) for i in range(100)]
    last = make("last", others[-1])
    for each in (*others, last):
        each.start()
    wait_until(lambda: status(client)["announced"] >= 30, "the rest is told", SOON)
    assert at_scheduler(client) == 20
    for each in slow:
        each.cancel()
    last.compute()
    assert last.exception is None
    for each in others:
        each.compute()
        assert each.exception is None
    wait_until(lambda: status(client)["announced"] == 0, "none is left", SOON)
    assert client.pace._unended == client.pace._admitted == client.pace.kept_back == 0


def test_what_is_kept_back_can_be_cancelled(
    client: SeamlessDaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left of it, here or on the cluster."""
    keep_back(monkeypatch, unended=5, looked_up=10)
    made = [make("cancelled", i, seconds=3600.0) for i in range(100)]
    for each in made:
        each.start()
    wait_until(lambda: status(client)["announced"] >= 10, "some are kept back", SOON)
    for each in made:
        each.cancel()
    wait_until(lambda: at_scheduler(client) == 0, "all tasks are gone", SOON)
    wait_until(lambda: status(client)["announced"] == 0, "none is kept back", SOON)
    wait_until(lambda: len(client._intake) == 0, "none is about to begin", SOON)
    assert make("afterwards").compute() is not None


def test_the_scheduler_is_told_when_what_has_not_begun_is_cancelled(
    client: SeamlessDaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the cluster would grow for it, while nothing else happens."""
    keep_back(monkeypatch, unended=5, looked_up=10)
    monkeypatch.setattr(intake, "AT_A_TIME", 5)
    made = [make("not begun", i, seconds=3600.0) for i in range(300)]
    for each in made:
        each.start()
    wait_until(lambda: at_scheduler(client) == 5, "some are submitted", SOON)
    wait_until(lambda: client.is_crowded, "some are kept back", SOON)
    client.loop.call_soon_threadsafe(client.pace.tell)
    wait_until(lambda: status(client)["announced"] > 250, "the others are told", SOON)
    for each in made[100:]:
        each.cancel()
    wait_until(lambda: status(client)["announced"] < 110, "less is told", SOON)
    assert at_scheduler(client) == 5
    assert len(client._intake) + client.pace.kept_back <= 95
    for each in made:
        each.cancel()
    wait_until(lambda: status(client)["announced"] == 0, "none is left", SOON)


def test_a_long_chain_that_is_started(client: SeamlessDaskClient) -> None:
    """Starting takes no recursion, and each member is evaluated once."""
    last = make("chain")
    for _ in range(sys.getrecursionlimit() + 100):
        last = make("chain", last)
    last.start()
    assert last.compute() is not None, last.exception


def test_shared_dependencies_are_started_once(client: SeamlessDaskClient) -> None:
    """Each layer needs the one before twice: there are 2**60 ways through them."""
    last = make("layers")
    for _ in range(60):
        last = make(last, last)
    last.start()
    assert last.compute() is not None, last.exception


def test_an_input_goes_on_when_the_one_that_submitted_it_is_cancelled(
    client: SeamlessDaskClient,
) -> None:
    """It is shared by two, and the first is given up."""
    common = make("common", seconds=0.5)
    first, second = make("first", common), make("second", common)
    first.start()
    second.start()
    first.cancel()
    assert second.compute() is not None, second.exception


def test_a_started_transformation_lives_no_longer_than_its_references(
    client: SeamlessDaskClient,
) -> None:
    """Also in a script whose event loop never runs."""
    asyncio.set_event_loop(asyncio.new_event_loop())
    each = make("short-lived")
    each.start()
    assert each.compute() is not None
    reference = weakref.ref(each)
    del each

    def deleted() -> bool:
        gc.collect()
        return reference() is None

    wait_until(deleted, "it is deleted", SOON)


def test_a_started_transformation_can_be_awaited(client: SeamlessDaskClient) -> None:
    """On a loop that runs only later."""
    each = make("awaited").start()

    async def wait() -> Any:
        return await each.computation()

    assert asyncio.run(wait()) is not None


def test_no_table_grows(
    client: SeamlessDaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In driver, scheduler and worker, which are all in this process."""
    from scheduler_ext.view import history
    from seamless_dask.storage import cache

    monkeypatch.setattr(submitter, "CACHE_TTL", 0.2)
    monkeypatch.setattr(bounded_tables, "TABLE_LIMIT", 50)
    monkeypatch.setattr(history, "MAX_ENDINGS", 50)
    monkeypatch.setattr(cache, "MAX_BUFFERS", 50)

    def run(salt: str, number: int) -> None:
        made = [make(salt, i, children=i % 3 == 0) for i in range(number)]
        for each in made:
            each.start()
        for each in made:
            each.compute()
        wait_until(lambda: client._registry.idle, "all are forgotten", SOON)

    # A table that grows for ever grows each time. One that has only grown once may be a
    # new one, in the place in memory of one that is gone.
    run("before", 150)
    for salt in ("after", "again", "once more"):
        before = tables.lengths()
        run(salt, 300)
        grown = until_none(before)
        if not grown:
            return
    raise AssertionError("\n".join(grown))


def test_an_event_loop_goes_on_while_thousands_begin_on_it(
    client: SeamlessDaskClient,
) -> None:
    """Its other tasks, and Ctrl-C, do not wait until all have begun."""
    made = [make("begin", i) for i in range(1000)]

    async def look() -> int:
        turns = 0
        while any(each._dask_evaluation is None for each in made):
            turns += 1
            await asyncio.sleep(0)
        return turns

    async def main() -> int:
        looking = asyncio.create_task(look())
        values = await asyncio.gather(*(each.task() for each in made))
        assert values == [2 * i for i in range(1000)]
        return await looking

    assert asyncio.run(main()) >= 1000 // starts.AT_A_TIME


def until_none(before: dict[int, int]) -> list[str]:
    """The tables that have grown, also after a while."""
    grown: list[str] = []

    def none() -> bool:
        # a third of the transformations has calls
        grown[:] = tables.grown(before, 90)
        return not grown

    with contextlib.suppress(AssertionError):
        wait_until(none, "no table has grown", SOON / 4)
    return grown


def test_the_interpreter_ends_soon_after_many(tmp_path: Path) -> None:
    """With their objects, Python's search for garbage at its end would take long."""
    script = """
        import atexit, gc, sys
        atexit.register(lambda: print(sys.argv[1], gc.get_freeze_count() > 0))
        sys.path.insert(0, sys.argv[2])
        import stubs
        from seamless.transformer import delayed
        from seamless_dask import create_dummy_client
        from seamless_dask.pool import pool
        from seamless_dask import garbage
        from seamless_dask.submit import intake
        pool.Pool = stubs.StubPool
        intake.search = garbage.GarbageSearch(10)
        create_dummy_client(worker_threads=2, spawn_workers=1)
        made = [delayed(stubs.double)("end", i, 0, 0.0) for i in range(int(sys.argv[1]))]
        for each in made:
            each.start()
        print(made[-1].run())
    """
    for number, frozen in ((2, False), (11, True)):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), str(number), BENCHMARKS],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=SOON,
        )
        assert done.stdout.splitlines()[-1] == f"{number} {frozen}", done.stderr

"""Nothing grows with use: a short soak of the real stack, and the tables one by one.

``benchmarks/soak.py`` does the same at length and prints the curves.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest
from helpers.paths import BENCHMARKS
from helpers.stack import RealStack
from seamless import Buffer

from seamless_dask.neighbours.bounded_tables import BoundedTable, synchronize_caches
from seamless_dask.storage.cache import MAX_BUFFERS, BufferStore

sys.path.insert(0, str(BENCHMARKS))

from soak import slopes, soak

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def rows() -> Rows:
    """600 small transformations, then 60 with 1 MB in and 1 MB out."""
    with RealStack() as stack:
        return list(soak(stack, small=600, large=60, step=75))


def part(rows: Rows, kind: str) -> Rows:
    return [row for row in rows if row["kind"] == kind]


@pytest.mark.cluster
@pytest.mark.parametrize(
    "kind, megabytes",
    [("driver", 40), ("scheduler", 25), ("worker", 25), ("child1", 5), ("child2", 5)],
)
def test_memory_of_small_transformations(
    rows: Rows, kind: str, megabytes: float
) -> None:
    """Growth in MB per 1000: caches of bounded size are filling, nothing else."""
    assert slopes(part(rows, "small"))[f"{kind} MB"] < megabytes


@pytest.mark.cluster
def test_memory_of_large_buffers(rows: Rows) -> None:
    """60 times 2 MB fit into no process below: they are not kept."""
    before, after = part(rows, "small")[-1], rows[-1]
    grown = {
        kind: after[f"{kind} MB"] - before[f"{kind} MB"]
        for kind in ("driver", "scheduler", "worker", "child1", "child2")
    }
    assert grown["scheduler"] < 10
    # The driver's cache is emptied in half a minute, the worker's holds 128 MiB.
    assert grown["driver"] < 130
    assert grown["worker"] < 160
    # Seamless keeps the last ten values of several kinds, we collect after 64 MiB.
    assert max(grown["child1"], grown["child2"]) < 130


@pytest.mark.cluster
@pytest.mark.parametrize("kind", ["driver", "scheduler", "worker", "child1", "child2"])
def test_threads_and_descriptors(rows: Rows, kind: str) -> None:
    """They come with the first transformations and stay as many."""
    settled = part(rows, "small")[1]
    assert rows[-1][f"{kind} thr"] <= settled[f"{kind} thr"] + 6
    assert rows[-1][f"{kind} fds"] <= settled[f"{kind} fds"] + 20


@pytest.mark.cluster
def test_tasks_are_forgotten(rows: Rows) -> None:
    """The worker knows no more tasks than the scheduler, and no lease is left.

    How many there are depends on the speed: those of the last ten seconds.
    """
    for row in rows:
        assert row["scheduler.groups"] <= 3
        assert row["scheduler.clients"] <= 4
        assert row["leases"] == 0
    assert rows[-1]["worker.tasks"] == rows[-1]["scheduler.tasks"]
    assert rows[-1]["worker.writes"] == rows[-1]["driver.writes"] == 0


def test_a_table_forgets_the_oldest() -> None:
    """However it is filled; what is set again counts as new only if it was gone."""
    table = BoundedTable(3, {"a": 1, "b": 2})
    table["c"] = 3
    table.setdefault("d", 4)
    table["b"] = 5
    table.update(e=6)
    assert dict(table) == {"c": 3, "d": 4, "e": 6}
    assert table.get("a") is None


def test_small_buffers_are_bounded_in_number() -> None:
    """Their own bytes are the smaller part of what they cost."""
    store = BufferStore()
    for number in range(MAX_BUFFERS + 10):
        store.add(Buffer(b"%d" % number))
    assert len(store) == MAX_BUFFERS


def test_threads_share_the_caches_of_checksums() -> None:
    """A process runs several jobs, and each makes buffers."""
    synchronize_caches()
    failures = []

    def make(thread: int) -> None:
        try:
            for i in range(3000):
                Buffer(f"{thread % 2}/{i % 25}", "plain").get_checksum()
        except KeyError as exc:
            failures.append(exc)

    threads = [threading.Thread(target=make, args=(i,)) for i in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failures

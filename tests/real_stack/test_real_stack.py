"""The promise, on the real stack: each workload ends and stores every result.

One LocalCluster worker with two Seamless processes, started by seamless-config and
remote-http-launcher; each workload runs in a driver of its own and then again in a
fresh one, which must not execute anything.
"""

from __future__ import annotations

import time
from typing import Any

import pytest
from helpers.stack import RealStack

pytestmark = pytest.mark.cluster

#: workload, arguments, seconds until the driver counts as hanging
FULL: list[tuple[str, dict[str, Any], float]] = [
    ("independent", {"n": 300}, 90),
    ("run_while_iterating", {"n": 50}, 60),
    ("tree", {"n": 40}, 120),
    ("fan", {"n": 6, "leaves": 20, "how": "start"}, 90),
    ("fan", {"n": 6, "leaves": 20, "how": "parallel"}, 90),
    ("fan", {"n": 6, "leaves": 20, "how": "sequential"}, 90),
    ("recursion", {"n": 40, "depth": 3}, 90),
    ("recursion", {"n": 10, "depth": 6}, 90),
    ("chain", {"n": 50}, 90),
    ("big", {"n": 10, "megabytes": 10}, 90),
    *(
        ("pi", {"trials": trials, "driver": driver}, 120.0)
        for trials in (32, 48, 80, 250)
        for driver in (True, False)
    ),
]


def label(name: str, arguments: dict[str, Any]) -> str:
    """Such as ``fan-n=6,leaves=20,how=start``: a test id and a salt."""
    return f"{name}-" + ",".join(f"{key}={item}" for key, item in arguments.items())


def counters(stack: RealStack) -> tuple[int, int]:
    """How many transformations the cluster has finished, and how many it refused."""
    status = stack.scheduler_status()
    refused = status["permissions"]["refused_total"]
    return (
        status["activity"]["transformations"]["finished_total"],
        sum(refused.values()),
    )


def check(stack: RealStack, name: str, arguments: dict[str, Any], guard: float) -> None:
    """Run a workload twice and check everything that was promised about it."""
    # The same workload with other arguments would find some of its results.
    salt = label(name, arguments)
    finished, refused = counters(stack)
    first = stack.run_workload(name, salt=salt, timeout=guard, **arguments)
    distinct = first.outcome["distinct"]
    assert first.outcome["values_ok"], first.outcome
    assert len(first.new_results) == distinct
    # Each was executed, says so, and went through the scheduler: a refused one would
    # run inside the process that asked for it.
    assert first.executed == set(first.new_results)
    assert counters(stack) == (finished + distinct, refused)
    missing = {
        checksum
        for checksum, result in first.new_results.items()
        if not stack.has_buffer(result)
    }
    assert not missing, "results without a buffer on the hashserver"
    for ours in ("seamless_dask", "scheduler_ext"):
        assert ours not in first.driver.stderr, "while all is well we say nothing"

    again = stack.run_workload(name, salt=salt, timeout=guard, **arguments)
    assert again.outcome["values_ok"], again.outcome
    assert not again.new_results
    assert not again.executed
    assert counters(stack) == (finished + distinct, refused)


@pytest.fixture(scope="module", autouse=True)
def services(real_stack: RealStack) -> None:
    """Have the cluster running, so that its counters can be read beforehand."""
    real_stack.run_workload("independent", n=1, salt="start", timeout=90)


@pytest.mark.parametrize(
    ("name", "arguments", "guard"),
    [pytest.param(*case, id=label(*case[:2])) for case in FULL],
)
def test_workload_ends_and_is_stored(
    real_stack: RealStack, name: str, arguments: dict[str, Any], guard: float
) -> None:
    """Values, one row per distinct transformation, and a second run from cache."""
    check(real_stack, name, arguments, guard)


@pytest.mark.parametrize("seed", [0, 100, 200])
def test_random_trees_end_and_are_stored(real_stack: RealStack, seed: int) -> None:
    """Sixty random trees in three drivers of twenty."""
    check(real_stack, "random_trees", {"seed": seed, "n": 20, "max_nodes": 30}, 240)


#: a second worker as soon as there is work for more than half a second
TWO_WORKERS = {
    "project": "pair",
    "queue": {
        "maximum_jobs": 2,
        "target-duration": "500ms",
        "unknown-task-duration": "5s",
    },
}


@pytest.mark.parametrize("real_stack", [TWO_WORKERS], indirect=True)
def test_random_trees_on_two_workers(real_stack: RealStack) -> None:
    """Sixty trees whose nodes run on either worker, wherever their parents are."""
    for seed in (0, 100, 200):
        arguments = {"seed": seed, "n": 20, "max_nodes": 30}
        check(real_stack, "random_trees", arguments, 240)
    assert len(real_stack.scheduler_status()["workers"]) == 2


def test_a_seamless_process_is_kept_for_the_next_job(real_stack: RealStack) -> None:
    """What libraries of ours leave running in it is nothing that a job has left."""
    real_stack.run_workload("independent", n=20, salt="all are started", timeout=90)
    before = set(real_stack.processes())
    run = real_stack.run_workload("one_at_a_time", n=30, salt="kept", timeout=90)
    assert len(run.executed) == 30
    assert set(real_stack.processes()) <= before


def test_status_file_and_scheduler_agree(real_stack: RealStack) -> None:
    """The launcher's file leads to the scheduler that the workloads used."""
    (status,) = (
        status
        for key, status in real_stack.services().items()
        if key.startswith("daskserver-")
    )
    assert status["status"] == "running"
    assert status["dashboard_port"] != status["port"]
    assert "activity" in real_stack.scheduler_status()


def test_two_drivers_compute_once(real_stack: RealStack) -> None:
    """Two drivers that ask for the same at the same time share the work."""
    before = real_stack.stored()
    begin = time.monotonic()
    drivers = [
        real_stack.start_workload("tree", salt="together", n=10) for _ in range(2)
    ]
    results = [
        real_stack.finish(driver, begin=begin, timeout=120) for driver in drivers
    ]
    after = real_stack.stored()
    assert all(result.value["values_ok"] for result in results)
    distinct = results[0].value["distinct"]
    assert len(after.results) - len(before.results) == distinct
    assert len(after.records) - len(before.records) == distinct

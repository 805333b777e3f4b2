"""What the scheduler tells a driver script that waits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from helpers.schedulers import A, B, C, asynchronous, cluster, gate, pass_gate, until

from scheduler_ext.task_keys import base_key
from scheduler_ext.view.progress import Tally, seconds_left


def prefix(name: str, average: float, **states: int) -> Any:
    return SimpleNamespace(name=name, duration_average=average, states=states)


def test_time_left_is_that_of_known_work_on_what_runs() -> None:
    """Tasks that a worker has are half done; other tasks do not count."""
    known = [
        prefix("base_" + A, 10.0, waiting=3, processing=2, memory=100),
        prefix("base", 1.0, queued=6),
        prefix("inc", 1000.0, waiting=9),
        prefix("base_" + B, -1.0, memory=9),
    ]
    assert seconds_left(known, 2) == pytest.approx((3 * 10 + 2 * 5 + 6) / 2)
    # as those that are there: the 45 s of five of them and six halves
    assert seconds_left(known, 2, 20) == pytest.approx(46 / 2 * (1 + 20 / 10))
    assert seconds_left(known, 0) is None
    assert seconds_left([*known, prefix("base_" + C, -1.0, waiting=1)], 2) is None


def test_nested_transformations_are_counted_as_they_come_and_go() -> None:
    tally = Tally()
    for start, finish in (
        ("released", "waiting"),
        ("waiting", "processing"),
        ("released", "no-worker"),
        ("processing", "memory"),
        ("memory", "forgotten"),
    ):
        tally.moved(start, finish)
    assert (tally.unfinished, tally.ended) == (1, 1)
    tally.clear()
    assert (tally.unfinished, tally.ended) == (0, 1)


@asynchronous
async def test_an_answer_about_a_cluster() -> None:
    async with cluster() as c:
        answer = await c.call.seamless_progress()
        assert answer["status"] == "ok"
        assert answer["running"] == answer["waiting"] == 0 and answer["blocked"] == ""
        worker, client = await c.worker(nthreads=2), await c.client()
        await c.register(worker, throttle=2)
        top = client.submit(pass_gate, "top", key=base_key(A, {}), pure=False)
        call = client.submit(pass_gate, "call", key=base_key(B, {}), priority=3)
        stuck = client.submit(
            pass_gate, "stuck", key=base_key(C, {}), resources={"gpu": 1}
        )
        await until(lambda: c.plugin.operations.unfinished == 3)
        answer = await c.call.seamless_progress()
        assert answer["nested"] == {"unfinished": 1, "ended": 0}
        assert answer["waiting"] >= 1
        gate("top").set()
        gate("call").set()
        await client.gather([top, call])
        await until(lambda: c.plugin.operations.nested.ended == 1)
        answer = await c.call.seamless_progress()
        assert answer["nested"] == {"unfinished": 0, "ended": 1}
        assert "gpu" in answer["blocked"] and answer["refused"] == ""
        c.plugin.scaling.update(
            jobs={}, submission_error={"message": "sbatch: no"}, excluded_nodes={}
        )
        assert (await c.call.seamless_progress())["refused"] == "sbatch: no"
        wrong = await c.call.seamless_progress(more=1)
        assert wrong["status"] == "error" and "'more'" in wrong["errors"][0]
        assert not stuck.done()

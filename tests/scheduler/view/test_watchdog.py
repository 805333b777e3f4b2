"""When a cluster stands still, somebody is told; the clock is advanced by hand."""

from __future__ import annotations

import logging

import dask
import pytest
from distributed.core import Status
from distributed.metrics import monotonic, time
from helpers.metrics import metrics_of
from helpers.schedulers import (
    A,
    B,
    C,
    asynchronous,
    cluster,
    gate,
    pass_gate,
    until,
)
from hypothesis import given
from hypothesis import strategies as st

from scheduler_ext.view import figures
from scheduler_ext.view.standstill import Standstill

LIMIT = 300.0


class Clock:
    """Steps of a plugin at times that the test chooses."""

    def __init__(self, plugin):
        self.plugin = plugin
        self.now = monotonic()

    def run(self, seconds):
        """Beat after beat, as many as the watchdog needs."""
        for _ in range(50):
            self.now += seconds / 50
            self.plugin.step(self.now)


@given(
    st.lists(
        st.tuples(st.floats(1, 100), st.booleans(), st.integers(0, 2), st.booleans()),
        max_size=60,
    )
)
def test_a_warning_needs_a_silent_time(steps):
    """Before each warning nothing ended, nothing ran and something waited all along."""
    stand = Standstill(LIMIT, 0.0)
    now = 0.0
    ended = 0
    quiet_since = 0.0
    warned = False
    for seconds, ends, unfinished, alive in steps:
        now += seconds
        ended += ends
        asked = []
        due = stand.look(
            now,
            ended=ended,
            unfinished=unfinished,
            alive=lambda asked=asked, alive=alive: asked.append(1) or alive,
        )
        if ends or not unfinished:
            quiet_since, warned = now, False
            assert not asked, "no look at the workers while things end"
        elif asked and alive:
            quiet_since = now
        if due:
            assert not warned and now - quiet_since >= LIMIT
            warned = True
        if stand.since is not None:
            assert warned and now - stand.since >= LIMIT
        elif asked and not alive:
            assert now - quiet_since < LIMIT


def test_it_can_be_turned_off():
    """Nobody is asked what runs."""
    stand = Standstill(None, 0.0)
    assert not stand.look(1e6, ended=0, unfinished=1, alive=lambda: 1 / 0)


@pytest.mark.cluster
@asynchronous
async def test_the_configuration_decides():
    """Zero is never; what is no duration is refused with the key and the value."""
    for value in ("0", None):
        with dask.config.set({"seamless-dask.stall-warning": value}):
            async with cluster() as c:
                clock = Clock(c.plugin)
                await c.request(await c.client(), f"base-{A}")
                clock.run(1e6)
                assert c.plugin.status()["stall"] is None
    with dask.config.set({"seamless-dask.stall-warning": "soon"}):
        with pytest.raises(ValueError, match="stall-warning: got 'soon', allowed"):
            async with cluster():
                raise AssertionError("it has started")


@pytest.mark.cluster
@asynchronous
async def test_who_waits_for_what_is_in_the_log_once(caplog):
    """A runs and then calls B, which its worker does not submit."""
    async with cluster(start_timeout=1e6) as c:
        clock = Clock(c.plugin)
        client = await c.client()
        worker = await c.worker(name="alpha")
        await c.register(worker)
        future = client.submit(pass_gate, "x", key=f"base-{A}")
        await until(lambda: worker.state.executing_count)
        await worker.heartbeat()
        clock.run(10 * LIMIT)
        assert c.plugin.status()["stall"] is None, "it runs for long"

        await c.request(worker, f"base-{C}")
        await c.request(worker, f"base-{B}", owner=f"base-{A}", depth=1)
        clock.run(0.8 * LIMIT)
        assert c.plugin.status()["stall"] is None
        with caplog.at_level(logging.WARNING, "scheduler_ext.view.standstill"):
            clock.run(5 * LIMIT)
        [record] = [
            r for r in caplog.records if r.name == "scheduler_ext.view.standstill"
        ]
        lines = record.getMessage().splitlines()
        assert lines[0].startswith("Standstill: for 5 min nothing has ended")
        assert "unfinished: 1 processing, 2 not submitted." in lines[0]
        assert lines[1] == (
            f"  unnamed {A[:12]} on alpha: waits for 1 call -> unnamed ×2 {B[:12]}: it has "
            "a slot, worker alpha is about to submit it"
        )
        stall = (await c.call.seamless_status())["stall"]
        assert stall["message"].splitlines()[1:] == lines[1:]
        assert stall["since"] < time() + 1
        assert figures.figures(c.plugin.operations).problems == [stall["message"]]
        assert (await metrics_of(c.scheduler))["seamless_standstill_seconds"] > 0

        await c.call.seamless_release(holder=worker.address, ids=[f"base-{C}"])
        clock.run(LIMIT)
        caplog.clear()
        gate("x").set()
        await future
        clock.run(0.5 * LIMIT)
        assert c.plugin.status()["stall"] is None
        with caplog.at_level(logging.WARNING, "scheduler_ext.view.standstill"):
            clock.run(2 * LIMIT)
        assert "Standstill" in caplog.text, "something ended in between"


@pytest.mark.cluster
@asynchronous
async def test_paused_workers_are_named_everywhere(caplog):
    """Dask gives them no tasks, for want of memory, and tells nobody."""
    advice = "paused: memory limit reached; ask for more memory"
    async with cluster() as c:
        clock = Clock(c.plugin)
        client = await c.client()
        worker = await c.worker(nthreads=1, name="alpha", memory_limit=0)
        runs = client.submit(pass_gate, "x", key=f"base-{A}")
        assigned = client.submit(pass_gate, "x", key=f"base-{B}", workers=["alpha"])
        await until(lambda: worker.state.executing_count and worker.state.ready)
        worker.status = Status.paused
        other = client.submit(pass_gate, "x", key=f"base-{C}")
        await until(lambda: c.state(other.key) in ("no-worker", "queued"))
        gate("x").set()
        await runs
        await worker.heartbeat()
        clock.run(2 * LIMIT)
        assert f"1 worker is {advice}" in caplog.text
        status = await c.call.seamless_status()
        assert [(row["name"], row["status"]) for row in status["workers"]] == [
            ("alpha", "paused")
        ]
        assert f"1 worker is {advice}" in status["stall"]["message"]
        reply = await c.call.seamless_why(checksum=C[:6])
        assert (reply["checksum"], reply["state"]) == (C, "no-worker")
        assert f"1 worker is {advice}" in reply["reason"]
        reply = await c.call.seamless_why(checksum=B)
        assert reply["reason"] == f"not begun, its worker is {advice}"
        worker.status = Status.running
        await client.gather([assigned, other])


@pytest.mark.cluster
@asynchronous
async def test_a_full_batch_queue_is_no_standstill():
    """Jobs that wait there can only be waited for."""
    async with cluster() as c:
        clock = Clock(c.plugin)
        await c.request(await c.client(), f"base-{A}")
        jobs = {"pending": 2}
        c.plugin.scaling.update(jobs=jobs, submission_error=None, excluded_nodes={})
        clock.run(5 * LIMIT)
        assert c.plugin.status()["stall"] is None
        c.plugin.scaling.update(jobs={}, submission_error=None, excluded_nodes={})
        clock.run(2 * LIMIT)
        stall = c.plugin.status()["stall"]
        assert "no slot: no worker offers slots" in stall["message"]

"""What operators see, on the HTTP server and over the RPC of real schedulers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time

import pytest
from distributed import Scheduler
from distributed.http.scheduler.prometheus import core
from helpers.metrics import fetch, metrics_of
from helpers.schedulers import (
    A,
    B,
    C,
    D,
    asynchronous,
    cluster,
    gate,
    pass_gate,
    until,
)
from prometheus_client.parser import text_string_to_metric_families

import scheduler_ext
from scheduler_ext.view import figures
from scheduler_ext.view.metrics import SeamlessCollector

pytestmark = pytest.mark.cluster


async def scheduler_without_plugin(**options):
    return await Scheduler(
        host="127.0.0.1", port=0, **{"dashboard_address": "127.0.0.1:0", **options}
    )


# -- pages come and go -------------------------------------------------------------


@asynchronous
async def test_pages_come_and_go_with_the_plugin():
    """Attached to a scheduler that runs already, twice; the menu of all pages knows."""
    async with await scheduler_without_plugin() as scheduler:
        for _ in range(2):
            scheduler_ext.attach(scheduler)
            for page in ("seamless", "status"):
                code, text = await fetch(scheduler, page)
                assert code == 200
                assert text.count('<a href="seamless">Seamless</a>') == 1
            assert (await fetch(scheduler, "seamless/state.json"))[0] == 200
            assert "seamless_slot_capacity" in await metrics_of(scheduler)
            scheduler_ext.detach(scheduler)
            assert (await fetch(scheduler, "seamless"))[0] == 404
            assert (await fetch(scheduler, "seamless/state.json"))[0] == 404
            assert "Seamless" not in (await fetch(scheduler, "status"))[1]
            assert await metrics_of(scheduler) == {}
        assert not [c for c in core.COLLECTORS if c is SeamlessCollector]


@asynchronous
async def test_without_dashboard_there_is_state_but_no_page():
    """And no sample is taken, since nobody can look."""
    async with await scheduler_without_plugin(dashboard=False) as scheduler:
        plugin = scheduler_ext.attach(scheduler)
        assert (await fetch(scheduler, "seamless"))[0] == 404
        assert (await fetch(scheduler, "seamless/state.json"))[0] == 200
        assert "seamless_slot_capacity" in await metrics_of(scheduler)
        assert "seamless-samples" not in scheduler.periodic_callbacks
        assert plugin.operations.history.added == 0
        scheduler_ext.detach(scheduler)


@asynchronous
async def test_pages_follow_the_prefix_of_the_dashboard():
    """Schedulers behind a proxy serve everything under a path."""
    async with await scheduler_without_plugin(http_prefix="/here") as scheduler:
        scheduler_ext.attach(scheduler)
        assert (await fetch(scheduler, "here/seamless"))[0] == 200
        assert (await fetch(scheduler, "here/seamless/state.json"))[0] == 200


@asynchronous
async def test_each_scheduler_of_a_process_shows_its_own():
    """At the same time and one after the other, whoever was asked first."""
    async with cluster() as one, cluster() as two:
        await two.register(await two.worker(), processes=2, throttle=3)
        for _ in range(2):
            assert (await metrics_of(one.scheduler))["seamless_slot_capacity"] == 0
            assert (await metrics_of(two.scheduler))["seamless_slot_capacity"] == 6
        scheduler_ext.detach(one.scheduler)
        assert await metrics_of(one.scheduler) == {}
        assert (await metrics_of(two.scheduler))["seamless_slot_capacity"] == 6
        scheduler_ext.attach(one.scheduler)
        addresses = {
            json.loads((await fetch(each.scheduler, "seamless/state.json"))[1])[
                "scheduler"
            ]
            for each in (one, two)
        }
        assert addresses == {one.scheduler.address, two.scheduler.address}
    async with cluster() as three:
        assert (await metrics_of(three.scheduler))["seamless_slot_capacity"] == 0


@asynchronous
async def test_an_open_page_says_that_the_plugin_is_gone():
    """Its figures would be those of a plugin that learns nothing any more."""
    from scheduler_ext.view.dashboard import Page, Shown

    async with cluster() as c:
        page = Page(Shown(c.plugin.operations))
        page.update()
        assert not page.alarms
        scheduler_ext.detach(c.scheduler)
        for _ in range(2):
            page.update()
            assert ["Detached" in each for each in page.alarms] == [True]
        scheduler_ext.attach(c.scheduler)


@asynchronous
async def test_what_cannot_be_removed_keeps_nothing_else(caplog):
    """Detaching goes on, says what is left, and attaching again works."""

    def fails():
        raise RuntimeError("stuck")

    async with await scheduler_without_plugin() as scheduler:
        plugin = scheduler_ext.attach(scheduler)
        plugin._pages._undo.append(fails)
        scheduler_ext.detach(scheduler)
        assert "fails" in caplog.text and "stuck" in caplog.text
        assert (await fetch(scheduler, "seamless"))[0] == 404
        assert (await fetch(scheduler, "seamless/state.json"))[0] == 404
        assert await metrics_of(scheduler) == {}
        scheduler_ext.attach(scheduler)
        assert (await fetch(scheduler, "seamless"))[0] == 200


# -- JSON and metrics --------------------------------------------------------------


@asynchronous
async def test_state_is_read_only():
    """GET and HEAD answer, nothing else does."""
    async with cluster() as c:
        for path in ("seamless/state.json", f"seamless/why/{A}.json"):
            code, text = await fetch(c.scheduler, path)
            assert json.loads(text)
            head = await fetch(c.scheduler, path, "HEAD")
            assert head == (code, "")
            for method in ("POST", "DELETE"):
                assert (await fetch(c.scheduler, path, method))[0] == 405
        code, text = await fetch(c.scheduler, "seamless/state.json")
        state = json.loads(text)
        assert state["scheduler"] == c.scheduler.address
        assert abs(state["time"] - time.time()) < 60
        status = await c.call.seamless_status()
        assert state.keys() == status.keys() - {"status"} | {"time", "scheduler"}


@asynchronous
async def test_metrics_follow_the_conventions():
    """Names, units and help texts; promtool looks at them too, where it is installed."""
    async with cluster() as c:
        c.plugin.scaling.decided(0, 2, "there is work", time.time())
        c.plugin.scaling.update(
            jobs={"pending": 2}, submission_error=None, excluded_nodes={}
        )
        await metrics_of(c.scheduler)
        _, text = await fetch(c.scheduler, "metrics")
    lines = [
        line for line in text.splitlines() if re.match(r"(# \S+ )?seamless_", line)
    ]
    families = list(text_string_to_metric_families("\n".join(lines) + "\n"))
    assert len(families) >= 15
    for family in families:
        assert re.fullmatch(r"seamless(_[a-z]+)+", family.name)
        assert family.documentation.endswith(".")
        assert family.type in ("gauge", "counter", "histogram")
        for each in family.samples:
            assert each.name.endswith("_total") == (family.type == "counter")
            assert all(re.fullmatch("[a-z]+", label) for label in each.labels)
        if family.type == "histogram":
            assert family.name.endswith("_seconds")
    promtool = shutil.which("promtool")
    if promtool:
        checked = subprocess.run(
            [promtool, "check", "metrics"],
            input="\n".join(lines) + "\n",
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@asynchronous
async def test_metrics_count_what_happens():
    """Slots, waiting times, refusals, endings and scaling decisions."""
    async with cluster() as c:
        worker = await c.worker(nthreads=4)
        client = await c.client()
        await c.register(worker, throttle=1)
        await c.request(worker, "granted", "waits")
        await c.request(worker, "refused", wait=False)
        future = client.submit(pass_gate, "top", key=f"base-{A}")
        gate("top").set()
        assert await future == "top"
        c.plugin.scaling.decided(0, 2, "there is work", time.time())
        found = await metrics_of(c.scheduler)
        assert {
            "seamless_slot_capacity": 1,
            "seamless_slots_in_use": 1,
            "seamless_requests_waiting": 1,
            "seamless_requests_granted_total": 1,
            "seamless_requests_refused_total[capacity]": 1,
            "seamless_request_wait_seconds_count": 1,
            "seamless_transformations[waiting]": 2,
            "seamless_transformations_ended_total[finished]": 1,
            "seamless_scaling_decisions_total[up]": 1,
            "seamless_scaling_decisions_total[down]": 0,
            "seamless_workers": 1,
            "seamless_workers_wanted": 2,
            "seamless_standstill_seconds": 0,
        }.items() <= found.items()
        before = found["seamless_request_wait_seconds_sum"]
        await c.call.seamless_release(holder=worker.address, ids=["granted"])
        found = await metrics_of(c.scheduler)
        assert found["seamless_request_wait_seconds_count"] == 2
        assert found["seamless_request_wait_seconds_sum"] > before


# -- why ---------------------------------------------------------------------------


async def why(c, checksum):
    """The reply of the RPC, which is what the route says."""
    reply = await c.call.seamless_why(checksum=checksum)
    assert reply.pop("status") == "ok"
    code, text = await fetch(c.scheduler, f"seamless/why/{checksum}.json")
    assert code == (200 if reply["found"] else 404)
    assert json.loads(text).keys() == reply.keys()
    return reply


@asynchronous
async def test_why_no_worker():
    """None is connected and jobs are on the way; then there is one that does not fit."""
    async with cluster() as c:
        client = await c.client()
        future = client.submit(pass_gate, "x", key=f"base-{A}", resources={"GPU": 2})
        await until(lambda: c.state(future.key) == "no-worker")
        c.plugin.scaling.update(
            jobs={"pending": 3, "starting": 1},
            submission_error=None,
            excluded_nodes={},
        )
        reply = await why(c, A)
        assert reply["state"] == "no-worker"
        assert reply["reason"] == (
            "no worker is connected; batch system: 3 pending, 1 starting"
        )
        await c.request(client, f"base-{B}")
        assert (await why(c, B))["reason"] == (
            "no slot: no worker offers slots; batch system: 3 pending, 1 starting"
        )
        c.plugin.scaling.update(
            jobs={"pending": 3},
            pending_reasons={"Priority": 2, "Resources": 1},
            submission_error=None,
            excluded_nodes={},
        )
        assert (await why(c, A))["reason"] == (
            "no worker is connected; batch system: 3 pending (2 Priority, 1 Resources), "
            "0 starting"
        )
        await c.worker(resources={"GPU": 1})
        reply = await why(c, A)
        assert reply["reason"] == (
            "no worker fits: it needs GPU 2; 1 worker connected with GPU at most 1"
        )
        assert reply["tasks"][0]["clients"] == 1


@asynchronous
async def test_why_no_worker_that_has_started_its_processes():
    """It registers its slots when they have started."""
    async with cluster() as c:
        client = await c.client()
        worker = await c.worker()
        key = f"base-{A}"
        future = client.submit(pass_gate, "x", key=key, resources={"S": 1})
        await until(lambda: c.state(key) == "no-worker")
        assert (await why(c, A))["reason"] == (
            "1 worker connected, where Seamless processes are still starting"
        )
        worker.add_units({"S": 1.0})
        await c.register(worker, resources={"S": 1.0})
        await until(lambda: c.state(key) == "processing")
        gate("x").set()
        assert await future == "x"


@asynchronous
async def test_why_follows_the_chain_to_its_end():
    """A waits for its input B, which called C, which waits for a slot that D holds."""
    async with cluster() as c:
        client = await c.client()
        worker = await c.worker(nthreads=4, name="alpha")
        await c.register(worker)
        key = {name: f"base-{name}" for name in (A, B, C, D)}
        called = client.submit(pass_gate, "b", key=key[B])
        future = client.submit(pass_gate, called, key=key[A])
        await until(lambda: c.state(key[A]) == "waiting")
        await until(lambda: c.state(key[B]) == "processing")
        await c.request(worker, key[D], depth=2)
        await c.request(worker, key[C], owner=key[B], depth=1)
        reply = await why(c, A)
        assert (reply["state"], reply["reason"]) == (
            "dependency",
            f"waits for 1 input: unnamed {B[:12]}",
        )
        (task,) = reply["tasks"]
        name = f"unnamed {B[:12]}"
        one = {"total": 1, "keys": (key[B],), "names": (name,)}
        assert task["waits_for"] == one
        assert [(step["key"], step["state"]) for step in task["chain"]] == [
            (key[B], "calling"),
            (key[C], "slot"),
        ]
        assert task["chain"][0]["worker_name"] == "alpha"
        reply = await why(c, C)
        (task,) = reply["tasks"]
        assert reply["state"] == "slot"
        assert task["called_by"] == one
        assert task["label"] == "unnamed ×2"
        assert task["slot"] == {
            "position": 1,
            "waiting": 1,
            "slots_in_use": 1,
            "capacity": 1,
            "held_by": (f"unnamed {D[:12]}",),
        }
        assert (await why(c, D))["state"] == "submission"
        overview = (await c.call.seamless_status())["transformations"]
        assert (overview["waiting_total"], overview["with_workers_total"]) == (3, 1)
        assert {row["key"]: row["state"] for row in overview["waiting"]} == {
            key[A]: "dependency",
            key[C]: "slot",
            key[D]: "submission",
        }
        gate("b").set()
        await future
        reply = await why(c, B)
        assert (reply["state"], reply["tasks"]) == ("ended", ())
        assert reply["ended"]["ending"] == "finished"
        assert reply["ended"]["seconds"] > 0


@asynchronous
async def test_why_running_and_cancelled():
    """Its worker says that it runs; after the cancellation it is remembered."""
    async with cluster() as c:
        client = await c.client()
        worker = await c.worker(nthreads=1, name="alpha")
        future = client.submit(pass_gate, "x", key=f"base-{A}")
        other = client.submit(pass_gate, "y", key=f"base-{B}")
        await until(lambda: c.state(other.key) in ("processing", "queued"))
        await until(lambda: worker.state.executing_count)
        await worker.heartbeat()
        reply = await why(c, A)
        assert reply["state"] == "running"
        assert reply["reason"].startswith("has run for")
        assert (await why(c, B))["state"] in ("assigned", "queued")
        await c.call.seamless_cancel(checksums=[A])
        await until(lambda: c.state(future.key) is None)
        reply = await why(c, A)
        assert reply["ended"]["ending"] == "cancelled"
        assert reply["reason"].startswith("cancelled")
        gate("x").set()
        gate("y").set()


@asynchronous
async def test_a_task_whose_worker_is_gone_has_not_ended():
    """It waits again, as old as it was, and ends once."""
    async with cluster() as c:
        client = await c.client()
        worker = await c.worker()
        future = client.submit(pass_gate, "x", key=f"base-{A}")
        await until(lambda: c.state(future.key) == "processing")
        age = (await why(c, A))["tasks"][0]["age_seconds"]
        await worker.close(executor_wait=False)
        await until(lambda: c.state(future.key) in ("no-worker", "queued"))
        reply = await why(c, A)
        assert (reply["state"], reply["ended"]) == ("no-worker", None)
        assert reply["reason"] == "no worker is connected"
        assert reply["tasks"][0]["age_seconds"] > age
        gate("x").set()
        await c.worker()
        assert await future == "x"
        endings = c.plugin.operations.journal.endings
        assert {name: n for name, n in endings.items() if n} == {"finished": 1}


@asynchronous
async def test_the_beginning_of_a_checksum_is_enough():
    """If only one transformation begins so, also one that has ended."""
    async with cluster() as c:
        client = await c.client()
        await c.worker()
        one, two = "abcdef" + "0" * 58, "abcdef" + "1" * 58
        gate("x").set()
        assert await client.submit(pass_gate, "x", key=f"base-{one}") == "x"
        assert (await why(c, "abcdef"))["checksum"] == one
        await c.request(client, f"base-{two}")
        reply = await c.call.seamless_why(checksum="abcdef")
        assert reply["errors"] == (
            "field 'checksum': got 'abcdef', allowed: more digits, since 2 "
            f"transformations begin so: {one}, {two}",
        )
        assert (await fetch(c.scheduler, "seamless/why/abcdef.json"))[0] == 400
        assert (await why(c, "abcdef1"))["state"] == "slot"


@asynchronous
async def test_why_nobody_knows():
    """What never was, and what is no checksum."""
    async with cluster() as c:
        reply = await why(c, A)
        assert (reply["found"], reply["state"]) == (False, "unknown")
        reply = await c.call.seamless_why(checksum="A" * 64)
        assert reply["status"] == "error"
        reply = await c.call.seamless_why(checksum=A, colour="red")
        assert reply["errors"] == (
            "field 'colour': unknown, allowed: name, checksum",
        ), "reported as data"
        reply = await c.call.seamless_why(checksum="abc")
        assert reply["errors"] == (
            "field 'checksum': got 'abc', allowed: 6 to 64 hexadecimal digits in "
            "lower case",
        )
        reply = await c.call.seamless_why()
        assert reply["status"] == "error", "neither a checksum nor a name"
        for word in ("abc", "abcdefabcdef", "%F0%9F%98%80", "%22%3Cb%3E"):
            code, text = await fetch(c.scheduler, f"seamless/why/{word}.json")
            assert (code, json.loads(text)["found"]) == (404, False)


# -- what the page says ------------------------------------------------------------


@asynchronous
async def test_the_page_names_what_is_wrong():
    """Failed submissions and excluded nodes; long lists are cut, totals are not."""
    async with cluster() as c:
        now = figures.figures(c.plugin.operations)
        assert now.waiting_title == "Waiting transformations: none"
        assert now.problems == []
        worker = await c.worker()
        await c.register(worker)
        await c.request(worker, *(f"base-{i:064x}" for i in range(40)))
        c.plugin.scaling.decided(1, 4, "much work", time.time())
        c.plugin.scaling.update(
            jobs={"pending": 3},
            submission_error={
                "time": 0.0,
                "message": "sbatch: <invalid> partition",
                "retry_at": None,
                "failures": 2,
            },
            excluded_nodes={"n7": {"until": 60.0, "reason": "3 jobs died there"}},
        )
        now = figures.figures(c.plugin.operations)
        assert now.waiting_title == "Waiting transformations: 40"
        waits, submitted = now.waiting
        assert (waits.title, submitted.title) == (
            "39 wait for a slot",
            "1 has a slot and is submitted",
        )
        assert waits.reason == "no slot: 1 of 1 slots are in use"
        assert len(waits.rows) == 15
        assert now.decisions[0]["change"] == "1 → 4"
        assert [problem[:14] for problem in now.problems] == [
            "2 submissions ",
            "Node n7 gets n",
        ]
        from scheduler_ext.view.dashboard import Page, Shown

        page = Page(Shown(c.plugin.operations))
        page.update()
        assert "&lt;invalid&gt;" in page.root.children[0].text
        (jobs,) = (card for card in now.cards if card.title == "Jobs")
        assert jobs.alarming and "sbatch: <invalid> partition" in jobs.note

"""The plugin of a real scheduler, with real workers and clients, over RPC."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys

import pytest
from distributed import Scheduler, rpc
from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.metrics import monotonic
from helpers.examples import examples
from helpers.permission_rules import (
    CLIENT,
    WORKERS,
    PermissionRules,
    outcome,
)
from helpers.schedulers import (
    PATIENCE,
    A,
    B,
    C,
    asynchronous,
    cluster,
    fail,
    gate,
    pass_gate,
    until,
)
from hypothesis import HealthCheck, settings

import scheduler_ext
from scheduler_ext import messages
from scheduler_ext.permission.events import Start
from scheduler_ext.plugin import NAME, VersionMismatch

pytestmark = pytest.mark.cluster


# -- the rules of the pure machine, over the wire ----------------------------------


class RpcSubject:
    """The plugin; holders are real workers and a real client.

    All decisions are seen on their way out of the plugin; that each of them reaches
    its holder, by the reply or by a push, is asserted here.
    """

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.holders = {}
        self.registered = set()
        self.sent = []
        self.run(self.start())

    def run(self, coroutine):
        return self.loop.run_until_complete(
            asyncio.wait_for(coroutine, PATIENCE),
        )

    async def start(self):
        self.context = cluster()
        self.cluster = await self.context.__aenter__()
        self.machine = self.cluster.plugin._machine
        deliver = self.cluster.plugin._delivery.deliver

        def spy(decisions, answered=()):
            decisions = list(decisions)
            self.sent += decisions
            deliver(decisions, answered)

        self.cluster.plugin._delivery.deliver = spy
        for name in WORKERS:
            self.holders[name] = await self.cluster.worker()
        self.holders[CLIENT] = await self.cluster.client()

    def close(self):
        self.run(self.context.__aexit__(None, None, None))
        self.loop.close()

    def holder_id(self, name):
        holder = self.holders[name]
        return holder.id if name == CLIENT else holder.address

    async def observe(self, action, answered=()):
        """Carry out an action; return all decisions, of which workers were told."""
        self.sent.clear()
        before = {n: dict(self.holders[n].decisions) for n in self.registered}
        await action
        decisions = list(self.sent)
        for name in self.registered & before.keys():
            worker = self.holders[name]
            await self.cluster.flush(worker)
            pushed = worker.decisions.items() - before[name].items()
            theirs = [
                d
                for d in decisions
                if not isinstance(d, Start) and d.holder == worker.address
            ]
            assert pushed == {
                pair for pair in outcome(theirs) if pair[0] not in answered
            }
        return outcome(decisions)

    def add_worker(self, address, processes, throttle, ceiling, now, *, units, supply):
        worker = self.holders[address]
        self.registered.add(address)
        offer = {
            "ceiling": ceiling,
            "units": units,
            "resources": {name: amount for name, amount in supply.items() if amount},
        }
        return self.run(
            self.observe(self.cluster.register(worker, processes, throttle, **offer))
        )

    def remove_worker(self, address, now):
        return self.run(self.replace_worker(address))

    async def replace_worker(self, name):
        self.registered.discard(name)
        worker = self.holders[name]

        async def leave():
            await worker.close()
            await until(lambda: worker.address not in self.cluster.scheduler.workers)

        decided = await self.observe(leave())
        self.holders[name] = await self.cluster.worker()
        return decided

    def remove_holder(self, holder, now):
        return self.run(self.replace_client())

    async def replace_client(self):
        client = self.holders[CLIENT]

        async def leave():
            await client.close()
            await until(lambda: client.id not in self.cluster.scheduler.clients)

        decided = await self.observe(leave())
        self.holders[CLIENT] = await self.cluster.client()
        return decided

    def request(self, request, now):
        replies = []

        async def ask():
            replies.append(
                await self.cluster.call.seamless_request(
                    holder=self.holder_id(request.holder),
                    requests=[
                        {
                            "id": request.lease_id,
                            "key": request.key,
                            "owner": request.owner,
                            "depth": request.depth,
                            "wait": request.wait,
                            "resources": dict(request.needs.resources),
                        }
                    ],
                )
            )

        decided = self.run(self.observe(ask(), answered={request.lease_id}))
        [reply] = replies
        answer = dict(decided).get(request.lease_id)
        assert (request.lease_id in reply["granted"]) == (answer == "granted")
        assert (request.lease_id in reply["waiting"]) == (answer is None)
        refused = reply["refused"].get(request.lease_id, "granted").split(":")[0]
        assert refused == (answer or "granted")
        return decided

    def release(self, lease_id, holder, now):
        return self.run(
            self.observe(
                self.cluster.call.seamless_release(
                    holder=self.holder_id(holder), ids=[lease_id]
                )
            )
        )

    def nothing_running(self, now):
        async def beats():
            for _ in range(2):
                self.cluster.plugin.step(monotonic())

        return self.run(self.observe(beats()))


class RpcPermissionRules(PermissionRules):
    """The plugin of a real scheduler."""

    steers_time = False

    def new_subject(self):
        return RpcSubject()


RpcPermissionRules.TestCase.settings = settings(
    max_examples=examples(30),
    stateful_step_count=25,
    suppress_health_check=list(HealthCheck),
)
TestPermissionsOverRpc = RpcPermissionRules.TestCase


# -- attach and detach -------------------------------------------------------------


@asynchronous
async def test_attaching_twice_changes_nothing_and_detaching_leaves_nothing():
    """Symmetric and idempotent."""
    async with Scheduler(
        host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0"
    ) as scheduler:
        kept = (
            dict(scheduler.handlers),
            dict(scheduler.stream_handlers),
            dict(scheduler.plugins),
            dict(scheduler.periodic_callbacks),
        )
        plugin = scheduler_ext.attach(scheduler)
        state = (plugin._machine, dict(scheduler.handlers))
        assert scheduler_ext.attach(scheduler, interval=7.0) is plugin
        assert state == (plugin._machine, dict(scheduler.handlers))
        assert scheduler.periodic_callbacks[NAME].is_running()
        heart = scheduler.periodic_callbacks[NAME]
        for _ in range(2):
            scheduler_ext.detach(scheduler)
            assert not heart.is_running()
            assert kept == (
                scheduler.handlers,
                scheduler.stream_handlers,
                scheduler.plugins,
                scheduler.periodic_callbacks,
            )


@pytest.mark.parametrize(
    ("version", "protocol"), [("0.1", 1), ("0.5.0", 99), (None, None)]
)
@asynchronous
async def test_another_version_is_an_error_that_names_both(version, protocol):
    """Whatever else is called "seamless" is left alone."""

    class Other(SchedulerPlugin):
        name = NAME

    if version:
        Other.version, Other.protocol = version, protocol
    async with Scheduler(
        host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0"
    ) as scheduler:
        other = Other()
        scheduler.add_plugin(other)
        pattern = re.escape(f"{version} (protocol {protocol})") + ".*0\\.5\\.0"
        with pytest.raises(VersionMismatch, match=pattern):
            scheduler_ext.attach(scheduler)
        scheduler_ext.detach(scheduler)
        assert scheduler.plugins[NAME] is other


@asynchronous
async def test_a_plugin_that_comes_late_counts_what_is_there():
    """Tasks of before are counted, and can be cancelled."""
    async with cluster() as c:
        scheduler_ext.detach(c.scheduler)
        client = await c.client()
        future = client.submit(
            pass_gate, "x", key=f"base-{A}", resources={"missing": 1}
        )
        await until(lambda: c.state(future.key) == "no-worker")
        plugin = scheduler_ext.attach(c.scheduler, interval=3600.0)
        assert plugin.activity_snapshot()["transformations"]["no_worker"] == 1
        reply = await c.call.seamless_cancel(checksums=[A])
        assert set(reply["cancelled"]) == {f"base-{A}"}


@asynchronous
async def test_installing_through_a_client():
    """A client gives the plugin to a scheduler that has none."""
    async with cluster() as c:
        scheduler_ext.detach(c.scheduler)
        client = await c.client()
        for _ in range(2):
            reply = await client.run_on_scheduler(scheduler_ext.install)
            assert reply == {
                "status": "ok",
                "protocol": messages.PROTOCOL,
                "version": "0.5.0",
            }
        assert await c.call.seamless_version() == {**reply, "published": {}}


def test_preload():
    """A scheduler process has the plugin from the command line, and ends cleanly."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "distributed.cli.dask_scheduler"),
            *("--preload", "scheduler_ext.preload", "--host", "127.0.0.1"),
            *("--port", "0", "--no-dashboard"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output = []
        for line in process.stderr:
            output.append(line)
            if match := re.search(r"Scheduler at:\s+(tcp://\S+)", line):
                break
        else:
            pytest.fail("".join(output))

        async def version():
            async with rpc(match[1]) as call:
                return await call.seamless_version()

        assert asyncio.run(version())["version"] == scheduler_ext.__version__
        process.terminate()
        rest = process.communicate(timeout=PATIENCE)[1]
        assert "Traceback" not in rest
    finally:
        process.kill()
        process.wait()


@asynchronous
async def test_the_version_comes_with_what_the_cluster_has_published():
    """A client that is far away asks once."""
    async with cluster() as c:
        c.scheduler.set_metadata(keys=["seamless-processes"], value=3)
        c.scheduler.set_metadata(keys=["other"], value=1)
        answer = await c.call.seamless_version()
        assert answer["published"] == {"seamless-processes": 3}


@asynchronous
async def test_a_worker_that_comes_does_not_look_at_those_that_wait(monkeypatch):
    """Only at tasks that are not held back for a slot; these start there."""
    async with cluster() as c:
        client = await c.client()
        number = 50
        waiting = client.map(
            pass_gate,
            range(number),
            key=[f"base-{n:064x}" for n in range(number)],
            resources={"S": 1},
        )
        other = client.submit(pass_gate, "other", resources={"glue": 1}, key="other")
        await until(lambda: len(c.scheduler.unrunnable) == number + 1)
        looked = []
        holds_back = c.plugin._machine.holds_back

        def counted(key):
            looked.append(key)
            return holds_back(key)

        monkeypatch.setattr(c.plugin._machine, "holds_back", counted)
        worker = await c.worker(resources={"glue": 1}, units={"S": 1.0})
        await until(lambda: c.state("other") == "processing")
        await c.register(worker, resources={"S": 1.0})
        assert set(looked) <= {"other"}
        gate("other").set()
        assert await other == "other"
        assert len(c.scheduler.unrunnable) == number - 1
        for n in range(number):
            gate(n).set()
        assert await client.gather(waiting) == list(range(number))


@asynchronous
async def test_tasks_that_wait_for_a_slot_are_not_given_up():
    """Dask ends tasks that no worker takes for longer than it was told."""
    async with cluster() as c:
        client = await c.client()
        worker = await c.worker(units={"S": 1.0})
        await c.register(worker, resources={"S": 1.0})
        keys = [f"base-{name}" for name in (A, B)]
        futures = [
            client.submit(pass_gate, key, key=key, resources={"S": 1}) for key in keys
        ]
        await until(lambda: [*map(c.state, keys)] == ["processing", "no-worker"])
        task = c.scheduler.tasks[keys[1]]
        now = monotonic()
        c.scheduler.no_workers_timeout = 100.0
        c.scheduler.unrunnable[task] = now - 40.0
        c.plugin.step(now)
        assert c.scheduler.unrunnable[task] == now - 40.0
        c.scheduler.unrunnable[task] = now - 60.0
        c.plugin.step(now)
        assert c.scheduler.unrunnable[task] >= now
        for key in keys:
            gate(key).set()
        assert await client.gather(futures) == keys


# -- bad input ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "op",
    [
        messages.OP_VERSION,
        messages.OP_REGISTER_WORKER,
        messages.OP_REQUEST,
        messages.OP_RELEASE,
        messages.OP_STATUS,
        messages.OP_ACTIVITY,
        messages.OP_CANCEL,
    ],
)
@asynchronous
async def test_unknown_arguments_are_reported_as_data(op):
    """No call raises, whatever its arguments are."""
    async with cluster() as c:
        reply = await getattr(c.call, op)(colour="red")
        assert reply["status"] == "error"
        assert "field 'colour': unknown" in reply["errors"][-1]


@asynchronous
async def test_nonsense_changes_nothing():
    """Registrations, holders and ids that cannot be."""
    async with cluster() as c:
        worker = await c.worker()
        for wrong in (-1, "x", float("nan"), True, None, [1]):
            reply = await c.call.seamless_register_worker(
                worker=worker.address, processes=wrong, throttle=1
            )
            assert reply["errors"][0].startswith("field 'processes': got")
        assert (await c.statistics())["capacity"] == 0
        reply = await c.call.seamless_request(holder="nobody", requests=[{"id": "a"}])
        assert reply["errors"][0].startswith("field 'holder': got 'nobody'")
        await c.register(worker)
        await c.request(worker, "a")
        other = await c.client()
        reply = await c.call.seamless_request(
            holder=other.id, requests=[{"id": "new"}, {"id": "a"}]
        )
        assert reply["status"] == "error" and "reuses the id" in reply["errors"][0]
        reply = await c.call.seamless_release(holder=other.id, ids=["a"])
        assert reply["status"] == "error" and "belongs to" in reply["errors"][0]
        assert (await c.statistics())["granted_total"] == 1


@asynchronous
async def test_the_stream_survives_nonsense(caplog):
    """A release on the stream of a worker frees the slot; what is wrong is logged."""
    async with cluster() as c:
        worker = await c.worker()
        await c.register(worker)
        await c.request(worker, "a")
        await c.request(worker, "b")
        for wrong in ({}, {"ids": 7}, {"ids": [], "colour": "red"}):
            worker.batched_stream.send({"op": messages.OP_RELEASE, **wrong})
        worker.batched_stream.send({"op": messages.OP_RELEASE, "ids": ["a"]})
        await until(lambda: worker.decisions == {"b": "granted"})
        assert worker.address in c.scheduler.workers
        assert sum("field '" in r.getMessage() for r in caplog.records) == 3


@asynchronous
async def test_requests_on_the_stream(caplog):
    """A worker is told each decision; one that is wrong costs nobody else anything."""
    async with cluster() as c:
        worker = await c.worker()
        await c.register(worker)

        def ask(lease_id, **fields):
            lease = messages.lease_request(lease_id, key=f"base-{lease_id}", depth=1)
            worker.batched_stream.send({**messages.request(lease), **fields})

        ask("a")
        ask("b", depth="deep")
        ask("c", wait=False)
        ask(7)
        ask("d")
        await until(lambda: set(worker.decisions) == {"a", "b", "c"})
        assert worker.decisions["a"] == "granted"
        assert worker.decisions["b"] == "the scheduler did not accept the request"
        assert worker.decisions["c"] != "granted"  # there is one slot
        problems = [r.getMessage().partition("field ")[2] for r in caplog.records]
        assert [p.partition(",")[0] for p in problems if p] == [
            "'depth': got 'deep'",
            "'id': got 7",
        ]
        # in order: a release never overtakes its request
        ask("e")
        worker.batched_stream.send(messages.release(worker.address, ["d", "e", "a"]))
        ask("f")
        await until(lambda: worker.decisions.get("f") == "granted")
        assert not {"d", "e"} & set(worker.decisions)
        statistics = await c.statistics()
        assert (statistics["slots_in_use"], statistics["waiting"]) == (1, 0)


# -- workers and units -------------------------------------------------------------


@asynchronous
async def test_units_of_a_worker_that_is_connected_wake_its_tasks():
    """The task waited in no-worker before the worker registered."""
    async with cluster() as c:
        worker = await c.worker()
        client = await c.client()
        gate("x").set()
        future = client.submit(pass_gate, "x", resources={"nested": 1})
        await until(lambda: c.state(future.key) == "no-worker")
        worker.add_units({"nested": 2.0})
        reply = await c.register(worker, resources={"nested": 2.0})
        assert reply["connected"]
        assert await asyncio.wait_for(future, PATIENCE) == "x"


@asynchronous
async def test_a_worker_that_registers_while_it_is_paused_gets_nothing():
    """Not even the requests that wait at that moment."""
    async with cluster() as c:
        asks, paused = await c.worker(), await c.worker()
        await c.register(asks)
        await c.request(asks, "a")
        await c.request(asks, "b")
        paused.status = Status.paused
        ws = c.scheduler.workers[paused.address]
        await until(lambda: ws.status == Status.paused)
        await c.register(paused)
        statistics = await c.statistics()
        assert (statistics["slots_in_use"], statistics["waiting"]) == (1, 1)
        paused.status = Status.running
        await until(lambda: asks.decisions == {"b": "granted"})


@asynchronous
async def test_units_registered_before_the_worker_connects():
    """The other order: as on a batch system, the registration comes first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with cluster() as c:
        client = await c.client()
        gate("x").set()
        future = client.submit(pass_gate, "x", resources={"nested": 1})
        await until(lambda: c.state(future.key) == "no-worker")
        reply = await c.register(
            f"tcp://127.0.0.1:{port}", 2, 3, resources={"nested": 1.0}
        )
        assert not reply["connected"]
        assert (await c.statistics())["capacity"] == 0
        worker = await c.worker(host="127.0.0.1", port=port, units={"nested": 1.0})
        assert worker.address == f"tcp://127.0.0.1:{port}"
        assert await asyncio.wait_for(future, PATIENCE) == "x"
        assert (await c.statistics())["capacity"] == 6
        await worker.close()
        await until(lambda: not c.scheduler.workers)
        assert (await c.statistics())["capacity"] == 0


@asynchronous
async def test_registering_again_keeps_the_units_that_are_in_use():
    """Dask's own call would start to count at zero."""
    async with cluster() as c:
        worker = await c.worker()
        client = await c.client()
        worker.add_units({"S": 1.0, "nested": 1.0})
        await c.register(worker, resources={"S": 1.0})
        future = client.submit(pass_gate, "x", resources={"S": 1})
        await until(lambda: c.state(future.key) == "processing")
        ws = c.scheduler.workers[worker.address]
        assert ws.used_resources == {"S": 1}
        for resources in ({"S": 1.0}, {"S": 1.0, "nested": 1.0}, {"nested": 1.0}):
            await c.register(worker, resources=resources)
            assert ws.used_resources["S"] == 1
        assert ws.used_resources == {"S": 1, "nested": 0}
        gate("x").set()
        await future
        await until(lambda: ws.used_resources["S"] == 0)


@asynchronous
async def test_a_worker_takes_its_leases_with_it():
    """Its grants free slots, and its requests do not wait any more."""
    async with cluster() as c:
        stays, goes = await c.worker(), await c.worker()
        await c.register(stays)
        await c.register(goes)
        await c.request(goes, "a", "b", "c")
        assert (await c.request(stays, "d"))["waiting"] == ["d"]
        waits = asyncio.create_task(c.request(goes, "e", wait_seconds=PATIENCE))
        await until(lambda: c.plugin._machine.waiting == 3)
        await goes.close()
        await until(lambda: stays.decisions == {"d": "granted"})
        assert (await waits)["refused"] == {"e": "ended: its worker is gone"}
        statistics = await c.statistics()
        assert (statistics["capacity"], statistics["admitted"]) == (1, 1)
        assert statistics["waiting"] == 0


@asynchronous
async def test_a_client_takes_its_leases_with_it():
    """Somebody else gets the slot."""
    async with cluster() as c:
        worker, client = await c.worker(), await c.client()
        await c.register(worker)
        assert (await c.request(client, "a"))["granted"] == ["a"]
        await c.request(worker, "b")
        await client.close()
        await until(lambda: worker.decisions == {"b": "granted"})


@asynchronous
async def test_busy_workers_are_not_chosen_for_downscaling():
    """Neither those that run tasks nor those that hold leases."""
    async with cluster() as c:
        idle, holds, runs = [await c.worker() for _ in range(3)]
        client = await c.client()
        for worker in (idle, holds, runs):
            await c.register(worker)
        await c.request(holds, "a")
        future = client.submit(pass_gate, "x", workers=[runs.address])
        await until(lambda: c.state(future.key) == "processing")
        assert c.scheduler.workers_to_close(n=3) == [idle.address]
        gate("x").set()
        await future
        await c.call.seamless_release(holder=holds.address, ids=["a"])
        assert len(c.scheduler.workers_to_close(n=3)) == 3


# -- leases and tasks --------------------------------------------------------------


@pytest.mark.parametrize("how", ["memory", "erred", "cancelled"])
@asynchronous
async def test_a_lease_ends_with_its_task(how):
    """Nobody has to release it."""
    key = f"base-{A}"
    async with cluster() as c:
        worker, client = await c.worker(), await c.client()
        await c.register(worker)
        await c.request(worker, key)
        await c.request(worker, "next")
        task = fail if how == "erred" else pass_gate
        future = client.submit(task, "x", key=key)
        await until(lambda: c.state(key) == "processing")
        assert (await c.statistics())["slots_in_use"] == 1
        if how == "cancelled":
            await future.cancel()
        else:
            gate("x").set()
        await until(lambda: worker.decisions == {"next": "granted"})
        gate("x").set()
        if how == "memory":
            reply = await c.request(worker, key)
            assert reply["granted"] == [key]  # the result is there
            assert (await c.statistics())["admitted"] == 1


@asynchronous
async def test_a_lease_for_a_task_that_is_there_already_does_not_time_out():
    """The task started before anybody asked; the lease ends with it all the same."""
    key = f"base-{A}"
    async with cluster() as c:
        worker, client = await c.worker(), await c.client()
        await c.register(worker)
        future = client.submit(pass_gate, "x", key=key)
        await until(lambda: c.state(key) == "processing")
        await c.request(worker, key, "never")
        c.plugin.step(monotonic() + 61.0)
        await c.flush(worker)
        statistics = await c.statistics()
        assert (statistics["admitted"], statistics["expired_total"]) == (1, 0)
        gate("x").set()
        await future
        await until(lambda: worker.decisions == {"never": "granted"})


@asynchronous
async def test_a_task_that_moves_to_another_worker_keeps_its_lease():
    """Its worker died; the task runs again, and still has the slot."""
    key = f"base-{A}"
    async with cluster() as c:
        stays, client = await c.worker(), await c.client()
        await c.register(stays)
        dies = await c.worker()
        await c.request(stays, key)
        future = client.submit(
            pass_gate,
            "x",
            key=key,
            workers=[dies.address],
            allow_other_workers=True,
        )
        await until(lambda: c.state(key) == "processing")
        await c.scheduler.remove_worker(dies.address, stimulus_id="test")
        await until(
            lambda: (
                c.state(key) == "processing"
                and c.scheduler.tasks[key].processing_on.address == stays.address
            )
        )
        assert (await c.statistics())["slots_in_use"] == 1
        gate("x").set()
        await future
        assert (await c.statistics())["slots_in_use"] == 0


@asynchronous
async def test_nested_tasks_lend_the_slot_of_their_owner():
    """With one slot the inner task is granted while the outer one waits."""
    outer, inner = f"base-{A}", f"base-{B}"
    async with cluster() as c:
        worker = await c.worker()
        await c.register(worker)
        await c.request(worker, outer)
        assert (await c.request(worker, "other"))["waiting"] == ["other"]
        reply = await c.request(worker, inner, owner=outer, depth=1)
        assert reply["granted"] == [inner]
        reply = await c.request(worker, "cycle", key=outer, owner=inner, depth=2)
        assert reply["refused"]["cycle"].startswith(f"cycle: {inner} -> {outer} ->")


@asynchronous
async def test_waiting_for_the_reply():
    """The call itself waits, and the decision comes in its reply, not as a push."""
    async with cluster() as c:
        worker = await c.worker()
        await c.register(worker)
        await c.request(worker, "a")
        calls = [
            asyncio.create_task(c.request(worker, "b", wait_seconds=PATIENCE))
            for _ in range(2)
        ]
        await until(lambda: c.plugin._machine.waiting == 1)
        await c.call.seamless_release(holder=worker.address, ids=["a"])
        for reply in await asyncio.gather(*calls):
            assert (reply["granted"], reply["waiting"]) == (["b"], [])
        await c.flush(worker)
        assert worker.decisions == {}
        assert not c.plugin._delivery.undecided


@asynchronous
async def test_patience_ends_with_a_refusal():
    """What is still undecided after wait_seconds is refused, and forgotten."""
    async with cluster() as c:
        worker = await c.worker()
        await c.register(worker)
        reply = await c.request(worker, "a", "b", wait_seconds=0.01)
        assert reply["granted"] == ["a"] and reply["waiting"] == []
        assert reply["refused"]["b"] == "capacity: no slot within 0.01 s (timeout)"
        statistics = await c.statistics()
        assert statistics["waiting"] == 0
        assert statistics["refused_total"] == {"capacity": 1, "cycle": 0, "ceiling": 0}
        assert not c.plugin._delivery.undecided


@asynchronous
async def test_releasing_what_a_call_waits_for_ends_the_call():
    """Nobody waits for a lease that is gone."""
    async with cluster() as c:
        worker = await c.worker()
        call = asyncio.create_task(c.request(worker, "a", wait_seconds=PATIENCE))
        await until(lambda: c.plugin._machine.waiting == 1)
        await c.call.seamless_release(holder=worker.address, ids=["a"])
        assert (await call)["refused"] == {"a": "ended: it was released"}


@asynchronous
async def test_a_restart_ends_all_leases():
    """Those who wait are told, and the totals say that nothing is left."""
    async with cluster() as c:
        client = await c.client()
        call = asyncio.create_task(c.request(client, "a", wait_seconds=PATIENCE))
        await until(lambda: c.plugin._machine.waiting == 1)
        key = f"base-{A}"
        future = client.submit(pass_gate, "x", key=key, resources={"missing": 1})
        await until(lambda: c.state(future.key) == "no-worker")
        await client.restart(wait_for_workers=False)
        assert (await call)["refused"] == {"a": "ended: the scheduler was restarted"}
        activity = await c.call.seamless_activity()
        assert activity["no_worker"] == activity["transformations"]["no_worker"] == 0
        assert len(c.plugin._live) == 0


# -- time --------------------------------------------------------------------------


@asynchronous
async def test_the_step_breaks_a_deadlock_and_decides_epochs():
    """Two looks at a cluster in which nothing runs, then the end of an epoch."""
    async with cluster(epoch=10.0, start_timeout=60.0) as c:
        worker = await c.worker()
        await c.register(worker)
        await c.request(worker, "a", "b", "c", "d")
        now = monotonic()
        c.plugin.step(now)
        await c.flush(worker)
        assert worker.decisions == {}
        c.plugin.step(now + 0.5)
        await c.flush(worker)
        assert worker.decisions == {"b": "granted"}
        c.plugin.step(now + 11.0)
        await c.flush(worker)
        assert worker.decisions == {"b": "granted", "c": "granted"}
        assert (await c.statistics())["over_capacity_total"] == 2
        c.plugin.step(now + 61.0)
        statistics = await c.statistics()
        assert statistics["expired_total"] == 2  # a and the b that came after it
        assert statistics["waiting"] == 0


@asynchronous
async def test_tasks_that_run_mean_load_and_no_deadlock():
    """A worker that executes something is waited for."""
    async with cluster(epoch=10.0) as c:
        worker, client = await c.worker(), await c.client()
        await c.register(worker)
        future = client.submit(pass_gate, "x", key=f"base-{A}")
        await until(lambda: c.state(future.key) == "processing")
        await c.request(worker, "a")
        now = monotonic()
        for beat in range(5):
            c.plugin.step(now + beat)
        c.plugin.step(now + 11.0)
        assert (await c.statistics())["waiting"] == 1
        row = c.plugin.status()["workers"][0]
        assert (row["executing"], row["capacity"]) == (1, 1)


@asynchronous
async def test_a_task_that_waits_for_nested_ones_is_no_load():
    """Whether or not it has left the thread pool of its worker."""
    async with cluster() as c:
        worker, client = await c.worker(), await c.client()
        await c.register(worker)
        future = client.submit(pass_gate, "x", key=f"base-{A}")
        await until(lambda: c.state(future.key) == "processing")
        assert c.plugin.status()["workers"][0]["executing"] == 1
        await c.request(worker, "nested", owner=future.key, depth=1)
        assert c.plugin.status()["workers"][0]["executing"] == 0
        await c.request(worker, "more", owner=future.key, depth=1)
        c.plugin.step(monotonic())
        c.plugin.step(monotonic())
        await c.flush(worker)
        assert worker.decisions == {"more": "granted"}


@asynchronous
async def test_the_beat_goes_on_after_an_error(caplog):
    """An error in the step is logged, and the next beat decides."""
    async with cluster(interval=0.01) as c:
        worker = await c.worker()
        await c.register(worker)
        expire = c.plugin._machine.expire
        c.plugin._machine.expire = lambda now: 1 / 0
        await c.request(worker, "a", "b")
        await until(lambda: "ZeroDivisionError" in caplog.text)
        c.plugin._machine.expire = expire
        await until(lambda: worker.decisions == {"b": "granted"})


@asynchronous
async def test_an_error_in_a_hook_does_not_stop_the_scheduler(caplog):
    """The task ends as if the plugin were not there."""
    async with cluster() as c:
        await c.worker()
        client = await c.client()
        knows = c.plugin._machine.knows
        c.plugin._machine.knows = lambda key: 1 / 0
        gate("x").set()
        assert await client.submit(pass_gate, "x", key=f"base-{A}") == "x"
        c.plugin._machine.knows = knows
        assert "ZeroDivisionError" in caplog.text
        assert c.scheduler.status == Status.running


# -- activity, status, cancellation ------------------------------------------------


@asynchronous
async def test_activity_follows_real_tasks():
    """Results, errors, and how long nothing has been there."""
    async with cluster() as c:
        worker, client = await c.worker(), await c.client()
        gate("ok").set()
        good = client.submit(pass_gate, "ok", key=f"base-{A}")
        bad = client.submit(fail, "ok", key="other")
        runs = client.submit(pass_gate, "x", key=f"base_{A}-{B}", pure=False)
        await until(
            lambda: (c.state(good.key), c.state(bad.key)) == ("memory", "erred")
        )
        await until(lambda: c.state(runs.key) == "processing")
        activity = await c.call.seamless_activity()
        assert activity["status"] == "ok"
        assert (activity["processing"], activity["finished_total"]) == (1, 1)
        assert activity["transformations"]["processing"] == 1
        assert (activity["erred_total"], activity["idle_seconds"]) == (1, 0.0)
        gate("x").set()
        await runs
        activity = await c.call.seamless_activity()
        assert activity["processing"] == 0 and activity["idle_seconds"] > 0
        assert activity["transformations"]["finished_total"] == 2
        assert worker.status == Status.running


@asynchronous
async def test_status_shows_who_waits_and_why():
    """Enough to understand a cluster that seems to stand still."""
    async with cluster() as c:
        worker = await c.worker(name="job-7")
        await c.register(worker, 2, 1)
        await c.request(worker, *[f"k{n}" for n in range(150)], owner="root", depth=1)
        status = await c.call.seamless_status()
        assert (status["version"], status["protocol"]) == ("0.5.0", messages.PROTOCOL)
        assert status["permissions"]["waiting"] == 148
        assert len(status["waiting"]) == 100
        first = status["waiting"][0]
        assert first["key"] == "k2" and first["owner"] == "root"
        assert first["reason"] == "2 of 2 slots are in use"
        assert first["age_seconds"] >= 0 and first["depth"] == 1
        [row] = status["workers"]
        assert row["name"] == "job-7" and row["capacity"] == 2


@asynchronous
async def test_cancelling_by_checksum():
    """Everybody's tasks of that transformation end, and the worker is told."""
    async with cluster() as c:
        worker = await c.worker(nthreads=3)
        one, two = await c.client(), await c.client()
        await c.register(worker)
        first = one.submit(pass_gate, "x", key=f"base-{A}")
        same = two.submit(pass_gate, "x", key=f"base-{A}")
        variant = two.submit(pass_gate, "x", key=f"base_{C}-{A}-S2")
        unwanted = one.submit(pass_gate, "x", key=f"base-{A}-dependency")
        between = one.submit(pass_gate, "x", unwanted, key="between")
        last = one.submit(pass_gate, "x", between, key="last")
        other = one.submit(pass_gate, "x", key=f"base-{B}")
        for future in (first, variant, unwanted, last, other):
            await until(lambda key=future.key: c.state(key) is not None)
        unwanted.release()
        between.release()
        await until(lambda: not c.scheduler.tasks["between"].who_wants)
        await until(lambda: c.state(first.key) == "processing")
        on_worker = {t.key for t in c.scheduler.workers[worker.address].processing}

        reply = await c.call.seamless_cancel(checksums=[A, C])

        mine = {first.key, variant.key, f"base-{A}-dependency"}
        assert reply["status"] == "ok" and set(reply["cancelled"]) == mine
        await until(lambda: set(c.scheduler.tasks) == {other.key})
        await c.flush(worker)
        assert set(worker.cancelled) == on_worker & mine
        for future in (first, same, variant, last):
            await until(future.cancelled)
        assert not (await c.call.seamless_cancel(checksums=[A]))["cancelled"]
        gate("x").set()
        assert await other == "x"
        assert len(c.plugin._live) == 0

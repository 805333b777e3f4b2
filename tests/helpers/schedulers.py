"""Schedulers in this process, with real workers and clients, and tasks that wait."""

from __future__ import annotations

import asyncio
import inspect
import threading
from contextlib import AsyncExitStack, asynccontextmanager

from distributed import Client, Scheduler, Worker, rpc

import scheduler_ext
from scheduler_ext import messages

A, B, C, D = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)


#: seconds; only a test that fails waits so long
PATIENCE = 40.0


#: {name: event} on which tasks wait; the workers live in this process
GATES: dict[str, threading.Event] = {}


class ListeningWorker(Worker):
    """A worker that keeps what the plugin pushes, and brings units when it registers."""

    def __init__(self, *args, units=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.units = units or {}
        self.decisions = {}
        self.cancelled = []
        self.markers = asyncio.Queue()
        self.stream_handlers[messages.PUSH_DECISIONS] = self.on_decisions
        self.stream_handlers[messages.PUSH_CANCEL] = self.on_cancel
        self.stream_handlers["marker"] = self.markers.put_nowait

    async def _register_with_scheduler(self):
        await super()._register_with_scheduler()
        self.add_units(self.units)

    def add_units(self, units):
        """What a worker plugin does on its side; the scheduler is told by RPC."""
        self.state.total_resources.update(units)
        self.state.available_resources.update(units)

    def on_decisions(self, granted, refused):
        self.decisions |= dict.fromkeys(granted, "granted")
        self.decisions |= {i: text.split(":")[0] for i, text in refused.items()}

    def on_cancel(self, keys):
        self.cancelled += keys


async def until(condition):
    """Let others run until the condition holds; fails after PATIENCE."""

    async def poll():
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(poll(), PATIENCE)


class Cluster:
    """A scheduler with the plugin; everything on this event loop."""

    def __init__(self, scheduler, plugin, call, stack):
        self.scheduler = scheduler
        self.plugin = plugin
        #: the RPC
        self.call = call
        self.stack = stack

    async def worker(self, **kwargs):
        worker = ListeningWorker(
            self.scheduler.address,
            **{"nthreads": 2, "dashboard_address": "127.0.0.1:0", **kwargs},
        )
        return await self.stack.enter_async_context(worker)

    async def client(self):
        client = await Client(
            self.scheduler.address, asynchronous=True, set_as_default=False
        )
        self.stack.push_async_callback(client.close)
        return client

    async def register(self, worker, processes=1, throttle=1, **kwargs):
        reply = await self.call.seamless_register_worker(
            worker=getattr(worker, "address", worker),
            processes=processes,
            throttle=throttle,
            **kwargs,
        )
        assert reply["status"] == "ok"
        return reply

    async def request(self, holder, *ids, wait_seconds=0.0, **request):
        reply = await self.call.seamless_request(
            holder=getattr(holder, "address", None) or getattr(holder, "id", holder),
            requests=[{"id": i, "key": i, **request} for i in ids],
            wait_seconds=wait_seconds,
        )
        assert reply["status"] == "ok", reply
        # lists arrive as tuples
        return {**reply, **{k: list(reply[k]) for k in ("granted", "waiting")}}

    async def statistics(self):
        return (await self.call.seamless_status())["permissions"]

    async def flush(self, worker):
        """Wait for everything that was sent to a worker until now."""
        self.scheduler.worker_send(worker.address, {"op": "marker", "item": 0})
        await asyncio.wait_for(worker.markers.get(), PATIENCE)

    def state(self, key):
        task = self.scheduler.tasks.get(key)
        return None if task is None else task.state


@asynccontextmanager
async def cluster(**options):
    """The beat is left to the tests unless they ask for it."""
    options = {"interval": 3600.0, "epoch": 3600.0, **options}
    async with AsyncExitStack() as stack:
        scheduler = await stack.enter_async_context(
            Scheduler(
                host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0", validate=True
            )
        )
        plugin = scheduler_ext.attach(scheduler, **options)
        call = await stack.enter_async_context(rpc(scheduler.address))
        try:
            yield Cluster(scheduler, plugin, call, stack)
            plugin.validate()
        finally:
            # workers close only when their tasks end
            for each in GATES.values():
                each.set()


def asynchronous(test):
    """Run a test on an event loop of its own, with new gates."""

    def run(*args, **kwargs):
        async def limited():
            await asyncio.wait_for(test(*args, **kwargs), 3 * PATIENCE)

        GATES.clear()
        asyncio.run(limited())

    # not functools.wraps: pytest must see a plain function with the same arguments
    run.__doc__ = test.__doc__
    run.__signature__ = inspect.signature(test)
    return run


def gate(name):
    return GATES.setdefault(name, threading.Event())


def pass_gate(name, *after):
    gate(name).wait(PATIENCE)
    return name


def fail(name):
    gate(name).wait(PATIENCE)
    raise ValueError(name)

"""Leases whose messages arrive in any order: none is left, and nobody waits in vain.

Those who ask (`Leases` of a Dask worker, `InnerLeases` of a client) and the scheduler's
side (`Calls`, `Delivery`, `PermissionMachine`) are the real ones. Hypothesis is the
network between them: it decides which message arrives next, loses connections together
with what is on its way, and delivers copies late. All messages of a Dask worker travel on
one stream; the requests of a client are calls, which its releases may overtake.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.examples import examples
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

import seamless_dask.cluster.scheduler
from scheduler_ext import messages
from scheduler_ext.calls import Calls
from scheduler_ext.cancellation import LiveKeys
from scheduler_ext.delivery import Delivery
from scheduler_ext.functions import Functions
from scheduler_ext.permission.machine import PermissionMachine
from seamless_dask.cluster.inner import InnerLeases
from seamless_dask.cluster.leases import Leases

HOLDER = "tcp://worker:1"
SLOTS = 2


class Call:
    """A request on its way: to the scheduler, then its reply back."""

    def __init__(self, payload: dict[str, Any]) -> None:
        self.payload = payload
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.handling: asyncio.Task[Any] | None = None


class Network:
    """Carries the messages between one holder of leases and the scheduler."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        #: copies of requests that the other side believes to be lost
        self.late: list[dict[str, Any]] = []
        #: to the scheduler, in their order
        self.stream: deque[dict[str, Any]] = deque()
        #: to the holder, in their order
        self.pushes: deque[dict[str, Any]] = deque()
        self.connected = True
        self.machine = PermissionMachine()
        self.machine.add_worker(HOLDER, 1, SLOTS, None, 0.0)
        self.scheduler: Any = SimpleNamespace(
            workers={HOLDER: None}, clients={}, tasks={}, worker_send=self._push
        )
        self.delivery = Delivery(self.scheduler, self.machine, [].extend)
        self.scheduler_calls = Calls(
            self.scheduler,
            self.machine,
            LiveKeys(),
            self.delivery,
            None,  # type: ignore[arg-type]  # nobody registers
            Functions(),
            announce=lambda client, number: None,
            status=dict,
            activity=dict,
            why=lambda checksum, name: {},
            failures=dict,
            progress=dict,
            output=lambda checksum, name, since, follow: asyncio.sleep(0, {}),
            report=dict,
        )

    def _push(self, holder: str, message: dict[str, Any]) -> None:
        self.pushes.append(message)

    async def seamless_request(self, **payload: Any) -> dict[str, Any]:
        call = Call(payload)
        self.calls.append(call)
        try:
            return await call.answer
        finally:
            if call in self.calls:  # given up: the scheduler does not know yet
                self.calls.remove(call)
                if call.handling is None:
                    self.late.append(payload)

    def send(self, message: dict[str, Any]) -> None:
        self.stream.append(message)

    def closed(self) -> bool:
        return False

    def arrive(self, payload: dict[str, Any]) -> asyncio.Task[Any]:
        return asyncio.ensure_future(self.scheduler_calls._on_request(**payload))

    def receive(self) -> None:
        message = self.stream.popleft()
        handler = self.scheduler_calls.stream_handlers()[message.pop("op")]
        handler(worker=HOLDER, **message)


class LeaseMessages(RuleBasedStateMachine):
    """A Dask worker asks, for transformations that its own ones call."""

    #: whether a lease that is thrown away is given back
    gives_back = True

    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.in_loop(self.begin)
        self.asking: list[asyncio.Task[Any]] = []
        self.held: list[Any] = []
        #: leases that have ended with their task, whoever has them
        self.ended_ids: set[str] = set()
        self.keys = 0

    def begin(self) -> None:
        self.network = Network()
        self.leases = self.new_leases()

    def new_leases(self) -> Any:
        worker: Any = SimpleNamespace(
            id="worker",
            contact_address=HOLDER,
            stream_handlers={},
            batched_stream=self.network,
        )
        return Leases(worker)

    def acquire(self, key: str) -> Any:
        return self.leases.acquire(key, None, 1)

    def in_loop(self, action: Any, *arguments: Any) -> Any:
        """Do something on the event loop, and let everything else follow."""

        async def act() -> Any:
            result = action(*arguments)
            for _ in range(20):
                await asyncio.sleep(0)
            return result

        return self.loop.run_until_complete(act())

    def settle(self) -> None:
        """Look who has a lease now."""
        for task in [task for task in self.asking if task.done()]:
            self.asking.remove(task)
            if not task.cancelled() and task.exception() is None:
                self.held.append(task.result())

    # -- what the holder does ----------------------------------------------------

    @rule(count=st.integers(1, 3), same=st.booleans())
    def ask(self, count: int, same: bool) -> None:
        for _ in range(count):
            self.keys += not same
            coroutine = self.acquire(f"base-{self.keys}")
            self.asking.append(self.in_loop(self.loop.create_task, coroutine))
        self.settle()

    @rule()
    def ask_and_give_up_at_once(self) -> None:
        def both() -> None:
            self.keys += 1
            for _ in range(2):
                task = self.loop.create_task(self.acquire(f"base-{self.keys}"))
                self.asking.append(task)
            self.loop.call_soon(self.asking[-2].cancel)

        self.in_loop(both)
        self.settle()

    @precondition(lambda self: self.asking)
    @rule(number=st.integers(0, 20))
    def give_up(self, number: int) -> None:
        task = self.asking[number % len(self.asking)]
        self.in_loop(task.cancel)
        self.settle()

    @precondition(lambda self: self.held)
    @rule(number=st.integers(0, 20))
    def release(self, number: int) -> None:
        lease = self.held.pop(number % len(self.held))
        self.in_loop(self.leases.release, lease)

    @precondition(lambda self: self.held and self.gives_back)
    @rule(number=st.integers(0, 20))
    def throw_away(self, number: int) -> None:
        """Forget a lease, as somebody does who is cancelled in the wrong moment."""
        self.in_loop(lambda: bool(self.held.pop(number % len(self.held))))

    @precondition(lambda self: self.held)
    @rule(number=st.integers(0, 20), finished=st.booleans(), released=st.booleans())
    def task_ends(self, number: int, finished: bool, released: bool) -> None:
        """Its leases end with it, those of others too; a release is one too many."""
        lease = self.held.pop(number % len(self.held))
        machine = self.network.machine
        book = machine.ledger.leases.get(self.id_of(lease))
        if book is not None:
            key = book.request.key
            ended = machine.ledger.bound_to(key)
            machine.key_seen(key)
            end = machine.key_finished if finished else machine.key_lost
            decisions = end(key, 0.0)
            self.in_loop(self.network.delivery.deliver, decisions)
            self.settle()
            self.ended_ids |= set(ended)
        if released:
            self.in_loop(self.leases.release, lease)
        else:
            self.in_loop(self.over, lease)

    def over(self, lease: Any) -> None:
        self.leases.ended(lease)

    def id_of(self, lease: Any) -> str:
        return str(lease)

    # -- what the network does ---------------------------------------------------

    @precondition(lambda self: self.network.calls)
    @rule(number=st.integers(0, 20))
    def request_arrives(self, number: int) -> None:
        call = self.network.calls[number % len(self.network.calls)]
        if call.handling is None:
            call.handling = self.in_loop(self.network.arrive, call.payload)

    @precondition(lambda self: self.network.calls)
    @rule(number=st.integers(0, 20))
    def reply_arrives(self, number: int) -> None:
        call = self.network.calls[number % len(self.network.calls)]
        if call.handling is not None and call.handling.done():
            self.network.calls.remove(call)
            self.in_loop(call.answer.set_result, call.handling.result())
            self.settle()

    @precondition(lambda self: self.network.calls)
    @rule(number=st.integers(0, 20), arrives=st.booleans())
    def connection_breaks(self, number: int, arrives: bool) -> None:
        """Of one call; the request may arrive later all the same."""
        call = self.network.calls.pop(number % len(self.network.calls))
        if call.handling is None and arrives:
            self.network.late.append(call.payload)
        self.in_loop(call.answer.set_exception, OSError("reset"))
        self.settle()

    @precondition(lambda self: self.network.late)
    @rule()
    def late_request_arrives(self) -> None:
        self.in_loop(self.network.arrive, self.network.late.pop(0))

    @precondition(lambda self: self.network.stream)
    @rule()
    def message_arrives(self) -> None:
        self.in_loop(self.network.receive)

    @precondition(lambda self: self.network.pushes)
    @rule()
    def push_arrives(self) -> None:
        message = self.network.pushes.popleft()
        assert message.pop("op") == messages.PUSH_DECISIONS
        self.in_loop(lambda: self.leases.decided(**message))
        self.settle()

    @rule()
    def disconnect(self) -> None:
        """The holder's connections end: so do its leases, and what is on its way."""

        def gone() -> None:
            network = self.network
            held = network.machine.held_by(HOLDER)
            decisions = network.machine.remove_holder(HOLDER, 0.0)
            network.delivery.abandon(held, "its worker is gone")
            network.delivery.deliver(decisions)
            network.stream.clear()
            network.pushes.clear()

        for task in self.asking:
            task.cancel()
        self.in_loop(gone)
        self.network.stream.clear()
        self.asking.clear()
        self.held.clear()
        self.ended_ids.clear()
        self.reconnect()

    def reconnect(self) -> None:
        """Another worker; what the last one has sent finds no holder."""
        for call in self.network.calls:
            call.answer.cancel()
        self.network.calls.clear()
        self.network.late.clear()
        self.in_loop(self.begin)

    # -- the end -----------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            self.everything_arrives()
            machine = self.network.machine
            machine.validate()
            live = set(machine.ledger.leases)
            held = {self.id_of(lease) for lease in self.held}
            # a lease that has ended with its task is live again if it was asked for
            # again, by somebody who did not know
            assert held - self.ended_ids <= live
            assert len(live - held) == len(self.asking)
            while self.held or self.asking:
                assert self.held, "somebody waits although nobody has a slot"
                while self.held:
                    self.release(0)
                self.everything_arrives()
            statistics = machine.statistics()
            assert not machine.live
            assert not statistics.admitted
            assert not statistics.waiting
            assert not self.network.delivery.undecided
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.in_loop(lambda: None)
            self.loop.close()

    def everything_arrives(self) -> None:
        network = self.network
        for _ in range(1000):
            for number, call in enumerate(list(network.calls)):
                if call.handling is None:
                    self.request_arrives(number)
            done = [c for c in network.calls if c.handling and c.handling.done()]
            if done:
                self.reply_arrives(network.calls.index(done[0]))
            elif network.late:
                self.late_request_arrives()
            elif network.stream:
                self.message_arrives()
            elif network.pushes:
                self.push_arrives()
            elif all(call.handling for call in network.calls):
                return
        raise AssertionError("messages for ever")


class InnerLeaseMessages(LeaseMessages):
    """A client asks, for a process that a transformation has started."""

    gives_back = False

    def new_leases(self) -> Any:
        self.network.scheduler.clients[HOLDER] = None
        client: Any = SimpleNamespace(
            id=HOLDER,
            status="running",
            scheduler=self.network,
            _send_to_scheduler=self.network.send,
        )
        return InnerLeases(client)

    def acquire(self, key: str) -> Any:
        return self.leases.acquire(key, {})

    def id_of(self, lease: Any) -> str:
        return lease.id

    def over(self, lease: Any) -> None:
        """A client gives back in any case."""
        self.leases.release(lease)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request without a reply is sent again at once."""
    monkeypatch.setattr(seamless_dask.cluster.scheduler, "RETRY_INTERVAL", 0.0)


for machine in (LeaseMessages, InnerLeaseMessages):
    machine.TestCase.settings = settings(
        max_examples=examples(100),
        stateful_step_count=40,
        suppress_health_check=list(HealthCheck),
    )
TestLeaseMessages = LeaseMessages.TestCase
TestInnerLeaseMessages = InnerLeaseMessages.TestCase

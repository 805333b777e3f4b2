"""What somebody waits for is written first."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seamless import Buffer, Checksum
from seamless.caching import buffer_writer

from seamless_dask.neighbours import write_order
from seamless_dask.neighbours.write_order import WriteOrder

SOON = 60


def checksum(number: int) -> Checksum:
    return Checksum(f"{number:064x}")


def registered(text: str, number: int) -> tuple[list[Buffer], list[Any]]:
    """Buffers that the background writer has, and its entries for them."""
    buffers = [Buffer(f"{text} {i}".encode()) for i in range(number)]
    entries = []
    for each in buffers:
        each.get_checksum()
        buffer_writer.register(each)
        entries.append(buffer_writer._entries[each.checksum])
    return buffers, entries


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["arrive", "hurry", "end", "fail", "cancel"]),
        st.integers(0, 9),
    )
)


@given(STEPS, st.integers(1, 3))
def test_everything_is_written_and_only_so_many_at_a_time(
    steps: list[tuple[str, int]], at_a_time: int
) -> None:
    """In order of arrival, those first that were needed before they had their turn."""

    async def main() -> None:
        order = WriteOrder(at_a_time)
        writing: dict[int, asyncio.Future[None]] = {}
        begun: list[int] = []
        tasks: dict[int, asyncio.Task[None]] = {}
        needed: set[int] = set()

        def write_of(number: int) -> Callable[[], Awaitable[None]]:
            async def write() -> None:
                begun.append(number)
                writing[number] = asyncio.get_running_loop().create_future()
                try:
                    await writing[number]
                finally:
                    del writing[number]

            return write

        async def settle() -> None:
            for _ in range(5):
                await asyncio.sleep(0)

        for step, number in steps:
            task = tasks.get(number)
            waits = [n for n, t in tasks.items() if not t.done() and n not in writing]
            if step == "arrive" and task is None:
                writes = order.write(checksum(number), write_of(number))
                tasks[number] = asyncio.create_task(writes)
            elif step == "hurry":
                order.hurry(checksum(number))
                needed.add(number)
            elif step == "end" and number in writing:
                before = len(begun)
                writing[number].set_result(None)
                await settle()
                first = [n for n in waits if n in needed]
                if waits:
                    assert begun[before:] and (not first or begun[before] in first)
            elif step == "fail" and number in writing:
                writing[number].set_exception(OSError("full"))
            elif step == "cancel" and task is not None:
                task.cancel()
            await settle()
            assert len(writing) <= at_a_time
            assert len(writing) == at_a_time or not len(order)
        while writing:
            next(iter(writing.values())).set_result(None)
            await settle()
        done = await asyncio.gather(*tasks.values(), return_exceptions=True)
        assert all(
            each is None or isinstance(each, (OSError, asyncio.CancelledError))
            for each in done
        )
        assert not len(order)

    asyncio.run(asyncio.wait_for(main(), SOON))


def test_of_many_the_one_that_is_needed_is_written_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also if it is given to the background writer only now."""
    from seamless_remote import buffer_remote

    order: list[str] = []
    gates: list[asyncio.Future[None]] = []

    async def write_buffer(checksum: Checksum, _buffer: Any) -> bool:
        gate = asyncio.get_running_loop().create_future()
        gates.append(gate)
        await gate
        order.append(checksum.hex())
        return True

    async def main() -> None:
        monkeypatch.setattr(buffer_remote, "write_buffer", write_buffer)
        buffers = [Buffer(f"needed later {i}".encode()) for i in range(500)]
        last = Buffer(b"needed now")
        for each in (*buffers, last):
            each.get_checksum()
        for each in buffers:
            buffer_writer.register(each)
        while len(gates) < write_order.AT_A_TIME:
            await asyncio.sleep(0.01)
        buffer_writer.register(last)
        write_order.hurry(last.checksum)
        needed = asyncio.ensure_future(buffer_writer.await_existing_task(last.checksum))

        def open_all() -> None:
            for gate in gates:
                if not gate.done():
                    gate.set_result(None)

        while not needed.done():
            gates[0].get_loop().call_soon_threadsafe(open_all)
            await asyncio.sleep(0.01)
        assert needed.result()
        assert order.index(last.checksum.hex()) < 4 * write_order.AT_A_TIME
        while any(each.checksum in buffer_writer._entries for each in buffers):
            gates[0].get_loop().call_soon_threadsafe(open_all)
            await asyncio.sleep(0.01)
        assert len(order) == len(buffers) + 1

    write_order.install()
    asyncio.run(asyncio.wait_for(main(), SOON))


def test_what_is_needed_passes_those_that_have_only_just_arrived(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The background writer may not have begun with any of them."""
    from seamless_remote import buffer_remote

    order: list[str] = []
    gate = threading.Event()

    async def write_buffer(checksum: Checksum, _buffer: Any) -> bool:
        await asyncio.sleep(0.001)
        order.append(checksum.hex())
        return True

    async def main() -> None:
        monkeypatch.setattr(buffer_remote, "write_buffer", write_buffer)
        buffers = [Buffer(f"just arrived {i}".encode()) for i in range(200)]
        for each in buffers:
            each.get_checksum()
        buffer_writer.init()
        while buffer_writer._loop is None:
            await asyncio.sleep(0.01)
        buffer_writer._loop.call_soon_threadsafe(gate.wait, SOON)
        for each in buffers:
            buffer_writer.register(each)
        write_order.hurry(buffers[-1].checksum)
        gate.set()
        while any(each.checksum in buffer_writer._entries for each in buffers):
            await asyncio.sleep(0.01)
        assert len(order) == len(buffers)
        assert order.index(buffers[-1].checksum.hex()) < 2 * write_order.AT_A_TIME

    write_order.install()
    asyncio.run(asyncio.wait_for(main(), SOON))


def test_what_has_failed_is_not_expected_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seamless keeps a buffer that it could not write, but does not write it again."""
    from seamless_remote import buffer_remote

    async def write_buffer(_checksum: Checksum, _buffer: Any) -> bool:
        raise OSError("full")

    async def main() -> None:
        monkeypatch.setattr(buffer_remote, "write_buffer", write_buffer)
        buffers, entries = registered("is refused", 100)
        while not all(each.future.done() for each in entries):
            await asyncio.sleep(0.01)
        loop = buffer_writer._loop
        assert loop is not None
        for each in buffers:
            write_order.hurry(each.checksum)
        arranged = asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop)
        await asyncio.wrap_future(arranged)
        assert not write_order._order_of(loop)._expected
        for entry in entries:
            del buffer_writer._entries[entry.checksum]

    write_order.install()
    asyncio.run(asyncio.wait_for(main(), SOON))


def test_without_a_hashserver_all_learn_it_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each group would wait for its own health check, which takes ten seconds."""
    from seamless_remote import buffer_remote

    begun: list[asyncio.Future[bool]] = []

    async def write_buffer(_checksum: Checksum, _buffer: Any) -> bool:
        begun.append(asyncio.get_running_loop().create_future())
        return await begun[-1]

    def fail(first: int, last: int) -> None:
        for each in begun[first:last]:
            each.set_exception(RuntimeError("Healthcheck failed"))

    async def main() -> None:
        monkeypatch.setattr(buffer_remote, "write_buffer", write_buffer)
        buffers, entries = registered("goes nowhere", 200)
        while len(begun) < write_order.AT_A_TIME:
            await asyncio.sleep(0.01)
        loop = begun[0].get_loop()
        order = write_order._order_of(loop)
        while len(order) < len(buffers) - write_order.AT_A_TIME:
            await asyncio.sleep(0.01)
        loop.call_soon_threadsafe(fail, 0, 1)
        while len(begun) < len(buffers):
            await asyncio.sleep(0.01)
        loop.call_soon_threadsafe(fail, 1, None)
        while not all(each.future.done() for each in entries):
            await asyncio.sleep(0.01)
        while order._free < write_order.AT_A_TIME:
            await asyncio.sleep(0.01)
        for entry in entries:
            del buffer_writer._entries[entry.checksum]

    write_order.install()
    asyncio.run(asyncio.wait_for(main(), 20))

"""The pipes between a Dask worker and its Seamless processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seamless_transformer.process import ConnectionClosed
from seamless_transformer.process.channel import Endpoint

from seamless_dask.neighbours.pipes import Frames, attach, framed

LARGE = b"x" * 5_000_000


@given(st.lists(st.binary(max_size=40)), st.integers(1, 50))
def test_messages_survive_any_cut(messages: list[bytes], size: int) -> None:
    """However the bytes arrive, the same messages come out."""
    stream = b"".join(map(framed, messages))
    frames = Frames()
    chunks = [stream[n : n + size] for n in range(0, len(stream), size)]
    assert [found for chunk in chunks for found in frames.feed(chunk)] == messages


@pytest.mark.parametrize("garbage", [b"\xff" * 64, b"\xff\xff\xff\xfe"])
def test_bytes_of_somebody_else(garbage: bytes) -> None:
    """Code that writes into all descriptors must not make the other side wait."""
    frames = Frames()
    assert frames.feed(framed(b"message")) == [b"message"]
    with pytest.raises(ConnectionClosed, match="bytes was announced"):
        frames.feed(garbage)


@asynccontextmanager
async def _endpoints() -> AsyncIterator[tuple[Any, Any]]:
    ends = [Endpoint(connection) for connection in multiprocessing.Pipe()]
    for end in ends:
        attach(end)
        end.add_request_handler("echo", lambda payload: payload)
    try:
        yield ends[0], ends[1]
    finally:
        for end in ends:
            await asyncio.wait_for(end.aclose(), 10)


def test_small_and_large_messages_both_ways() -> None:
    """What does not fit into the pipe at once arrives too, and nothing is mixed up."""

    async def run() -> None:
        async with _endpoints() as (here, there):
            payloads = [LARGE, b"small", *map(str, range(100)), LARGE[:300_000]]
            answers = asyncio.gather(
                *(here.request("echo", payload) for payload in payloads),
                *(there.request("echo", payload) for payload in payloads),
            )
            assert await asyncio.wait_for(answers, 30) == payloads + payloads

    asyncio.run(run())


def test_understands_a_plain_connection() -> None:
    """The other side may be an endpoint of seamless-transformer as it is."""

    async def run() -> None:
        connection, other = multiprocessing.Pipe()
        end = Endpoint(connection)
        attach(end)
        end.add_request_handler("size", len)

        def plain() -> Any:
            other.send({"kind": "request", "op": "size", "id": 1, "payload": LARGE})
            return other.recv()

        answer = await asyncio.wait_for(asyncio.to_thread(plain), 30)
        assert answer["payload"] == len(LARGE)
        other.close()
        await asyncio.wait_for(end.wait_closed(), 10)

    asyncio.run(run())


@pytest.mark.parametrize("whose", ["own", "other"])
def test_end_is_told_to_who_waits(whose: str) -> None:
    """A request without an answer ends with the pipe, whichever side closes it."""

    async def run() -> None:
        async with _endpoints() as (here, there):
            never = asyncio.Event()
            there.add_request_handler("wait", lambda _: never.wait())
            request = asyncio.ensure_future(here.request("wait"))
            await here.request("echo", None)
            (here if whose == "own" else there).close()
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(request, 10)
            with pytest.raises(ConnectionClosed):
                await here.request("echo", None)

    asyncio.run(run())


def test_what_cannot_be_pickled_harms_nobody() -> None:
    """The sender is told, and the pipe can still be used."""

    async def run() -> None:
        async with _endpoints() as (here, _):
            with pytest.raises(TypeError, match="pickle"):
                await here.request("echo", threading.Lock())
            assert await here.request("echo", 1) == 1

    asyncio.run(run())


def test_attach_comes_before_the_first_message() -> None:
    """Bytes that somebody else is reading would be lost."""

    async def run() -> None:
        connection, other = multiprocessing.Pipe()
        end = Endpoint(connection)
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="reads its pipe already"):
            attach(end)
        other.close()
        await asyncio.wait_for(end.wait_closed(), 10)

    asyncio.run(run())

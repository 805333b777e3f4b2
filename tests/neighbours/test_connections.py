"""Many requests at a time, and sessions that somebody closes meanwhile."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from helpers.paths import BENCHMARKS
from seamless import Checksum
from seamless.caching import buffer_writer
from seamless_remote import client as remote
from seamless_remote.buffer_client import BufferClient

from seamless_dask.neighbours import connections
from seamless_dask.storage.outages import Service

sys.path.insert(0, str(BENCHMARKS))

CHECKSUM = Checksum("ab" * 32)
#: how many connections aiohttp has at a time by default
CONNECTIONS = 100


class Server:
    """A hashserver that answers when it is told to; in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.gate = threading.Event()
        self.waiting = 0
        self.most = 0
        self.questions = 0
        self.port = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(30)

    def _run(self) -> None:
        self.loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._end = asyncio.Event()
        app = web.Application()
        app.router.add_get("/healthcheck", self._healthcheck)
        app.router.add_get("/has", self._has)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        self._ready.set()
        await self._end.wait()
        await runner.cleanup()

    async def _healthcheck(self, _request: web.Request) -> web.Response:
        self.questions += 1
        return web.Response(text="OK")

    async def _has(self, _request: web.Request) -> web.Response:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        while not self.gate.is_set():
            await asyncio.sleep(0.01)
        self.waiting -= 1
        return web.json_response([1])

    def close(self) -> None:
        self.gate.set()
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self.loop.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    connections.install()
    client = BufferClient(readonly=True)
    client.url = f"http://127.0.0.1:{server.port}"
    yield client
    client._close_sessions()


async def until(look: Any) -> None:
    while not look():
        await asyncio.sleep(0.01)


def limited(coroutine: Any) -> Any:
    async def run() -> Any:
        return await asyncio.wait_for(coroutine, 60)

    return asyncio.run(run())


def test_requests_wait_for_a_connection_as_long_as_it_takes(
    server: Server, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than it may take to open one."""
    monkeypatch.setattr(remote, "_CONNECT_TIMEOUT", 2.0)

    async def ask() -> None:
        requests = [
            asyncio.ensure_future(client.buffer_length(CHECKSUM))
            for _ in range(5 * CONNECTIONS)
        ]
        await until(lambda: server.waiting == CONNECTIONS)
        done, _ = await asyncio.wait(requests, timeout=4.0)
        assert not done
        server.gate.set()
        assert await asyncio.gather(*requests) == [1] * len(requests)

    limited(ask())
    assert server.most == CONNECTIONS
    assert server.questions == 1


def test_closing_waits_for_those_who_use_it(server: Server, client: Any) -> None:
    """All clients of all threads are closed, by somebody who has done with his."""

    async def ask() -> None:
        requests = [
            asyncio.ensure_future(client.buffer_length(CHECKSUM))
            for _ in range(2 * CONNECTIONS)
        ]
        await until(lambda: server.waiting == CONNECTIONS)
        (session,) = client._sessions.values()
        for close in (remote.close_all_clients, client.restart, client._close_sessions):
            await asyncio.to_thread(close)
        assert not session.closed
        # One that comes later has another session, and another question to ask.
        requests.append(asyncio.ensure_future(client.buffer_length(CHECKSUM)))
        await until(lambda: server.questions == 2)
        server.gate.set()
        assert await asyncio.gather(*requests) == [1] * len(requests)
        await until(lambda: session.closed)

    limited(ask())


def test_closing_although_the_loop_ends_first(server: Server, client: Any) -> None:
    """As that of Seamless' writer does, with the last of its requests."""
    sessions = []

    async def ask() -> None:
        request = asyncio.ensure_future(client.buffer_length(CHECKSUM))
        await until(lambda: server.waiting)
        sessions.extend(client._sessions.values())
        await asyncio.to_thread(client._close_sessions)
        server.gate.set()
        assert await request == 1

    limited(ask())
    (session,) = sessions
    assert not session.closed
    limited(client.buffer_length(CHECKSUM))
    client._close_sessions()  # another session
    assert session.closed


def test_one_question_for_all(server: Server, client: Any) -> None:
    """By a connection of its own: also if no other is to be had."""

    async def ask() -> None:
        requests = [
            asyncio.ensure_future(client.buffer_length(CHECKSUM))
            for _ in range(2 * CONNECTIONS)
        ]
        await until(lambda: server.waiting == CONNECTIONS)
        assert server.questions == 1
        await asyncio.gather(*(client.healthcheck() for _ in range(1000)))
        assert server.questions == 2
        await client.healthcheck()
        assert server.questions == 3
        server.gate.set()
        await asyncio.gather(*requests)

    limited(ask())


def test_a_question_without_an_answer(client: Any) -> None:
    """All are told, and the next one asks again."""

    async def ask() -> None:
        client.url = "http://127.0.0.1:1"
        for _ in range(2):
            answers = await asyncio.gather(
                *(client.healthcheck() for _ in range(3)), return_exceptions=True
            )
            assert all("Healthcheck failed" in str(answer) for answer in answers)

    limited(ask())


def test_sessions_of_ended_threads_go(server: Server, client: Any) -> None:
    """A driver may use any number of threads, one after the other."""
    server.gate.set()
    for _ in range(5):
        thread = threading.Thread(
            target=lambda: limited(client.buffer_length(CHECKSUM))
        )
        thread.start()
        thread.join()
    assert len(client._sessions) <= 1


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tasks do not tell who it was")
def test_only_the_caller_cancels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is cancelled under way is sent again."""
    service = Service("hashserver", lambda: [])
    answers: list[Any] = [asyncio.CancelledError(), asyncio.CancelledError(), 7]

    async def request() -> int:
        answer = answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def ask() -> None:
        assert await service.call(request) == 7
        waiting = asyncio.ensure_future(service.call(asyncio.Event().wait))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    limited(ask())


def test_a_write_that_is_cancelled_is_known_to_have_failed() -> None:
    """Whoever waits for it would wait for ever."""
    connections.install()
    entry: Any = SimpleNamespace(checksum=CHECKSUM, buffer=None, future=Future())

    async def write() -> None:
        writing = asyncio.ensure_future(buffer_writer._process_entry(entry))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait({writing})

    with pytest.MonkeyPatch.context() as patch:
        from seamless_remote import buffer_remote

        async def never(*_: Any) -> None:
            await asyncio.Event().wait()

        patch.setattr(buffer_remote, "write_buffer", never)
        limited(write())
    with pytest.raises(ConnectionAbortedError):
        entry.future.result(timeout=0)


@pytest.mark.cluster
@pytest.mark.parametrize(
    # As if there were ten times as many: a tenth of the time for a connection.
    "real_stack",
    [{"environment": {"SEAMLESS_REMOTE_CONNECT_TIMEOUT": "1"}}],
    indirect=True,
)
@pytest.mark.parametrize("way", ["start", "gather", "parallel", "threads"])
def test_hundreds_at_once_from_one_driver(real_stack: Any, way: str) -> None:
    """All end, with the right values, all are stored, and nothing is to be said."""
    import many

    found = many.run(real_stack, way, 600, timeout=110)
    assert found["right"]
    assert found["stored"] == 600
    assert found["warnings"] == []

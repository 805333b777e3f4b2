"""Requests of Seamless' background writer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from seamless import Buffer
from seamless.caching import buffer_writer
from seamless_remote import buffer_remote
from seamless_remote.buffer_client import BufferClient

from seamless_dask.neighbours import connections, fewer_requests

#: a guard
PATIENCE = 30.0


class Server:
    """A hashserver that answers promises only when so many buffers are written."""

    def __init__(self, number: int) -> None:
        self.promised: list[str] = []
        self.written: list[str] = []
        self._number = number
        self._complete = asyncio.Event()

    async def _promise(self, request: web.Request) -> web.Response:
        self.promised.append(request.match_info["checksum"])
        await self._complete.wait()
        return web.Response()

    async def _write(self, request: web.Request) -> web.Response:
        await request.read()
        self.written.append(request.match_info["checksum"])
        if len(self.written) == self._number:
            self._complete.set()
        return web.Response()

    async def _healthcheck(self, _request: web.Request) -> web.Response:
        return web.Response(text="OK")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_get("/healthcheck", self._healthcheck)
        app.router.add_put("/promise/{checksum}", self._promise)
        app.router.add_put("/{checksum}", self._write)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


def test_no_buffer_waits_for_a_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large ones are promised, small ones are not, and all go at the same time."""
    fewer_requests.install()
    connections.install()
    size = fewer_requests.SMALL
    large = [Buffer(f"{n}".encode() * (size + 1), "bytes") for n in range(3)]
    small = Buffer(b"x" * size, "bytes")

    async def write() -> Server:
        server = Server(len(large) + 1)
        async with server.running() as url:
            client = BufferClient(readonly=False)
            client.url = url
            monkeypatch.setattr(buffer_remote, "_write_server_clients", [client])
            checksums = [each.get_checksum() for each in [*large, small]]
            for each in [*large, small]:
                buffer_writer.register(each)
            writing = map(buffer_writer.await_existing_task, checksums)
            await asyncio.wait_for(asyncio.gather(*writing), PATIENCE)
            client._close_sessions()
        return server

    server = asyncio.run(write())
    checksums = [each.get_checksum().hex() for each in large]
    assert sorted(server.promised) == sorted(checksums)
    assert sorted(server.written) == sorted([*checksums, small.get_checksum().hex()])

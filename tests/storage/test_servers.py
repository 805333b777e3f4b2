"""Results, records and buffers, written to a real database and a real hashserver."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from seamless import Buffer, CacheMissError, Checksum
from seamless_remote import buffer_remote, database_remote
from seamless_remote.buffer_client import BufferClient
from seamless_remote.database_client import DatabaseClient

from seamless_dask.errors import StorageError, UploadError
from seamless_dask.neighbours import services
from seamless_dask.storage import database, hashserver
from seamless_dask.storage.cache import BufferStore, ensure_uploaded
from seamless_dask.storage.database import ResultWriter
from seamless_dask.storage.job_report import JobReport
from seamless_dask.storage.uploads import Uploads
from seamless_dask.wrapper.settings.ports import free_ports

pytestmark = pytest.mark.cluster

REPORT = JobReport("0" * 64, wall=1.5, cpu_user=1.0, memory_peak=10_000_000)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The addresses of a hashserver and a database."""
    folder = tmp_path_factory.mktemp("servers")
    (folder / "buffers").mkdir()
    ports = [str(port) for port in free_ports("127.0.0.1", 28000, 31999, 2)]
    commands = (
        ("hashserver", str(folder / "buffers"), "--writable", "--port", ports[0]),
        ("seamless-database", str(folder / "db"), "--writable", "--port", ports[1]),
    )
    processes = [
        subprocess.Popen(
            [str(Path(sys.executable).with_name(command)), *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for command, *arguments in commands
    ]
    try:
        yield f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.fixture(autouse=True)
def remote(servers: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """This process reads and writes there."""
    buffers: Any = BufferClient(readonly=False)
    results: Any = DatabaseClient(readonly=False)
    buffers.url, results.url = servers
    for module, name, client in (
        (buffer_remote, "_read_server_clients", buffers),
        (buffer_remote, "_write_server_clients", buffers),
        (database_remote, "_read_database_clients", results),
        (database_remote, "_write_database_clients", results),
    ):
        monkeypatch.setattr(module, name, [client])
    deadline = time.monotonic() + 60
    while True:
        try:
            asyncio.run(buffers.healthcheck())
            asyncio.run(results.healthcheck())
        except Exception:  # noqa: BLE001 - they are about to start
            assert time.monotonic() < deadline
        else:
            return


def new_buffer() -> tuple[str, Buffer]:
    buffer = Buffer(uuid.uuid4().hex.encode())
    return buffer.get_checksum().hex(), buffer


def new_checksums() -> tuple[str, str]:
    return new_buffer()[0], new_buffer()[0]


async def stored(checksum: str) -> bool:
    (length,) = await buffer_remote.get_buffer_lengths([Checksum(checksum)])
    return bool(length)


def test_the_services_that_this_process_uses() -> None:
    """Each client once, although it reads and writes."""
    assert services.has_hashserver()
    assert len(services.databases()) == len(services.hashservers()) == 1


def test_a_result_with_its_record() -> None:
    """One request does for both; with another database it takes two."""

    async def store(writer: ResultWriter) -> str | None:
        tf, result = new_checksums()
        assert await database.known_result(tf) is None
        record = database.minimal_record(tf, result, REPORT)
        await writer.store(tf, result, record)
        assert await database.known_result(tf) == result
        found = await database_remote.get_execution_record(Checksum(tf))
        assert found["wall_time_seconds"] == 1.5
        assert found["memory_peak_bytes"] == 10_000_000
        return result

    writer, other = ResultWriter(), ResultWriter()
    other._adds_result = False
    asyncio.run(store(writer))
    assert writer._adds_result  # checked with the first one
    asyncio.run(store(writer))
    asyncio.run(store(other))


def test_a_record_that_is_there_already_stays() -> None:
    async def store() -> None:
        tf, result = new_checksums()
        first = database.minimal_record(tf, result, REPORT)
        second = database.minimal_record(tf, result, JobReport(result, wall=9.0))
        assert await database.store_record(tf, result, first, required=True)
        assert await database.store_record(tf, result, second, required=True)
        found = await database_remote.get_execution_record(Checksum(tf))
        assert found["wall_time_seconds"] == 1.5

    asyncio.run(store())


def test_what_cannot_be_written_is_an_error_if_it_is_required(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(*_: Any) -> None:
        raise OSError("no room")

    monkeypatch.setattr(database_remote, "set_execution_record", fail)
    monkeypatch.setattr(database_remote, "set_transformation_result", fail)
    monkeypatch.setattr("seamless_dask.storage.outages.PATIENCE", 0.2)
    tf, result = new_checksums()
    record = database.minimal_record(tf, result, REPORT)

    async def store(required: bool) -> bool:
        return await database.store_record(tf, result, record, required=required)

    assert not asyncio.run(store(required=False))
    with pytest.raises(StorageError, match=f"{tf}.*no room"):
        asyncio.run(store(required=True))
    with pytest.raises(StorageError, match=f"{tf}.*no room"):
        asyncio.run(database.store_result(tf, result))


def test_what_a_process_has_made_is_kept_and_written_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checksum, buffer = new_buffer()
    requests: list[str] = []
    write = hashserver.write

    async def count(checksum: Checksum, buffer: Buffer) -> bool:
        requests.append(checksum.hex())
        return await write(checksum, buffer)

    monkeypatch.setattr("seamless_dask.storage.cache.write", count)

    async def upload() -> None:
        buffers = BufferStore()
        uploads = Uploads(buffers)
        uploads.received({checksum: buffer.content})
        assert buffers.at_hand(checksum) is not None
        uploads.made(buffer)  # under way already
        await uploads.wait([checksum])
        uploads.made(buffer)  # written already
        await uploads.ensure(checksum, None)
        assert uploads.is_written(checksum)
        assert await stored(checksum)
        uploads.received(None)

    asyncio.run(upload())
    assert requests == [checksum]


def test_a_failed_upload_is_tried_again_by_the_next_one_who_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checksum, buffer = new_buffer()
    write = hashserver.write
    refuses = [True]

    async def moody(checksum: Checksum, buffer: Buffer) -> bool:
        if refuses.pop() if refuses else False:
            raise ValueError("not today")
        return await write(checksum, buffer)

    monkeypatch.setattr("seamless_dask.storage.cache.write", moody)

    async def upload() -> None:
        uploads = Uploads(BufferStore())
        uploads.add(buffer)
        with pytest.raises(UploadError, match=f"{checksum}.*not today"):
            await uploads.wait([checksum])
        assert not uploads.is_written(checksum)
        await uploads.wait([checksum])
        assert await stored(checksum)

    asyncio.run(upload())


def test_a_buffer_that_nobody_has() -> None:
    missing = 2 * uuid.uuid4().hex
    checksum, buffer = new_buffer()

    async def ask() -> None:
        with pytest.raises(UploadError, match=missing):
            await ensure_uploaded(missing, None)
        with pytest.raises(CacheMissError, match=missing):
            await BufferStore().resolve(missing)
        await ensure_uploaded(checksum, buffer)
        assert await stored(checksum)

    asyncio.run(ask())

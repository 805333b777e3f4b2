"""Requests of Seamless processes for buffers, as the pool answers them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from seamless import Buffer, Checksum
from seamless.caching.buffer_cache import get_buffer_cache
from seamless_remote import buffer_remote
from seamless_remote.buffer_client import BufferClient
from seamless_transformer import worker as transformer_worker

from seamless_dask.child.values import KEEP_SCRATCH
from seamless_dask.pool import buffer_requests
from seamless_dask.pool.buffer_requests import BufferRequests
from seamless_dask.storage.cache import BufferStore
from seamless_dask.storage.shared_memory import (
    CONTENT,
    LARGE,
    PLAIN,
    SharedBuffer,
    SharedMemory,
    read,
)

PROCESS = "worker-1"
#: a guard against hanging
SOON = 30.0
SIZES = [20_000, LARGE + 1]


def checksum_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def content(request: pytest.FixtureRequest) -> bytes:
    """Bytes that no other test has; their number is the parameter."""
    size = getattr(request, "param", 20_000)
    return random.Random(request.node.nodeid).randbytes(size)


class Requests:
    """The handlers, in seamless-transformer's pool, which has no process here."""

    def __init__(self) -> None:
        self.buffers = BufferStore()
        #: keys of the shared memory for each process
        self.segments: dict[str, set[str]] = {PROCESS: set()}
        #: what other processes have
        self.elsewhere: dict[str, Buffer] = {}
        self.asked: list[tuple[str, str]] = []
        self.uploaded: list[tuple[str, Buffer]] = []
        self.manager = transformer_worker._WorkerManager(0)
        BufferRequests(
            self.buffers,
            self.segments.__getitem__,
            self._find,
            lambda name, buffer: self.uploaded.append((name, buffer)),
        ).install(self.manager)

    async def _find(self, name: str, checksum: str) -> Buffer | None:
        self.asked.append((name, checksum))
        return self.elsewhere.get(checksum)

    def ask(self, request: str, **payload: Any) -> Any:
        """What the process is answered."""
        handler = self.manager._manager._parent_handlers[request]
        answer = handler(SimpleNamespace(name=PROCESS), payload)
        return asyncio.run_coroutine_threadsafe(answer, self.manager.loop).result(SOON)

    def refer(self, content: bytes, op: str = "tempref") -> Any:
        """The process has made a buffer."""
        return self.ask(
            "ref_op", op=op, checksum=checksum_of(content), length=len(content)
        )

    @property
    def held(self) -> set[str]:
        """Keys of the shared memory that the process may use."""
        assert set(self.manager._pointers) == self.segments[PROCESS]
        return set(self.manager._pointers)


@pytest.fixture
def requests() -> Iterator[Requests]:
    requests = Requests()
    yield requests
    assert not requests.held
    requests.manager.close(wait=True)


@pytest.fixture
def hashserver(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one to which this process can write; nobody does."""
    client = BufferClient(readonly=False)
    client.url = "http://127.0.0.1:9"
    monkeypatch.setattr(buffer_remote, "_write_server_clients", [client])


def fill(pointer: dict[str, Any], content: bytes) -> None:
    with open(pointer["name"], "wb") as memory:
        memory.write(content)


@pytest.mark.parametrize("content", SIZES, indirect=True)
def test_a_buffer_is_read(requests: Requests, content: bytes) -> None:
    """The memory exists until the process has read it."""
    requests.buffers.add(Buffer(content))
    pointer = requests.ask("download", checksum=checksum_of(content))
    assert requests.held == {pointer["key"]}
    assert read(pointer["name"], pointer["size"]) == content
    requests.ask("downloaded", pointer=pointer)
    assert not os.path.exists(pointer["name"])
    assert not requests.asked


@pytest.mark.parametrize("content", [LARGE], indirect=True)
def test_what_is_in_shared_memory_is_lent(requests: Requests, content: bytes) -> None:
    """To several readers at once, without a copy."""
    checksum = checksum_of(content)
    buffer = SharedMemory(content).take(len(content), Checksum(checksum))
    assert isinstance(buffer, SharedBuffer)
    requests.buffers.add(buffer)
    pointers = [requests.ask("download", checksum=checksum) for _ in range(2)]
    assert {pointer["name"] for pointer in pointers} == {buffer.path}
    assert requests.held == {pointer["key"] for pointer in pointers}
    for pointer in pointers:
        assert read(pointer["name"], pointer["size"]) == content
        requests.ask("downloaded", pointer=pointer)
    assert buffer.content == content


def test_a_buffer_that_is_elsewhere_is_fetched(
    requests: Requests, content: bytes
) -> None:
    checksum = checksum_of(content)
    assert requests.ask("download", checksum=checksum) is None
    assert not requests.held
    requests.elsewhere[checksum] = Buffer(content)
    pointer = requests.ask("download", checksum=checksum)
    assert read(pointer["name"], pointer["size"]) == content
    requests.ask("downloaded", pointer=pointer)
    assert requests.asked == [(PROCESS, checksum)] * 2


def test_the_content_itself_is_asked_for(requests: Requests, content: bytes) -> None:
    requests.buffers.add(Buffer(content))
    request = {"checksum": checksum_of(content), PLAIN: True}
    assert requests.ask("download", **request) == {CONTENT: content}


@pytest.mark.parametrize("content", SIZES, indirect=True)
def test_a_buffer_that_was_made_is_uploaded(
    requests: Requests, hashserver: None, content: bytes
) -> None:
    """Once it is filled, not before; Seamless' own cache has nothing to do with it."""
    pointer = requests.refer(content)
    assert requests.held == {pointer["key"]}
    fill(pointer, content)
    assert not requests.uploaded
    answer = requests.ask("upload", pointer=pointer)
    assert answer == {"checksum": checksum_of(content)}
    ((name, buffer),) = requests.uploaded
    assert (name, buffer.content) == (PROCESS, content)
    assert isinstance(buffer, SharedBuffer) == (len(content) >= LARGE)
    assert Checksum(checksum_of(content)) not in get_buffer_cache().strong_cache


def test_a_buffer_that_is_here_is_not_handed_over(
    requests: Requests, hashserver: None, content: bytes
) -> None:
    """It is uploaded all the same."""
    requests.buffers.add(Buffer(content))
    assert requests.refer(content) == 0
    ((name, buffer),) = requests.uploaded
    assert (name, buffer.content) == (PROCESS, content)


@pytest.mark.parametrize("op", ["tempref", "incref"])
def test_without_a_hashserver_seamless_keeps_it(
    requests: Requests, content: bytes, op: str
) -> None:
    """It need not be handed over again; what is given up goes."""
    checksum = Checksum(checksum_of(content))
    pointer = requests.refer(content, op)
    fill(pointer, content)
    requests.ask("upload", pointer=pointer)
    assert not requests.uploaded
    kept = get_buffer_cache().get(checksum)
    assert kept is not None and kept.content == content
    del kept
    assert requests.refer(content, op) == 0
    if op == "incref":
        strong = get_buffer_cache().strong_cache
        requests.refer(content, "decref")
        assert checksum in strong
        requests.refer(content, "decref")
        assert checksum not in strong


def test_a_reference_that_lasts_is_not_ours(
    requests: Requests, hashserver: None, content: bytes
) -> None:
    """With a hashserver as well: Seamless counts it, and its writer uploads."""
    pointer = requests.refer(content, "incref")
    fill(pointer, content)
    requests.ask("upload", pointer=pointer)
    assert not requests.uploaded
    assert Checksum(checksum_of(content)) in get_buffer_cache().strong_cache
    requests.refer(content, "decref")


def test_memory_that_a_process_cannot_fill(
    requests: Requests, hashserver: None, content: bytes
) -> None:
    """The content comes with the message, and the memory goes."""
    pointer = requests.refer(content)
    requests.ask("upload", pointer=pointer, **{CONTENT: content})
    assert not os.path.exists(pointer["name"])
    ((_, buffer),) = requests.uploaded
    assert buffer.content == content


def test_memory_that_was_not_filled(
    requests: Requests, hashserver: None, content: bytes
) -> None:
    """It is no buffer, and it goes."""
    pointer = requests.refer(content)
    fill(pointer, content[1:])
    with pytest.raises(ValueError, match=f"{len(content) - 1} of {len(content)} bytes"):
        requests.ask("upload", pointer=pointer)
    assert not os.path.exists(pointer["name"])
    assert not requests.uploaded


def test_no_memory(
    requests: Requests,
    hashserver: None,
    content: bytes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Both ways go through the pipe, and it is said."""

    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "memfd_create", refuse)
    pointer = requests.refer(content)
    assert pointer["name"] is None
    requests.ask("upload", pointer=pointer, **{CONTENT: content})
    ((_, buffer),) = requests.uploaded
    requests.buffers.add(buffer)
    answer = requests.ask("download", checksum=checksum_of(content))
    assert answer == {CONTENT: content}
    # what tests before have left may be deleted meanwhile, and say so
    said = [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("seamless_dask")
    ]
    assert (
        said
        == ["A buffer goes through the pipe: [Errno 28] No space left on device"] * 2
    )


def test_without_unnamed_memory(
    requests: Requests, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system has none, seamless-transformer's segments are used and counted."""
    monkeypatch.setattr(buffer_requests, "SUPPORTED", False)
    pointer = requests.refer(content)
    assert requests.held == {pointer["key"]}
    segment = transformer_worker.SharedMemory(name=pointer["name"])
    segment.buf[: len(content)] = content
    segment.close()
    requests.ask("upload", pointer=pointer)
    assert not requests.held
    pointer = requests.ask("download", checksum=checksum_of(content))
    assert requests.held == {pointer["key"]}
    segment = transformer_worker.SharedMemory(name=pointer["name"])
    assert bytes(segment.buf[: len(content)]) == content
    segment.close()
    requests.ask("downloaded", pointer=pointer)


def test_scratch_is_kept(requests: Requests, content: bytes) -> None:
    """It is stored nowhere else."""
    checksum = checksum_of(content)
    requests.ask(KEEP_SCRATCH, checksum=checksum, content=content)
    kept = requests.buffers.at_hand(checksum)
    assert kept is not None and kept.content == content
    assert not requests.uploaded

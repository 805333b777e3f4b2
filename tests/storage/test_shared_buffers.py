"""Large buffers in shared memory: what is kept, lent and written, and what is left."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.polling import wait_until
from seamless import Buffer, Checksum
from seamless.transformer import delayed
from seamless_remote import buffer_remote
from seamless_remote.buffer_client import BufferClient

from seamless_dask import SeamlessDaskClient
from seamless_dask.pool.pool import Pool
from seamless_dask.storage import hashserver as writes
from seamless_dask.storage import shared_memory
from seamless_dask.storage.cache import write_to_hashserver
from seamless_dask.storage.shared_memory import (
    CONTENT,
    LARGE,
    PIECE,
    PLAIN,
    SharedBuffer,
    SharedMemory,
    read,
)
from seamless_dask.wrapper.settings.ports import free_ports

SOON = 30.0


def content_of(seed: str, size: int = 2 * LARGE + 12345) -> bytes:
    return random.Random(seed).randbytes(size)


def checksum_of(content: bytes) -> Checksum:
    return Checksum(hashlib.sha256(content).hexdigest())


def taken(content: bytes) -> Buffer:
    """What the worker has of memory that a process has filled."""
    return SharedMemory(content).take(len(content), checksum_of(content))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_memory_without_a_name() -> None:
    """It can be read by other processes as long as the object lives."""
    content = content_of("kept")
    buffer = taken(content)
    assert isinstance(buffer, SharedBuffer)
    assert os.stat(buffer.path).st_nlink == 0
    assert len(buffer) == len(content)
    assert buffer.content == content
    assert buffer.get_checksum() == checksum_of(content)
    read = [sys.executable, "-c", f"print(len(open({buffer.path!r}, 'rb').read()))"]
    assert int(subprocess.check_output(read)) == len(content)
    path = buffer.path
    del buffer
    assert not os.path.exists(path)


def test_pieces() -> None:
    """Both kinds of buffers come in the same pieces."""
    content = content_of("pieces", LARGE + 1)
    for buffer in (taken(content), Buffer(content)):
        parts = list(shared_memory.pieces(buffer))
        assert b"".join(parts) == content
        assert {len(part) for part in parts} == {PIECE, 1}


def test_it_travels_as_an_ordinary_buffer() -> None:
    """Another process could do nothing with our open file."""
    content = content_of("travels")
    copy = pickle.loads(pickle.dumps(taken(content)))
    assert type(copy) is Buffer
    assert copy.content == content
    assert copy.get_checksum() == checksum_of(content)


def test_other_processes_write_and_read_it() -> None:
    """By its path, as long as it is theirs to write; what is handed over stays."""
    content = content_of("filled")
    memory = SharedMemory()
    fill = "import sys; open(sys.argv[1], 'wb').write(sys.stdin.buffer.read())"
    command = [sys.executable, "-c", fill, memory.path]
    subprocess.run(command, input=content, check=True)
    buffer = memory.take(len(content), checksum_of(content))
    assert isinstance(buffer, SharedBuffer)
    assert read(buffer.path, len(content)) == content
    changed = subprocess.run(command, input=b"x", capture_output=True, check=False)
    assert changed.returncode
    assert buffer.content == content


def test_memory_that_is_given_back() -> None:
    """Filled or not, taken or not, no file stays open; a second time is no error."""
    before = descriptors()
    for content in (None, b"x", content_of("given back")):
        memory = SharedMemory(content)
        memory.close()
        memory.unlink()
        memory.unlink()
        assert descriptors() == before
    memory = SharedMemory(content_of("taken"))
    buffer = memory.take(len(content_of("taken")), checksum_of(content_of("taken")))
    memory.unlink()
    assert buffer.content == content_of("taken")
    del memory, buffer
    assert descriptors() == before


@pytest.mark.parametrize("written", [0, LARGE - 1, LARGE + 1])
def test_not_as_much_as_was_said(written: int) -> None:
    """It is no buffer."""
    before = descriptors()
    memory = SharedMemory(bytes(written))
    with pytest.raises(ValueError, match=f"{written} of {LARGE} bytes were written"):
        memory.take(LARGE, checksum_of(bytes(LARGE)))
    assert descriptors() == before
    short = SharedMemory(b"x")
    with pytest.raises(OSError, match="1 of 2 bytes"):
        read(short.path, 2)


def test_small_buffers_are_copied() -> None:
    """And no file stays open."""
    before = descriptors()
    assert type(taken(b"x" * (LARGE - 1))) is Buffer
    assert descriptors() == before


@pytest.fixture(scope="module")
def hashserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """A hashserver: its port and its directory."""
    folder = tmp_path_factory.mktemp("buffers")
    (port,) = free_ports("127.0.0.1", 28000, 31999, 1)
    process = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("hashserver")),
            *(str(folder), "--writable", "--port", str(port)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(answers, "the hashserver answers", SOON)
        yield port, folder
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def server(
    hashserver: tuple[int, Path], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, Path]:
    """This process writes to the hashserver, and reads from it."""
    client = BufferClient(readonly=False)
    client.url = f"http://127.0.0.1:{hashserver[0]}"
    monkeypatch.setattr(buffer_remote, "_write_server_clients", [client])
    monkeypatch.setattr(buffer_remote, "_read_server_clients", [client])
    return hashserver


def stored(folder: Path, checksum: Checksum) -> bytes | None:
    path = folder / checksum.hex()[:2] / checksum.hex()
    return path.read_bytes() if path.exists() else None


@pytest.mark.cluster
def test_written_in_pieces(server: tuple[int, Path]) -> None:
    """From shared memory and from bytes; what is there already is no error."""

    async def write(content: bytes, buffer: Buffer) -> None:
        checksum = checksum_of(content)
        for _ in range(2):
            await write_to_hashserver(checksum.hex(), buffer)
            assert stored(server[1], checksum) == content

    for seed, make in (("shared", taken), ("bytes", Buffer)):
        content = content_of(seed)
        asyncio.run(write(content, make(content)))


@pytest.mark.cluster
def test_a_wrong_checksum_is_an_error(server: tuple[int, Path]) -> None:
    """The answer of the hashserver is passed on."""
    content = content_of("right")
    with pytest.raises(Exception, match="Error 400: Incorrect checksum"):
        asyncio.run(writes.write(Checksum("12" * 32), Buffer(content)))


@pytest.mark.cluster
@pytest.mark.parametrize("size", [5000, 2 * LARGE])
@pytest.mark.parametrize("gives_up", [True, False])
def test_somebody_else_is_writing_it(
    server: tuple[int, Path], gives_up: bool, size: int
) -> None:
    """It counts as written when it is, and not when another has begun."""
    port, folder = server
    content = content_of(f"other/{gives_up}", size)
    checksum = checksum_of(content)
    buffer = Buffer(content) if size < LARGE else taken(content)

    async def write() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"PUT /{checksum.hex()} HTTP/1.1\r\nHost: x\r\nContent-Length: "
        writer.write(f"{head}{len(content)}\r\n\r\n".encode() + content[:1000])
        await writer.drain()
        begun = folder / checksum.hex()[:2]
        while not list(begun.glob(f"{checksum.hex()}-*")):
            await asyncio.sleep(0.01)
        ours = asyncio.create_task(writes.write(checksum, buffer))
        done, _ = await asyncio.wait({ours}, timeout=0.3)
        assert not done
        if not gives_up:
            writer.write(content[1000:])
            await writer.drain()
            await reader.readline()
        writer.close()
        assert await ours

    asyncio.run(asyncio.wait_for(write(), SOON))
    assert stored(folder, checksum) == content


def result_of(seed: str, size: int) -> bytes:
    import random

    return random.Random(seed).randbytes(size)


def length(blob: Any) -> int:
    return len(blob.content)


@pytest.mark.cluster
def test_from_process_to_process(
    server: tuple[int, Path], dummy: SeamlessDaskClient
) -> None:
    """A result is stored when it is announced, and lent to who needs it next."""
    make, use = delayed(result_of), delayed(length)
    make.celltypes.result = "bytes"
    use.celltypes.blob = "bytes"
    names = set(os.listdir("/dev/shm"))
    size = 3 * LARGE
    made = make("through", size)
    made.compute()
    content = result_of("through", size)
    checksum = checksum_of(content)
    assert made.result_checksum == checksum
    assert stored(server[1], checksum) == content
    pool = Pool.of_this_process(2, {}, "")
    assert isinstance(pool.buffers.at_hand(checksum.hex()), SharedBuffer)
    assert use(made).run() == size
    assert not pool._manager._pointers
    # other processes of this machine may have made some meanwhile, which end with them
    new = {name for name in os.listdir("/dev/shm") if "psm_" in name} - names
    wait_until(lambda: not new & set(os.listdir("/dev/shm")), "nothing is left", SOON)


@pytest.mark.cluster
def test_a_process_dies_on_the_way(
    server: tuple[int, Path], dummy: SeamlessDaskClient
) -> None:
    """Before it has filled the memory it was given, while it reads what it was lent."""
    pool = Pool.of_this_process(2, {}, "")
    content = content_of("lent")
    lent = taken(content)
    pool.buffers.add(lent)
    process = wait_until(
        lambda: next((p for p in pool._processes.all() if p.ready), None), "one", SOON
    )
    missing = checksum_of(b"never filled").hex()
    request = {"op": "tempref", "checksum": missing, "length": 5 * LARGE}

    async def ask() -> tuple[dict[str, Any], dict[str, Any]]:
        given = await pool._requests.refer(process._handle, request)
        download = {"checksum": lent.get_checksum().hex()}
        borrowed = await pool._requests.download(process._handle, download)
        assert borrowed is not None
        return given, borrowed

    given, borrowed = asyncio.run_coroutine_threadsafe(
        ask(), pool._manager.loop
    ).result(SOON)
    assert borrowed["name"] == lent.path
    assert os.path.exists(given["name"])
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not os.path.exists(given["name"]), "it goes", SOON)
    wait_until(lambda: not pool._manager._pointers, "the loan ends", SOON)
    assert stored(server[1], Checksum(missing)) is None
    assert lent.content == content


def test_memory_is_used_again() -> None:
    """Once a process reads large buffers, and with Dask's setting: not before."""
    script = """
import os, resource, sys
from seamless_dask.storage import shared_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        bytearray(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
memory = shared_memory.SharedMemory(bytes(shared_memory.LARGE))
shared_memory.read(memory.path, shared_memory.LARGE)
print(first > 5_000, faults() < 5_000)
"""
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"}
    environment.pop("MALLOC_MMAP_THRESHOLD_", None)
    command = [sys.executable, "-c", script]
    answer = subprocess.check_output(command, env=environment, text=True)
    assert answer.split() == ["True", "True"]


@pytest.mark.cluster
@pytest.mark.parametrize("fault", ["no memory", "not for the process"])
def test_memory_that_cannot_be_shared(
    server: tuple[int, Path],
    dummy: SeamlessDaskClient,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    """Buffers of any size go through the pipe, in both directions."""
    if fault == "no memory":

        def refuse(*_: object) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "memfd_create", refuse)
    else:
        # Of a process that does not exist, so that it cannot be opened.
        path = property(lambda self: f"/proc/0/fd/{self._fd}")
        monkeypatch.setattr(SharedMemory, "path", path)
        monkeypatch.setattr(SharedBuffer, "path", path)
    make, use = delayed(result_of), delayed(length)
    make.celltypes.result = "bytes"
    use.celltypes.blob = "bytes"
    pool = Pool.of_this_process(2, {}, "")
    for size in (20_000, 3 * LARGE):
        made = make(f"{fault} {size}", size)
        made.compute()
        assert made.result_checksum == checksum_of(result_of(f"{fault} {size}", size))
        assert use(made).run() == size
    assert not pool._manager._pointers


@pytest.mark.cluster
def test_asked_for_without_shared_memory(dummy: SeamlessDaskClient) -> None:
    """A process that could not read it gets the content."""
    pool = Pool.of_this_process(2, {}, "")
    content = content_of("plain")
    pool.buffers.add(Buffer(content))
    process = wait_until(
        lambda: next((p for p in pool._processes.all() if p.ready), None), "one", SOON
    )
    request = {"checksum": checksum_of(content).hex(), PLAIN: True}
    answer = asyncio.run_coroutine_threadsafe(
        pool._requests.download(process._handle, request), pool._manager.loop
    ).result(SOON)
    assert answer == {CONTENT: content}
    assert not pool._manager._pointers

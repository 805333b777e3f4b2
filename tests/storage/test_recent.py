"""Buffers that a client holds on to after it has uploaded them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seamless import Buffer, Checksum
from seamless.caching.buffer_cache import StrongEntry, get_buffer_cache
from seamless_remote import buffer_remote

from seamless_dask.storage.recent import RecentBuffers


@pytest.fixture(autouse=True, scope="module")
def hashserver() -> Iterator[None]:
    """The process has one; nothing is written, as nothing is new to it."""
    before = list(buffer_remote._write_server_clients)
    buffer_remote._write_server_clients[:] = ["a hashserver"]
    yield
    buffer_remote._write_server_clients[:] = before


def uploaded(content: bytes) -> tuple[str, StrongEntry]:
    """Return checksum and cache entry of a buffer with one reference."""
    cache = get_buffer_cache()
    buffer = Buffer(content)
    checksum = buffer.get_checksum()
    cache.incref(checksum, buffer=buffer, scratch=True)
    cache._scratch_refs.discard(checksum)
    entry = cache.strong_cache[checksum]
    entry.remote_registered = True
    return checksum.hex(), entry


def release(checksum: str) -> None:
    get_buffer_cache().decref(Checksum(checksum))


def is_held(checksum: str) -> bool:
    return Checksum(checksum) in get_buffer_cache().strong_cache


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=40))
def test_never_more_than_the_capacity(contents: list[bytes]) -> None:
    """What was used last stays, in bounded room; in the end nothing is left."""
    recent = RecentBuffers(capacity=100)
    seen = set()
    for content in contents:
        checksum, _ = uploaded(content)
        recent.keep_uploaded([checksum])
        release(checksum)
        seen.add(checksum)
        held = [entry for entry in seen if entry in recent]
        assert checksum in held
        assert all(map(is_held, held))
        assert sum(map(is_held, seen)) == len(held)
        cache = get_buffer_cache().strong_cache
        sizes = [len(cache[Checksum(c)].buffer.content) for c in held]
        assert sum(sizes) == recent._size <= 100
    assert not recent.forget(time.monotonic() + 1)
    assert not any(map(is_held, seen))


def test_it_stays_until_it_has_not_been_used_for_a_while() -> None:
    """Using it again counts."""
    recent = RecentBuffers()
    first, _ = uploaded(b"first")
    second, _ = uploaded(b"second")
    recent.keep_uploaded([first, second])
    release(first)
    release(second)
    deadline = time.monotonic()
    recent.keep_uploaded([first])
    assert recent.forget(deadline)
    assert is_held(first)
    assert not is_held(second)
    recent.forget(time.monotonic() + 1)


def test_references_of_others_stay() -> None:
    """Also if Seamless has evicted the buffer in between, and it has come back."""
    recent = RecentBuffers()
    checksum, _ = uploaded(b"evicted")
    recent.keep_uploaded([checksum])
    del get_buffer_cache().strong_cache[Checksum(checksum)]
    _, entry = uploaded(b"evicted")
    recent.forget(time.monotonic() + 1)
    assert entry.normal_refs == 1
    recent.keep_uploaded([checksum])
    assert entry.normal_refs == 2
    recent.forget(time.monotonic() + 1)
    assert entry.normal_refs == 1
    release(checksum)


def test_what_is_uploaded_nowhere_is_not_held() -> None:
    """It is none of ours: nobody else has it."""
    buffer = Buffer(b"scratch")
    checksum = buffer.get_checksum()
    get_buffer_cache().incref(checksum, buffer=buffer, scratch=True)
    recent = RecentBuffers()
    recent.keep_uploaded([checksum.hex(), "12" * 32])
    assert checksum.hex() not in recent
    assert not recent.forget(time.monotonic() + 1)
    release(checksum.hex())

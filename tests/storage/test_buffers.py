"""The bounded store of buffers in a worker."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seamless import Buffer, CacheMissError, Checksum

from seamless_dask.storage.cache import BufferStore


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=60))
def test_never_more_than_the_capacity(contents: list[bytes]) -> None:
    """Whatever is added, the bytes held are counted right and bounded."""
    store = BufferStore(capacity=100)
    for content in contents:
        store.add(Buffer(content))
        held = [store.get(Buffer(c).get_checksum().hex()) for c in set(contents)]
        sizes = [len(content) for content in held if content is not None]
        assert store.size == sum(sizes) <= 100
        assert len(store) == len(sizes)
        # what was added last is there
        assert store.get(Buffer(content).get_checksum().hex()) == content


def test_the_least_recently_used_makes_room() -> None:
    """A look-up counts as a use."""
    store = BufferStore(capacity=10)
    first, second, third = Buffer(b"aaaa"), Buffer(b"bbbb"), Buffer(b"cccc")
    store.add(first)
    store.add(second)
    assert store.get(first.get_checksum().hex()) == b"aaaa"
    store.add(third)
    assert first.get_checksum().hex() in store
    assert second.get_checksum().hex() not in store


def test_what_exceeds_the_capacity_is_not_kept() -> None:
    """And drives nothing else out."""
    store = BufferStore(capacity=10)
    small = Buffer(b"abc")
    store.add(small)
    store.add(Buffer(b"x" * 11))
    assert store.size == 3
    assert small.get_checksum().hex() in store


def test_it_is_the_mapping_that_the_pool_expects() -> None:
    """``in``, assignment of bytes, ``get``."""
    store = BufferStore()
    checksum = Buffer(b"content").get_checksum().hex()
    assert checksum not in store
    store[checksum] = b"content"
    assert checksum in store
    assert store.get(checksum) == b"content"


@pytest.mark.parametrize("content", [b"", b"{}\n", b"[]\n"])
def test_trivial_buffers_need_no_server(content: bytes) -> None:
    """They are never uploaded, and never fetched."""
    checksum = Buffer(content).get_checksum().hex()
    buffer = asyncio.run(BufferStore().resolve(checksum))
    assert buffer.content == content


def test_a_missing_buffer_is_a_cache_miss_for_everybody_who_waits() -> None:
    """Concurrent requests share one look-up, and its failure."""
    checksum = Checksum("1" * 64).hex()

    async def ask() -> list[BaseException | Buffer]:
        store = BufferStore()
        return await asyncio.gather(
            *(store.resolve(checksum) for _ in range(3)), return_exceptions=True
        )

    assert [type(answer) for answer in asyncio.run(ask())] == [CacheMissError] * 3

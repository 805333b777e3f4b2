"""Keeps tables of seamless-core and seamless-transformer from growing for ever.

Both packages keep data about every checksum that they have seen. That does no harm in a
process that runs one script, but a Dask worker lives for days. The tables are replaced by
tables that forget their oldest entries. All of them are caches: missing entries are
requested from elsewhere.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from .replacing import current, extend, replace
from .table_seamless import CACHE_METHODS

#: entries of a table that has one small entry per checksum
TABLE_LIMIT = 5_000
#: bytes of recent buffers that a Dask worker holds
WORKER_SOFT_CAP = 1024**3


class BoundedTable(OrderedDict[Any, Any]):
    """A dict of at most `limit` entries, which then drops the oldest.

    Parameters
    ----------
    limit
        The number of entries.
    entries
        The initial entries.
    """

    def __init__(self, limit: int, entries: Mapping[Any, Any] | None = None) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        super().__init__()
        for key, value in (entries or {}).items():
            self[key] = value

    def __setitem__(self, key: Any, value: Any) -> None:
        with self._lock:
            super().__setitem__(key, value)
            while len(self) > self._limit:
                self.popitem(last=False)


caches_lock = threading.RLock()


def synchronize_caches() -> None:
    """Let threads share Seamless' caches of checksums and parsed buffers; idempotent.

    They are linked lists of ten entries without a lock. Several jobs in one process
    would damage them: making a buffer then fails with a KeyError.
    """
    from seamless.util.pylru import lrucache

    with caches_lock:
        for name in CACHE_METHODS:
            extend(lrucache, name, _locked)


def _locked(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def locked(*args: Any, **kwargs: Any) -> Any:
        with caches_lock:
            return method(*args, **kwargs)

    return locked


def bound_tables(*, worker: bool = False) -> None:
    """Bound the tables of this process; idempotent.

    Parameters
    ----------
    worker
        Whether it is a Dask worker, whose buffers are all available elsewhere.
    """
    from seamless.caching import eviction_cost
    from seamless.caching.buffer_cache import get_buffer_cache

    synchronize_caches()
    cache = get_buffer_cache()
    with cache.lock:
        _bound(cache, "_sizes")
        if worker:
            cache.soft_cap = min(cache.soft_cap, WORKER_SOFT_CAP)
    _bound(eviction_cost._cost_module.buffer_lengths, "_lengths")
    bound_results()


def bound_results() -> None:
    """Bound the tables of this process about transformations; idempotent."""
    from seamless_transformer.transformation_cache import get_transformation_cache

    results = get_transformation_cache()
    for name in (
        "_transformation_cache",
        "_rev_transformation_cache",
        "_transformation_dunder_cache",
    ):
        _bound(results, name)


async def evict_buffers() -> None:
    """Make this process forget buffers that were used and uploaded long ago.

    Seamless forgets them only on request. Without a hashserver there must be no request:
    the process would forget the only copy.
    """
    from seamless.caching.buffer_cache import get_buffer_cache
    from seamless_remote import buffer_remote

    if buffer_remote.has_write_server():
        await get_buffer_cache().start_eviction_loop()


def _bound(owner: Any, name: str) -> None:
    table = current(owner, name)
    if not isinstance(table, BoundedTable):
        replace(owner, name, BoundedTable(TABLE_LIMIT, table))

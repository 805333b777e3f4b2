"""Imports that all Seamless processes share; executed once, in the fork server.

See `seamless_dask.child.fork_server`.
"""

from __future__ import annotations

import gc
import time
from importlib import import_module

from . import cores

#: modules that a Seamless process, its first transformation and its first call import
MODULES = (
    "numpy.random",
    "seamless.checksum.cached_calculate_checksum",
    "seamless.checksum.parse_buffer",
    "seamless.checksum.serialize",
    "seamless.transformer",
    "seamless.util.mixed.io",
    "seamless_config.extern_clients",
    "seamless_remote.buffer_remote",
    "seamless_remote.database_remote",
    "seamless_remote.jobserver_remote",
    "seamless_transformer.transformation_cache",
    "seamless_transformer.transformer_class",
    "seamless_transformer.worker",
    "seamless_dask.child.initializer",
    "seamless_dask.permissions",
)
#: seconds to wait for the start of the thread that seamless-core starts at its import
THREAD_TIMEOUT = 10.0


def _end_thread_of_core() -> None:
    """End the thread: a fork would inherit its locks, but not the thread itself.

    It starts again where it is needed.
    """
    from seamless.caching import buffer_writer

    deadline = time.monotonic() + THREAD_TIMEOUT
    while buffer_writer._loop is None and time.monotonic() < deadline:
        time.sleep(0.001)
    buffer_writer._stop_worker()


def _prepare() -> None:
    # Libraries read these variables when they are loaded.
    cores.allow()
    for name in MODULES:
        import_module(name)
    _end_thread_of_core()

    from . import fork_server
    from .state import locks

    fork_server.expect_orphans()
    locks.known()
    # Objects that the garbage collector never visits stay in shared memory.
    gc.collect()
    gc.freeze()


_prepare()

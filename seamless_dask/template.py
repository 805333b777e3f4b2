"""What Seamless processes have in common; imported once, by the fork server.

See `seamless_dask.fork_server`. What is imported here, the processes share.
"""

from __future__ import annotations

import gc
import time

import numpy.random  # noqa: F401
from seamless.caching import buffer_writer

from . import child, fork_server, permissions  # noqa: F401

#: seconds that the thread, which seamless-core starts when it is imported, may need
THREAD_TIMEOUT = 10.0


def _end_thread_of_core() -> None:
    """End the thread: a fork would have its locks and not the thread itself.

    It starts again where it is needed.
    """
    deadline = time.monotonic() + THREAD_TIMEOUT
    while buffer_writer._loop is None and time.monotonic() < deadline:
        time.sleep(0.001)
    buffer_writer._stop_worker()


_end_thread_of_core()
fork_server.adopt_orphans()
# Objects that the garbage collector never visits stay in shared memory.
gc.collect()
gc.freeze()

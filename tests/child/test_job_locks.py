"""Locks that a job keeps, and functions of Seamless that it replaces, harm no other job."""

from __future__ import annotations

import logging
import textwrap
from typing import Any

import pytest
from seamless.transformer import delayed

from seamless_dask import SeamlessDaskClient

pytestmark = pytest.mark.cluster

LOCKS = {
    "threading._active_limbo_lock": "threading._active_limbo_lock.acquire()",
    "threading._shutdown_locks_lock": """
    lock = getattr(threading, "_shutdown_locks_lock", None) or logging._lock
    lock.acquire()
    """,
    "logging._lock": "logging._lock.acquire(); logging._lock.acquire()",
    "the lock of a handler": "logging.lastResort.acquire()",
    "tempfile._once_lock": "tempfile._once_lock.acquire()",
    "the import lock": "import _imp; _imp.acquire_lock()",
    "a lock that another thread keeps": """
    threading.Thread(target=threading._active_limbo_lock.acquire, daemon=True).start()
    """,
    "a lock of a thread that runs": """
    def keep():
        threading._active_limbo_lock.acquire()
        taken.set()
        threading.Event().wait()
    taken = threading.Event()
    threading.Thread(target=keep, daemon=True).start()
    taken.wait()
    """,
}
#: functions and methods of Seamless that every job needs
REPLACED = {
    "serialize": """
    import seamless.checksum.serialize as module
    module.serialize = lambda *_, **__: b"wrong"
    """,
    "serialize of all": """
    import sys
    for module in list(sys.modules.values()):
        if module.__name__.startswith("seamless") and hasattr(module, "serialize"):
            if callable(module.serialize):
                module.serialize = lambda *_, **__: b"wrong"
    """,
    "exec_code": """
    import seamless_transformer.run as module
    module.exec_code = lambda *_, **__: 99
    """,
    "exec_code with a copied name": """
    import functools
    import seamless_transformer.run as module
    @functools.wraps(module.exec_code)
    def exec_code(*_, **__):
        return 99
    module.exec_code = exec_code
    """,
    "exec_code is gone": "import seamless_transformer.run as m; del m.exec_code",
    "a method": "from seamless import Buffer; Buffer.get_checksum = None",
    "a property": "from seamless import Buffer; Buffer.content = 5",
    "our own": """
    import seamless_dask.child.job_runner as module
    module.JobRunner._finish = None
    module.end_processes = None
    """,
}


def program(text: str, number: int) -> list[Any]:
    import logging
    import os
    import tempfile
    import threading

    names = {"threading": threading, "logging": logging, "tempfile": tempfile}
    exec(text, {"__name__": "program", **names})
    return [number, os.getpid()]


def innocent(salt: str, number: int) -> list[Any]:
    import os
    import tempfile
    import threading

    thread = threading.Thread(target=os.getpid)
    thread.start()
    thread.join()
    with tempfile.NamedTemporaryFile():
        import wave  # noqa: F401 - takes the import lock
    return [number, os.getpid()]


@pytest.mark.parametrize("kind", LOCKS)
def test_a_lock_that_a_job_keeps(
    dummy: SeamlessDaskClient, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its process is replaced, the log says why, and the next job does not hang."""
    text = textwrap.dedent(LOCKS[kind])
    with caplog.at_level(logging.INFO):
        number, pid = delayed(program)(text, 1).run()
        assert number == 1
        processes = [delayed(innocent)(kind, salt).run()[1] for salt in range(3)]
    assert pid not in processes
    assert "the transformation has not released" in caplog.text


@pytest.mark.parametrize("kind", REPLACED)
def test_functions_of_seamless_that_a_job_replaces(
    dummy: SeamlessDaskClient, kind: str
) -> None:
    """They are put back before its result is stored, and in the same process."""
    text = textwrap.dedent(REPLACED[kind])
    number, _ = delayed(program)(text, 1).run()
    assert number == 1
    for salt in range(3):
        assert delayed(innocent)(kind, salt).run()[0] == salt

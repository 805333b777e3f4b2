"""What code of a job leaves on its thread, or replaces, is no matter for the next job."""

from __future__ import annotations

import asyncio
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers.patient_jobs import running, starts
from seamless.transformer import delayed

from seamless_dask import SeamlessDaskClient
from seamless_dask.pool.pool import Pool

pytestmark = pytest.mark.cluster

#: a guard against hanging
SOON = 60.0
TOGETHER = 12

#: code that would change an environment variable later, or leave everything half done
LEAVES = {
    "a context variable": """
    import contextvars, os
    class Late:
        def __init__(self):
            self.environ = os.environ
        def __del__(self):
            self.environ["LEAK"] = "of a context variable"
    contextvars.ContextVar("x").set(Late())
    """,
    "a cycle in a context variable": """
    import contextvars, os
    class Late:
        def __init__(self):
            self.environ, self.me = os.environ, self
        def __del__(self):
            self.environ["LEAK"] = "of a cycle"
    contextvars.ContextVar("x").set(Late())
    """,
    "a value of its thread": """
    import decimal, os, threading
    class Late:
        def __init__(self):
            self.environ = os.environ
        def __del__(self):
            self.environ["LEAK"] = "of a thread"
    decimal.of_each_thread = threading.local()
    decimal.of_each_thread.late = Late()
    """,
    "a profile function": """
    import os, sys
    environ = os.environ
    def profile(*_):
        environ["LEAK"] = "of a profile function"
    sys.setprofile(profile)
    """,
    "a trace function": """
    import os, sys
    environ = os.environ
    def trace(*_):
        environ["LEAK"] = "of a trace function"
        return trace
    sys.settrace(trace)
    """,
    "a comparison that exits": """
    import logging, os
    class Odd(int):
        def __eq__(self, other):
            raise SystemExit(4)
        __ne__ = __eq__
        __hash__ = int.__hash__
    logging.getLogger("odd").level = Odd(3)
    os.environ["LEAK"] = "of a comparison"
    """,
}

#: replaced functions that are needed to end a job
REPLACED = {
    "perf_counter": "import time; time.perf_counter = None",
    "getpid": "import os; os.getpid = lambda: 1",
    "a frozen clock and a thread": """
    import threading, time
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    time.monotonic = lambda: 5.0
    """,
    "no sleep and a thread": """
    import threading, time
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    time.sleep = lambda seconds: None
    """,
    "a builtin function that fails": "import builtins; builtins.len = lambda _: 1 / 0",
    "a builtin function that is gone": "import builtins; del builtins.len",
    "no builtin functions": "import builtins; vars(builtins).clear()",
    "a class without a method": "import threading; threading.Thread.join = None",
    "a closed table": "import sys; sys.modules = None",
}
#: names that everything needs, each of which is replaced by None
NEEDED = (
    *("builtins." + name for name in ("__import__", "len", "isinstance", "type")),
    *("builtins." + name for name in ("Exception", "BaseException", "RuntimeError")),
    *("builtins." + name for name in ("getattr", "hasattr", "list", "next", "super")),
    *("threading." + name for name in ("Thread", "Condition", "current_thread")),
    *("threading." + name for name in ("_active", "get_ident", "_active_limbo_lock")),
    *("os." + name for name in ("write", "environ", "path", "fstat")),
    *("sys." + name for name in ("stdout", "stderr", "exc_info", "_getframe", "path")),
    *("asyncio." + name for name in ("Future", "shield", "run_coroutine_threadsafe")),
    *("asyncio.events." + name for name in ("get_running_loop", "_get_running_loop")),
    *("concurrent.futures." + name for name in ("Future", "Future.set_result")),
    *("traceback." + name for name in ("extract_tb", "format_exception_only")),
    *("gc.collect", "io.BytesIO", "logging.Logger._log", "hashlib.sha256"),
    *("pickle.loads", "struct.pack", "queue.SimpleQueue", "weakref.ref"),
    *("asyncio.BaseEventLoop." + name for name in ("call_soon_threadsafe", "call_at")),
    *("asyncio.Lock.acquire", "asyncio.Queue.get", "asyncio.Event.wait"),
    *("selectors.DefaultSelector.select", "socket.socket.send"),
    *("threading.Event.wait", "threading.Condition.wait"),
)


def program(text: str, number: int) -> int:
    exec(text, {"__name__": "program"})
    return number + 1


def innocent(salt: str, number: int) -> list[Any]:
    import os
    import time

    time.sleep(0.02)
    return [number, os.environ.get("LEAK")]


@pytest.mark.parametrize("kind", LEAVES)
def test_nothing_of_a_job_happens_during_the_next(
    dummy: SeamlessDaskClient, kind: str
) -> None:
    """Twelve that leave something, each beside one that looks."""
    text = textwrap.dedent(LEAVES[kind])
    with ThreadPoolExecutor(2 * TOGETHER) as threads:
        for number in range(TOGETHER):
            threads.submit(delayed(program)(text, number).run)
        found = list(
            threads.map(
                lambda number: delayed(innocent)(kind, number).run(), range(TOGETHER)
            )
        )
    assert found == [[number, None] for number in range(TOGETHER)]


def replaces(name: str, fails: bool) -> str:
    """Replace something that everything needs."""
    import pkgutil

    where, _, last = name.rpartition(".")
    owner = pkgutil.resolve_name(where)
    setattr(owner, last, None)
    if fails:
        raise ValueError("of the code itself")
    return name


@pytest.mark.parametrize("name", NEEDED)
def test_what_everything_needs_is_there_again_at_once(
    dummy: SeamlessDaskClient, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """The job has its result or its own error, and others find what they need."""
    with ThreadPoolExecutor(1) as threads:

        def ended(function: Any, *arguments: Any) -> Any:
            tf = delayed(function)(*arguments)
            threads.submit(tf.compute).result(SOON)
            return tf

        assert ended(replaces, name, False).run() == name
        failed = ended(replaces, name, True)
        assert "\nValueError: of the code itself [" in failed.exception
        for number in range(4):
            assert ended(innocent, name, number).run() == [number, None]
    assert "was lost" not in caplog.text
    assert "exit code" not in caplog.text


@pytest.mark.parametrize("kind", REPLACED)
def test_the_end_of_a_job_needs_nothing_that_it_may_replace(
    dummy: SeamlessDaskClient, kind: str
) -> None:
    text = textwrap.dedent(REPLACED[kind])
    with ThreadPoolExecutor(1) as threads:
        value = threads.submit(delayed(program)(text, 1).run).result(SOON)
    assert value == 2


def without_len(path: str) -> None:
    """Replace what the event loop of the process needs, and go on."""
    import builtins
    import os
    import time

    builtins.len = None
    with open(f"{path}/starts", "a") as file:
        file.write(f"{os.getpid()}\n")
    while not os.path.exists(f"{path}/go"):
        time.sleep(0.02)


def test_what_the_process_needs_while_the_code_runs(
    dummy: SeamlessDaskClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The job is executed once, and has an error that says what is wrong."""
    tf = delayed(without_len)(str(tmp_path))
    tf.start()
    pid = running(tmp_path, "starts")
    group = Pool.of_this_process(2, {}, "")._processes
    (process,) = (each for each in group.all() if each.pid == pid)
    ping = process._handle.request("ping")
    asyncio.run_coroutine_threadsafe(ping, process._loop).result(SOON)
    (tmp_path / "go").touch()
    with ThreadPoolExecutor(1) as threads:
        threads.submit(tf.compute).result(SOON)
        assert "The code has replaced builtins.len, without which" in tf.exception
        for number in range(4):
            run = delayed(innocent)("without len", number).run
            assert threads.submit(run).result(SOON) == [number, None]
    assert starts(tmp_path, "starts") == [pid]
    assert "was lost" not in caplog.text
    assert "exit code" not in caplog.text

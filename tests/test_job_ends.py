"""What code of a job leaves on its thread, or replaces, is no matter for the next job."""

from __future__ import annotations

import textwrap
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from seamless.transformer import delayed

from seamless_dask import SeamlessDaskClient

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
}


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


@pytest.mark.parametrize("kind", REPLACED)
def test_the_end_of_a_job_needs_nothing_that_it_may_replace(
    dummy: SeamlessDaskClient, kind: str
) -> None:
    text = textwrap.dedent(REPLACED[kind])
    with ThreadPoolExecutor(1) as threads:
        value = threads.submit(delayed(program)(text, 1).run).result(SOON)
    assert value == 2

"""What there is one of for each event loop, and the calls that wait on one."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
from typing import Any

import pytest
from helpers.interrupting import at_every_line

from seamless_dask import per_loop
from seamless_dask.per_loop import PerLoop
from seamless_dask.submit import mailbox
from seamless_dask.submit.mailbox import Mailbox, mailboxes

SOON = 60


@pytest.mark.parametrize("module", [per_loop, mailbox])
def test_a_call_may_be_put_in_at_any_moment(module: Any) -> None:
    """Each is made, and none waits for one that is being put in by the same thread."""
    loop, mailboxes = asyncio.new_event_loop(), PerLoop(Mailbox)
    made: list[int] = []
    numbers = itertools.count(1)

    def put() -> None:
        number = next(numbers)
        mailboxes.of(loop).put(made.append, number)

    assert at_every_line(module, put, put)
    if module is mailbox:
        assert at_every_line(module, put, mailboxes.of(loop).empty)
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    number = next(numbers)
    assert number > 5
    assert sorted(made) == list(range(1, number))


@pytest.mark.parametrize("inner", [False, True])
def test_a_fork_waits_for_no_thread_of_its_parent(inner: bool) -> None:
    """Such a thread holds a lock, and has said that it will wake the loop."""
    loop = asyncio.new_event_loop()
    held, free = threading.Event(), threading.Event()
    box = mailboxes.of(loop)
    lock: Any = box._lock if inner else mailboxes._lock

    def hold() -> None:
        with lock:
            box._woken = inner
            held.set()
            free.wait(SOON)
            box._woken = False

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(SOON)
    child = os.fork()
    if not child:
        signal.alarm(20)  # it would wait for ever
        mailboxes.of(loop).put(loop.stop)
        loop.run_forever()
        os._exit(0)
    free.set()
    thread.join(SOON)
    loop.close()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

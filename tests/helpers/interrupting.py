"""Runs other code in the middle of code under test."""

from __future__ import annotations

import _weakrefset
import dis
import functools
import gc
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from types import CodeType
from typing import Any

import seamless_dask

#: a guard against hanging
SOON = 20.0


def at_every_line(of: Any, do: Callable[[], object], run: Callable[[], object]) -> bool:
    """Whether code ends if something happens at every line of a module.

    A signal handler, or a finaliser that the search for garbage calls, may do it.
    """

    def trace(frame: Any, event: str, _: object) -> Any:
        if frame.f_code.co_filename != of.__file__:
            return None
        if event == "line":
            do()
        return trace

    def traced() -> None:
        sys.settrace(trace)
        try:
            run()
        finally:
            sys.settrace(None)

    thread = threading.Thread(target=traced, daemon=True)
    thread.start()
    thread.join(SOON)
    return not thread.is_alive()


#: an interrupt in the callback of a weak reference is lost
WEAK = (weakref.__file__, _weakrefset.__file__)
PACKAGE = os.path.dirname(seamless_dask.__file__) + os.sep


def interrupted(n: int, do: Callable[[], object], patience: float = SOON) -> bool:
    """Let Ctrl-C come at the n-th place of our code where Python may notice it.

    These are the beginnings of functions, ours and those that ours call, and the ends of
    functions in C; in this thread, which must be the main thread. What a function in C
    calls is left out: an interrupt in ``Future.set_result`` may let asyncio lose the
    wake-up of a task.

    Parameters
    ----------
    patience
        Seconds after which Ctrl-C comes otherwise.

    Returns
    -------
    bool
        False if there are fewer places.
    """
    places = 0
    #: our function that has called one in C, which has not ended
    outside: Any = None
    over = threading.Event()

    def look(frame: Any, event: str, _: object) -> None:
        nonlocal places, outside
        if event == "call":
            if frame.f_code.co_filename in WEAK:
                return
            by_ours = _is_ours(frame.f_back) and frame.f_back is not outside
            if _goes_on(frame) or not (_is_ours(frame) or by_ours):
                return
        elif not _is_ours(frame):
            return
        else:
            outside = frame if event == "c_call" else None
            if event != "c_return":
                return
        if over.is_set():
            return
        places += 1
        if places == n:
            over.set()
            raise KeyboardInterrupt

    def lose_patience() -> None:
        if not over.is_set():
            over.set()
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    timer = threading.Timer(patience, lose_patience)
    timer.start()
    gc.disable()  # an interrupt in what it calls is lost
    # dask_jobqueue, which another test may have imported, has its own
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.setprofile(look)
        do()
    except KeyboardInterrupt:
        assert over.is_set()
    finally:
        sys.setprofile(None)
        gc.enable()
        timer.cancel()
        timer.join()
        signal.signal(signal.SIGINT, handler)
    return places >= n


def _is_ours(frame: Any) -> bool:
    return frame is not None and frame.f_code.co_filename.startswith(PACKAGE)


def _goes_on(frame: Any) -> bool:
    """Whether it is a coroutine after an ``await``, where Python notices nothing."""
    return frame.f_lasti > _beginning(frame.f_code)


@functools.cache
def _beginning(code: CodeType) -> int:
    found = (i.offset for i in dis.get_instructions(code) if i.opname == "RESUME")
    return next(found, -1)

"""Runs other code in the middle of code under test."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

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

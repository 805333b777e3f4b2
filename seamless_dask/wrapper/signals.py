"""The signals that end the wrapper."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Block these signals in this thread, and so in the processes that it starts.

    Another thread may still take a signal, for which the main thread runs the handler that
    is installed at that moment.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Keep the handlers of these signals, whatever the modules that are imported do.

    Importing ``dask_jobqueue`` installs one for SIGINT that exits at once.
    """
    install = signal.signal

    def unless_ours(number: Any, handler: Any) -> Any:
        if number in ENDING:
            return signal.getsignal(number)
        return install(number, handler)

    signal.signal = unless_ours  # type: ignore[assignment]
    try:
        yield
    finally:
        signal.signal = install

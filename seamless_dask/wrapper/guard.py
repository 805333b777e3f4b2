"""A small process that ends what is left when the wrapper itself is killed.

Dask workers notice the death of their parent, but what user code started below them
does not, nor a process whose parent died earlier. So the wrapper marks its environment, which every process below inherits, and
starts this guard. The guard waits for the pipe from the wrapper to break; then it gives
the marked processes a few seconds to notice by themselves, and kills the rest. The
wrapper itself finds by the same mark what it has to end.

Runs as a script, so it imports nothing of this package.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid

import psutil

#: Environment variable that all processes below one wrapper share. The name does not
#: start with DASK_, which Dask would read as configuration.
MARK = "WRAPPED_CLUSTER"
#: Time for processes to notice that their parent is gone, in seconds.
NOTICE_SECONDS = 5.0
KILL_SECONDS = 10.0
DISMISSED = b"dismissed"


class Guard:
    """The guard as the wrapper sees it: started, and dismissed when all is over."""

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex
        os.environ[MARK] = self.mark
        self._process = subprocess.Popen(
            [sys.executable, __file__, self.mark],
            stdin=subprocess.PIPE,
            # out of reach of signals from a terminal
            start_new_session=True,
            # the guard itself bears no mark
            env={name: value for name, value in os.environ.items() if name != MARK},
            cwd="/",
        )

    @property
    def pid(self) -> int:
        """Process id of the guard."""
        return self._process.pid

    def dismiss(self, seconds: float = 1.0) -> None:
        """End the guard; nothing is left to guard."""
        with contextlib.suppress(BrokenPipeError):  # somebody ended it before
            try:
                self._process.communicate(DISMISSED, timeout=seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(seconds)


def marked(mark: str) -> set[psutil.Process]:
    """All processes that inherited the mark, but for this one."""
    found = set()
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found.add(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            continue  # ended meanwhile, or another user's
    return found


def _wait(mark: str) -> None:
    if sys.stdin.buffer.read() == DISMISSED:
        return
    deadline = time.monotonic() + NOTICE_SECONDS
    while time.monotonic() < deadline:
        left = marked(mark)
        if not left:
            return
        time.sleep(0.2)
    print(
        "The wrapper was killed; its guard ends what is left: "
        + ", ".join(str(process.pid) for process in left),
        file=sys.stderr,
        flush=True,
    )
    deadline = time.monotonic() + KILL_SECONDS
    while left and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.2)
        left = marked(mark)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _wait(sys.argv[1])

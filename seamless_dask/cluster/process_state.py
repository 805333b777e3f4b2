"""Whether a process of the operating system has ended. Knows nothing of Seamless."""

from __future__ import annotations

import psutil


def has_ended(process: psutil.Process) -> bool:
    """Return whether a process has ended; its process id may be in use again.

    A zombie has ended as well: it stays until its parent collects its exit code. If the
    parent was killed, the init process does, which may take seconds, or never happen in
    a container.

    Raises
    ------
    psutil.AccessDenied
        If the operating system does not say.
    """
    try:
        return bool(
            not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        )
    except psutil.NoSuchProcess:
        return True

"""Descriptors that a job has left open, as a part of the state of a process."""

from __future__ import annotations

import gc
import os
import socket
import stat

from .descriptors import Descriptor, identity
from .part import Part

#: has an entry for each open descriptor
FOLDER = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
#: details of each, on Linux
DETAILS = "/proc/self/fdinfo"
#: number of descriptors that may stay open
MANY = 64


class LeftOpen(Part):
    """Descriptors that jobs have opened and not closed.

    They stay, as libraries keep some open for later. But the process is replaced if a job
    leaves a listening socket (its address is taken), a locked file, or very many.
    """

    title = "Descriptors left open (process replaced: lock, server, more than 64)"

    def __init__(self) -> None:
        # From Linux 6.2 on, the size of the folder is the number of descriptors.
        self._is_told = FOLDER.startswith("/proc/") and os.stat(FOLDER).st_size > 0
        self._first = self._open()
        self._count = self._count_now()

    def save(self) -> None:
        return None

    def restore(self, saved: None) -> None:
        return None

    def reset(self) -> list[str]:
        if self._count_now() == self._count:
            return []
        reasons = self._reasons()
        if reasons:
            gc.collect()  # closes descriptors of objects in reference cycles
            reasons = self._reasons()
        if not reasons:
            self._count = self._count_now()
        return reasons

    def _count_now(self) -> int:
        """Return how many are open, without those of this package that come and go."""
        if self._is_told:
            count = os.stat(FOLDER).st_size
        else:
            count = len(self._numbers())
        return count - len(Descriptor.numbers)

    @staticmethod
    def _numbers() -> list[int]:
        try:
            return [int(name) for name in os.listdir(FOLDER)]
        except OSError:
            return []

    def _open(self) -> dict[int, tuple[int, ...]]:
        return {
            number: found
            for number in self._numbers()
            if number not in Descriptor.numbers
            # not the descriptor with which they are listed
            and (found := identity(number)) is not None
        }

    def _reasons(self) -> list[str]:
        new = {
            number: found
            for number, found in self._open().items()
            if self._first.get(number) != found
        }
        reasons = []
        if len(new) > MANY:
            reasons.append(f"{len(new)} descriptors were left open")
        for number, (kind, *_) in sorted(new.items()):
            if stat.S_ISSOCK(kind):
                if (address := _listens_at(number)) is not None:
                    reasons.append(f"a socket was left open that listens at {address}")
            elif _is_locked(number):
                path = os.readlink(f"{FOLDER}/{number}")
                reasons.append(f"a file was left open that is locked: {path}")
        return reasons


def _listens_at(number: int) -> str | None:
    """Return the address of a socket that waits for connections, None for others."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(None)  # or the socket would not block any more
    try:
        found = socket.socket(fileno=number)
    finally:
        socket.setdefaulttimeout(timeout)
    try:
        if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return str(found.getsockname())
        return None
    except OSError:  # a kind of socket that cannot listen
        return None
    finally:
        found.detach()


def _is_locked(number: int) -> bool:
    """Say whether this process, or a child of it, has a lock by this descriptor."""
    try:
        with open(f"{DETAILS}/{number}", "rb") as file:
            return b"\nlock:" in file.read()
    except OSError:  # not Linux
        return False

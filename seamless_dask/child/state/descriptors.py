"""The parts of the state of a process that are open files and its directory."""

from __future__ import annotations

import fcntl
import io
import os
import stat
import sys
from collections.abc import Iterable
from typing import Any, ClassVar

from . import native_code
from .part import CannotPutBack, Part, Watched


def identity(descriptor: int) -> tuple[int, ...] | None:
    """Return the identity of an open file, None for a closed descriptor."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return stat.S_IFMT(found.st_mode), found.st_dev, found.st_ino, found.st_rdev


class Descriptor:
    """A duplicate of an open descriptor, closed with this object.

    Never 0, 1 or 2, which a job may have closed.
    """

    #: the descriptors of all objects of this class
    numbers: ClassVar[set[int]] = set()

    def __init__(self, number: int) -> None:
        self.number = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)
        self.identity = identity(self.number)
        self.numbers.add(self.number)

    def intact(self) -> bool:
        """Say whether it still refers to its file; other code may have closed it."""
        return identity(self.number) == self.identity

    def __del__(self) -> None:
        self.numbers.discard(self.number)
        if self.intact():
            os.close(self.number)


class WorkingDirectory(Part):
    title = "Working directory"

    def __init__(self) -> None:
        self._descriptor = self._open()
        self._path = native_code.working_directory()

    def _open(self) -> Descriptor:
        flags = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY
        opened = os.open(".", flags)
        try:
            return Descriptor(opened)
        finally:
            os.close(opened)

    def _unchanged(self) -> bool:
        found = os.stat(".")
        return self._descriptor.identity == (
            stat.S_IFMT(found.st_mode),
            found.st_dev,
            found.st_ino,
            found.st_rdev,
        )

    def save(self) -> Descriptor | None:
        return None if self._unchanged() else self._open()

    def restore(self, saved: Descriptor | None) -> None:
        # By its descriptor, which works even if it was renamed or removed meanwhile.
        if saved is None:
            self._go_back()
        elif saved.intact():
            os.fchdir(saved.number)
        else:
            raise CannotPutBack("the descriptor of its directory was closed")

    def _go_back(self) -> None:
        if self._descriptor.intact():
            os.fchdir(self._descriptor.number)
        else:
            os.chdir(self._path or os.sep)
            self._descriptor = self._open()

    def reset(self) -> list[str]:
        if not self._unchanged():
            self._go_back()
        if self._path and os.stat(".").st_nlink == 0:
            return [f"the working directory {self._path} was deleted"]
        return []


class StandardStreams(Part):
    title = "Standard input, output and error, also as C code and commands see them"

    _NUMBERS = (0, 1, 2)

    def __init__(self) -> None:
        self._spare = {number: self._duplicate(number) for number in self._NUMBERS}
        self._streams = {
            name: getattr(sys, name)
            for name in ("__stdin__", "__stdout__", "__stderr__")
            if not getattr(getattr(sys, name), "closed", True)
        }
        self._settings = self._blocking(), self._text()

    @staticmethod
    def _duplicate(number: int) -> Descriptor | None:
        if identity(number) is None:
            return None
        return Descriptor(number)

    def _blocking(self) -> dict[int, bool]:
        """Return for each open descriptor whether reading and writing block."""
        blocking = {}
        for number in self._NUMBERS:
            try:
                blocking[number] = os.get_blocking(number)
            except OSError:
                continue
        return blocking

    def _text(self) -> dict[str, tuple[str, str | None, bool, bool]]:
        """Return how each stream turns text into bytes, and when it writes them."""
        return {
            name: (s.encoding, s.errors, s.line_buffering, s.write_through)
            for name, s in self._streams.items()
            if isinstance(s, io.TextIOWrapper)
        }

    def save(self) -> tuple[dict[int, Descriptor | None], tuple[Any, Any]]:
        redirected = {
            number: self._duplicate(number)
            for number, spare in self._spare.items()
            if identity(number) != (spare.identity if spare else None)
        }
        return redirected, (self._blocking(), self._text())

    def restore(
        self, saved: tuple[dict[int, Descriptor | None], tuple[Any, Any]]
    ) -> None:
        redirected, (blocking, settings) = saved
        now = self._text()
        if now != settings:
            for name, (encoding, errors, lines, through) in settings.items():
                if not self._streams[name].closed and now[name] != settings[name]:
                    self._streams[name].reconfigure(
                        encoding=encoding,
                        errors=errors,
                        line_buffering=lines,
                        write_through=through,
                    )
        lost = []
        for number, wanted in {**self._spare, **redirected}.items():
            if identity(number) == (wanted.identity if wanted else None):
                continue
            if wanted is None:
                os.close(number)
            elif wanted.intact():
                os.dup2(wanted.number, number)
            else:
                lost.append(f"descriptor {number} was redirected or closed for good")
        if (found := self._blocking()) != blocking:
            for number in found.keys() & blocking.keys():
                os.set_blocking(number, blocking[number])
        if lost:
            raise CannotPutBack("; ".join(lost))

    def reset(self) -> list[str]:
        reasons = [
            f"sys.{name} was closed"
            for name, stream in self._streams.items()
            if stream.closed
        ]
        try:
            self.restore(({}, self._settings))
        except CannotPutBack as error:
            reasons.append(str(error))
        return reasons


class Descriptors(Watched):
    """Descriptors that the Seamless process needs, and that a job must not touch."""

    title = "Descriptors of the Seamless process (process replaced if closed)"

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = sorted(set(numbers))
        super().__init__()

    def save(self) -> list[tuple[int, ...] | None]:
        return [identity(number) for number in self._numbers]

    def differences(self, before: Any, now: Any) -> list[str]:
        return [
            f"descriptor {number} of the Seamless process was closed or replaced"
            for number, old, new in zip(self._numbers, before, now, strict=True)
            if old != new
        ]

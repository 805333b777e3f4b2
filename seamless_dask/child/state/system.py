"""The parts of the state of a process that the operating system keeps."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import signal
import sys
import time
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from .descriptors import Descriptors, StandardStreams, WorkingDirectory
from .left_open import LeftOpen
from .part import CannotPutBack, Part, Remembered, Setting, Watched

STATUS = "/proc/self/status"


def _environ() -> Any:
    """Return the environment table of the C library, None if it is not accessible."""
    try:
        return ctypes.c_void_p.in_dll(ctypes.CDLL(None), "environ")
    except ValueError:  # macOS
        return None


class CEnvironment:
    """The environment table of the C library; reading it is cheap if unchanged."""

    def __init__(self) -> None:
        self._table = _environ()
        self._address: int | None = None
        self._last: frozenset[bytes] = frozenset()
        #: contents of the table at that address: the pointers, and the texts
        self._pointers: Any = None
        self._known_pointers = b""
        self._texts: Any = None
        self._known_texts: list[bytes] = []

    def entries(self) -> frozenset[bytes]:
        """Return all entries; the same object if they have not changed."""
        address = self._table.value if self._table else None
        if not address:
            return frozenset()
        # A table never becomes smaller, so its known length can be read. The texts are
        # compared because C code may have freed one and used its memory for another.
        if (
            address != self._address
            or bytes(self._pointers) != self._known_pointers
            or self._texts[:] != self._known_texts
        ):
            self._read(address)
        return self._last

    def _read(self, address: int) -> None:
        table = ctypes.cast(address, ctypes.POINTER(ctypes.c_char_p))
        found: list[bytes] = []
        while (entry := table[len(found)]) is not None:
            found.append(entry)
        self._address = address
        self._last = frozenset(found)
        # Including the null pointer at its end.
        self._pointers = (ctypes.c_void_p * (len(found) + 1)).from_address(address)
        self._known_pointers = bytes(self._pointers)
        self._texts = (ctypes.c_char_p * len(found)).from_address(address)
        self._known_texts = found


class Environment(Remembered):
    """``os.environ``, and the environment that ``getenv`` of C reads."""

    title = "Environment variables, also as C code sees them"

    def __init__(self) -> None:
        self._of_c = CEnvironment()
        self._data: dict[Any, Any] = os.environ._data  # type: ignore[attr-defined]
        super().__init__()

    def save(self) -> tuple[dict[Any, Any], frozenset[bytes]]:
        return dict(self._data), self._of_c.entries()

    def restore(self, saved: tuple[dict[Any, Any], frozenset[bytes]]) -> None:
        data, wanted = saved
        current = self._data  # a job may have put another object into os
        if current != data:
            for key in set(current).difference(data):
                del current[key]
            current.update(data)
        found = self._of_c.entries()
        if found is not wanted and found != wanted:
            names = {entry.split(b"=", 1)[0] for entry in wanted}
            for entry in found - wanted:
                name = entry.split(b"=", 1)[0]
                if name not in names:
                    os.unsetenv(name)
            for entry in wanted - found:
                name, _, value = entry.partition(b"=")
                os.putenv(name, value)


class TimeZone(Part):
    """The time zone that ``time.tzset`` reads from the environment; put back later."""

    title = "Time zone (from `TZ`)"

    _NAMES = ("tzname", "timezone", "altzone", "daylight")

    def __init__(self) -> None:
        self._variables = _variables_of_tzset()
        self._unchanged = self._present()

    def _present(self) -> tuple[Any, ...]:
        names = vars(time)
        return (
            os.environ.get("TZ"),
            [names[name] for name in self._NAMES],
            [bytes(variable) for variable in self._variables],
        )

    def save(self) -> None:
        return None

    def restore(self, saved: None) -> None:
        names = vars(time)
        before = {name: names[name] for name in self._NAMES}
        time.tzset()
        if before == {name: names[name] for name in self._NAMES}:
            names.update(before)  # equal, but other objects

    def reset(self) -> list[str]:
        if not self._variables or self._present() != self._unchanged:
            self.restore(None)
            self._unchanged = self._present()
        return []


def _variables_of_tzset() -> list[Any]:
    """Return the variables of the C library that ``tzset`` writes, if they are known."""
    library = ctypes.CDLL(None)
    try:
        return [
            (ctypes.c_void_p * 2).in_dll(library, "tzname"),
            ctypes.c_long.in_dll(library, "timezone"),
            ctypes.c_int.in_dll(library, "daylight"),
        ]
    except ValueError:
        return []


class Status:
    """Lines of ``/proc/self/status``; empty where there is none."""

    def __init__(self) -> None:
        self.umask: int | None = None
        self.ignored = self.caught = 0
        try:
            with open(STATUS, "rb", buffering=0) as file:
                text = file.read(8192)
        except OSError:
            return
        if (value := self._value(text, b"\nUmask:\t")) is not None:
            self.umask = int(value, 8)
        self.ignored = int(self._value(text, b"\nSigIgn:\t") or b"0", 16)
        self.caught = int(self._value(text, b"\nSigCgt:\t") or b"0", 16)

    @staticmethod
    def _value(text: bytes, label: bytes) -> bytes | None:
        start = text.find(label)
        if start < 0:
            return None
        start += len(label)
        return text[start : text.index(b"\n", start)]


_SIGNALS = sorted(signal.valid_signals())
#: twenty times as fast as `signal.getsignal`, which makes enumerations
_get_handler = import_module("_signal").getsignal


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"number {number}"


class MaskAndHandlers(Part):
    """The state that is read at once from ``/proc/self/status``.

    Only the main thread may set handlers in Python, and handlers of C code cannot be put
    back.
    """

    title = "File mode creation mask (umask); signal handlers (process replaced)"

    def __init__(self) -> None:
        self._baseline = self.save()

    def save(self) -> tuple[int, list[Any], int, int]:
        status = Status()
        umask = status.umask
        if umask is None:  # other systems return it only when it is set
            umask = os.umask(0o077)
            os.umask(umask)
        handlers = [_get_handler(number) for number in _SIGNALS]
        return umask, handlers, status.ignored, status.caught

    def restore(self, saved: tuple[int, list[Any], int, int]) -> None:
        lost = self._put_back(saved)
        if lost:
            raise CannotPutBack("; ".join(lost))

    def reset(self) -> list[str]:
        return self._put_back(self._baseline)

    def _put_back(self, wanted: tuple[int, list[Any], int, int]) -> list[str]:
        now = self.save()
        if now == wanted:
            return []
        os.umask(wanted[0])
        bits = (wanted[2] ^ now[2]) | (wanted[3] ^ now[3])
        return [
            f"the handler of signal {_signal_name(number)} was changed"
            for number, old, new in zip(_SIGNALS, wanted[1], now[1], strict=True)
            if old is not new or bits >> (number - 1) & 1
        ]


class Ids(Watched):
    """Ids that the process may lack the right to set back."""

    title = "User and group ids, process group (process replaced)"

    def save(self) -> tuple[Any, ...]:
        users = os.getresuid() if hasattr(os, "getresuid") else os.getuid()
        groups = os.getresgid() if hasattr(os, "getresgid") else os.getgid()
        return users, groups, os.getgroups(), os.getpgrp()

    def differences(self, before: Any, now: Any) -> list[str]:
        if before == now:
            return []
        return [f"the ids of the process were changed from {before} to {now}"]


class Timers(Part):
    """Alarms: an alarm that a job has set must not end the next job.

    Python does not tell whether a timer of faulthandler is set, so it is not put back.
    """

    title = (
        "Timers: alarm, setitimer, `faulthandler.dump_traceback_later` (not resumed)"
    )

    _KINDS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)

    def save(self) -> list[tuple[float, float]]:
        return [signal.getitimer(kind) for kind in self._KINDS]

    def restore(self, saved: list[tuple[float, float]]) -> None:
        faulthandler.cancel_dump_traceback_later()
        for kind, (delay, interval) in zip(self._KINDS, saved, strict=True):
            if delay or signal.getitimer(kind)[0]:
                signal.setitimer(kind, delay, interval)

    def reset(self) -> list[str]:
        self.restore([(0.0, 0.0)] * len(self._KINDS))
        return []


_LIMITS = {
    number: name
    for name, number in sorted(vars(resource).items())
    if name.startswith("RLIMIT_")
}


class Limits(Remembered):
    title = "Resource limits (process replaced if a hard limit was lowered)"

    def save(self) -> list[tuple[int, int]]:
        return [resource.getrlimit(number) for number in _LIMITS]

    def restore(self, saved: list[tuple[int, int]]) -> None:
        present = self.save()
        if present == saved:
            return
        lost = []
        for (number, name), wanted, now in zip(
            _LIMITS.items(), saved, present, strict=True
        ):
            if wanted == now:
                continue
            try:
                resource.setrlimit(number, wanted)
            except (OSError, ValueError) as error:
                lost.append(f"the limit {name} is {now} and not {wanted} ({error})")
        if lost:
            raise CannotPutBack("; ".join(lost))

    def reset(self) -> list[str]:
        try:
            self.restore(self.baseline)
        except CannotPutBack as error:
            return [str(error)]
        return []


def _get_affinity() -> set[int]:
    return os.sched_getaffinity(os.getpid())


def _set_affinity(cores: set[int]) -> None:
    os.sched_setaffinity(os.getpid(), cores)


def system_parts(descriptors: Iterable[int]) -> list[Part]:
    """Return these parts, in the order in which they are put back."""
    parts: list[Part] = [
        Descriptors(descriptors),
        LeftOpen(),
        WorkingDirectory(),
        Environment(),
        TimeZone(),
        MaskAndHandlers(),
        Ids(),
        Timers(),
        Limits(),
        StandardStreams(),
    ]
    if hasattr(sys, "setdlopenflags"):
        parts.append(
            Setting("Flags of `dlopen`", sys.getdlopenflags, sys.setdlopenflags)
        )
    if hasattr(os, "sched_getaffinity"):
        parts.append(
            Setting("CPU affinity of the process", _get_affinity, _set_affinity)
        )
    return parts

"""The part of the state of a process that is locks of the standard library."""

from __future__ import annotations

import enum
import functools
import logging
import sys
import threading
from collections.abc import Iterator
from importlib import import_module
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from .part import Part

_new_lock, _new_rlock = threading.Lock, threading.RLock
_LOCK, _RLOCK = type(_new_lock()), type(_new_rlock())
#: Types of most names of modules, which have no locks.
_WITHOUT = {
    *(FunctionType, BuiltinFunctionType, ModuleType, enum.EnumMeta),
    *(type(None), bool, int, str, bytes, tuple, list, dict, set, frozenset),
}
#: How long another thread may hold such a lock, in seconds.
PATIENCE = 0.5
_imports: Any = import_module("_imp")


class Locks(Part):
    """Locks that a job has acquired and kept; whoever needs them would wait for ever.

    These are the locks that modules of the standard library, their classes, and the
    objects that they name have at the beginning.
    """

    title = "Locks of the standard library that are still held (process replaced)"

    def __init__(self) -> None:
        self._places = [place for place in known() if _is_free(*place)]
        self._held: list[str] = []

    def release(self) -> None:
        """Release the locks that the calling thread, or an ended one, still holds.

        Called on the thread of a job, at the end of its code.
        """
        places = list(self._places)
        places += [(handler, "lock") for handler in logging.root.handlers]
        self._held += [_title(*place) for place in places if not _released(*place)]
        if _import_lock_released():
            self._held.append("the import lock")

    def save(self) -> None:
        """Nothing: a suspended job may hold a lock when it goes on."""

    def restore(self, saved: None) -> None:
        """Nothing; see `save`."""

    def reset(self) -> list[str]:
        self.release()
        held, self._held = list(dict.fromkeys(self._held)), []
        return [f"the transformation has not released {name}" for name in held]


@functools.cache
def known() -> tuple[tuple[Any, str], ...]:
    """The places of all locks. The search takes milliseconds: processes share the result."""
    return tuple(_places())


def _places() -> Iterator[tuple[Any, str]]:
    """Objects of the standard library and the names of their attributes with locks."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in sys.stdlib_module_names:
            continue
        if type(module) is not ModuleType:
            continue
        yield from _locks_of(module)
        for value in list(vars(module).values()):
            if type(value) in _WITHOUT:
                continue
            if isinstance(value, type):
                if value.__module__ == name:
                    yield from _locks_of(value)
            # threads have locks that are held as long as they run
            elif not isinstance(value, (ModuleType, threading.Thread)):
                if type(value).__module__.partition(".")[0] in sys.stdlib_module_names:
                    yield from _locks_of(value)


def _locks_of(owner: Any) -> Iterator[tuple[Any, str]]:
    for name, value in list(getattr(owner, "__dict__", {}).items()):
        if type(value) in (_LOCK, _RLOCK):
            yield owner, name


def _is_free(owner: Any, name: str) -> bool:
    lock = vars(owner).get(name)
    free = type(lock) in (_LOCK, _RLOCK) and lock.acquire(blocking=False)
    if free:
        lock.release()
    return bool(free)


def _released(owner: Any, name: str) -> bool:
    """Make sure that nobody holds a lock; False if somebody has kept it."""
    lock = vars(owner).get(name)
    kept = False
    if type(lock) is _RLOCK:
        while lock._is_owned():  # type: ignore[attr-defined]
            lock.release()
            kept = True
    elif type(lock) is not _LOCK:
        return True
    if lock.acquire(blocking=False) or lock.acquire(timeout=PATIENCE):
        lock.release()
        return not kept
    if type(lock) is _LOCK:
        lock.release()  # any thread may do that
    else:
        setattr(owner, name, _new_rlock())
    return False


def _import_lock_released() -> bool:
    """Release the import lock; False if this thread does not hold it."""
    released = False
    while _imports.lock_held():
        try:
            _imports.release_lock()
        except RuntimeError:  # another thread imports
            break
        released = True
    return released


def _title(owner: Any, name: str) -> str:
    if isinstance(owner, ModuleType):
        return f"{owner.__name__}.{name}"
    if isinstance(owner, type):
        return f"{owner.__module__}.{owner.__qualname__}.{name}"
    return f"{name} of an object of {type(owner).__module__}.{type(owner).__qualname__}"

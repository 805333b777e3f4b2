"""The part of the state of a process that Python cannot remove again."""

from __future__ import annotations

import codecs
import functools
import os
import sys
from collections.abc import Callable
from importlib import import_module
from types import FrameType
from typing import Any

from ...neighbours.replacing import current, replace
from . import native_code
from .part import Watched

#: functions that register something permanently, with the modules that contain them
FUNCTIONS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("addaudithook", (sys,)),
    ("register_error", (codecs, import_module("_codecs"))),
    ("register", (codecs, import_module("_codecs"))),
    ("register_at_fork", (os, import_module("posix"))),
)

#: registrations so far, except those by installed packages
_registered: list[str] = []
_get_frame = sys._getframe


def observe() -> None:
    """Record calls of `FUNCTIONS` from now on; idempotent."""
    for name, modules in FUNCTIONS:
        original = current(modules[0], name)
        if not hasattr(original, "_observed"):
            observed = _observed(f"{modules[0].__name__}.{name}", original)
            for module in modules:
                replace(module, name, observed)


def _observed(title: str, original: Callable[..., Any]) -> Callable[..., Any]:
    folders = native_code.installation_folders()

    def is_installed(file: str) -> bool:
        return file.startswith("<frozen ") or native_code.is_inside(file, folders)

    def comes_from_installation(caller: FrameType, arguments: list[Any]) -> bool:
        codes = [caller.f_code]
        for argument in arguments:
            function = getattr(argument, "__func__", argument)
            codes.append(getattr(function, "__code__", caller.f_code))
        return all(is_installed(code.co_filename) for code in codes)

    @functools.wraps(original)
    def stands_in(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if not comes_from_installation(_get_frame(1), [*args, *kwargs.values()]):
            what = f" of {args[0]!r}" if args and isinstance(args[0], str) else ""
            _registered.append(f"{title}{what} cannot be undone")
        return result

    stands_in._observed = True  # type: ignore[attr-defined]
    return stands_in


class Registrations(Watched):
    """Registrations that cannot be removed; those of installed packages may stay."""

    title = (
        "`sys.addaudithook`, `codecs.register`, `codecs.register_error`, "
        "`os.register_at_fork` (process replaced)"
    )

    def save(self) -> int:
        return len(_registered)

    def differences(self, before: int, now: int) -> list[str]:
        return list(dict.fromkeys(_registered[before:now]))

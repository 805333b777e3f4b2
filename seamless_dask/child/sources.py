"""Lets tracebacks read source files, and nothing else.

The file name of code can be anything. For a traceback Python opens it and reads it to
the end, which never comes for a pipe that nobody writes to, or for ``/dev/zero``.
"""

from __future__ import annotations

import linecache
import stat
from collections.abc import Callable
from os import stat as _status
from typing import Any

from ..neighbours.replacing import extend

#: bytes of the largest file that is taken for source code
LARGEST = 16 * 1024 * 1024


def install() -> None:
    """Let `linecache` read only regular files of at most `LARGEST` bytes."""
    extend(linecache, "updatecache", _of_files)


def _of_files(original: Callable[..., list[str]]) -> Callable[..., list[str]]:
    def updatecache(filename: Any, module_globals: Any = None) -> list[str]:
        return original(filename, module_globals) if _may_be_read(filename) else []

    return updatecache


def _may_be_read(filename: Any) -> bool:
    try:
        found = _status(filename)
    except (OSError, ValueError, TypeError):  # not a file: linecache looks elsewhere
        return True
    return stat.S_ISREG(found.st_mode) and found.st_size <= LARGEST

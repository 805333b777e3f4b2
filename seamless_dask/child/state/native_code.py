"""Finds loaded shared objects that do not belong to the installation.

Such code may have static state (C static variables, Fortran SAVE and COMMON), which
nothing outside of it can put back. Linux only: elsewhere nothing is found.
"""

from __future__ import annotations

import ctypes
import os
import site
import sys
import sysconfig
from collections.abc import Callable, Iterable

#: folders of system libraries, which other libraries need
SYSTEM_FOLDERS = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64")
#: names of folders on ``sys.path`` in which packages are installed
PACKAGE_FOLDERS = ("site-packages", "dist-packages")


def installation_folders() -> list[str]:
    """Return the folders of this interpreter and of its installed packages."""
    folders = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    folders.update(sysconfig.get_paths().values())
    folders.update(site.getsitepackages())
    # Clusters often provide packages through PYTHONPATH.
    folders.update(
        folder
        for folder in sys.path
        if os.path.basename(folder.rstrip(os.sep)) in PACKAGE_FOLDERS
    )
    if site.ENABLE_USER_SITE and site.USER_SITE:
        folders.add(site.USER_SITE)
    return sorted({form for folder in folders for form in _both_forms(folder)})


def import_folders(temporary: Iterable[str] = ()) -> list[str]:
    """Return the folders that modules come from, without those that jobs write to.

    Files that a job writes must not be taken for installed ones. So the working directory
    is left out, and all folders that are inside temporary folders or contain them.

    Parameters
    ----------
    temporary
        Folders of temporary files. Dask adds the one of a worker to ``sys.path``.
    """
    here = working_directory()
    away = [form for folder in temporary for form in _both_forms(folder)]
    forms = {
        form
        for folder in sys.path
        if os.path.isabs(folder) and os.path.realpath(folder) != here
        for form in _both_forms(folder)
    }
    return sorted(
        form
        for form in forms
        if form not in away
        and not is_inside(form, away)
        and not any(is_inside(folder, [form]) for folder in away)
    )


def working_directory() -> str | None:
    """Return the real path of the working directory, None if it has been deleted."""
    try:
        return os.path.realpath(os.getcwd())
    except FileNotFoundError:
        return None


def is_inside(path: str, folders: Iterable[str]) -> bool:
    """Say whether a file is somewhere below one of `folders`."""
    return any(path.startswith(folder.rstrip(os.sep) + os.sep) for folder in folders)


def _both_forms(folder: str) -> tuple[str, str]:
    return os.path.abspath(folder), os.path.realpath(folder)


class _Object(ctypes.Structure):
    """``struct dl_phdr_info`` of the C library."""

    _fields_ = [
        ("address", ctypes.c_size_t),
        ("name", ctypes.c_char_p),
        ("headers", ctypes.c_void_p),
        ("n_headers", ctypes.c_uint16),
        ("loaded", ctypes.c_ulonglong),
        ("unloaded", ctypes.c_ulonglong),
    ]


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(_Object), ctypes.c_size_t, ctypes.c_void_p
)


def _find_iterate() -> Callable[..., int] | None:
    # Not CDLL, which releases the GIL. Another thread that loads a library would then
    # hold the GIL and wait for the loader's lock; the callback runs under this lock and
    # needs the GIL.
    return getattr(ctypes.PyDLL(None), "dl_iterate_phdr", None)


class NativeCode:
    """Watches loaded shared objects; a new instance ignores those loaded before.

    Parameters
    ----------
    allowed
        Folders whose libraries belong to the installation. Default: the folders of the
        interpreter, of installed packages and of the system, and those in
        ``LD_LIBRARY_PATH``.
    """

    def __init__(self, allowed: Iterable[str] | None = None) -> None:
        if allowed is None:
            libraries = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
            allowed = [
                *SYSTEM_FOLDERS,
                *installation_folders(),
                *(os.path.abspath(folder) for folder in libraries if folder),
            ]
        self._allowed = list(allowed)
        self._iterate = _find_iterate()
        self._counters = (0, 0)
        self._known: set[str] = set()
        self._foreign: list[str] = []
        if self._iterate is not None:
            self._read_counters = _Callback(self._on_first)
            self._counters = self._changes()
            self._known.update(self._names())

    def foreign(self) -> list[str]:
        """Return the paths of foreign shared objects that are loaded now."""
        if self._iterate is None:
            return []
        counters = self._changes()
        if counters != self._counters:
            self._counters = counters
            self._foreign = []
            for name in self._names():
                if name in self._known:
                    continue
                # An object without a folder in its name belongs to the kernel.
                if os.sep not in name or self._is_allowed(name):
                    self._known.add(name)
                else:
                    self._foreign.append(name)
        return list(self._foreign)

    def _is_allowed(self, name: str) -> bool:
        return os.path.isabs(name) and (
            is_inside(os.path.normpath(name), self._allowed)
            or is_inside(os.path.realpath(name), self._allowed)
        )

    def _on_first(self, found: ctypes._Pointer[_Object], *_: object) -> int:
        self._found = (found.contents.loaded, found.contents.unloaded)
        return 1  # the counters are the same for all objects

    def _changes(self) -> tuple[int, int]:
        """Return how many objects have been loaded and unloaded so far."""
        assert self._iterate is not None
        self._iterate(self._read_counters, None)
        return self._found

    def _names(self) -> list[str]:
        assert self._iterate is not None
        names: list[bytes] = []

        def add(found: ctypes._Pointer[_Object], *_: object) -> int:
            names.append(found.contents.name or b"")
            return 0

        self._iterate(_Callback(add), None)
        return [os.fsdecode(name) for name in names if name]

"""Starts Seamless processes by forking a process that has imported everything already.

A new interpreter needs half a second of CPU time for its imports. A fork needs some
milliseconds, and shares the memory of what was imported. The process that is forked,
the fork server, is the one of the standard library: it runs no event loop, no thread
and no code of users. Each Dask worker has one of its own, apart from the one that code
in the same process may use through `multiprocessing`.

Requests reach it through a socket file in a directory of the Dask worker, which other
users cannot access. The path by which the socket is opened is short even if that of the
directory is long: operating systems allow about 100 bytes.
"""

from __future__ import annotations

import ctypes
import io
import os
import shutil
import tempfile
import threading
import warnings
from multiprocessing import (
    context,
    forkserver,
    popen_forkserver,
    process,
    reduction,
    spawn,
)
from multiprocessing.connection import Connection, Pipe
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import psutil

#: module that the fork server imports before it forks
TEMPLATE = "seamless_dask.child.template"

#: warning of the standard library about children that the fork server has not started
ORPHANS = "forkserver: waitpid returned unexpected pid"
#: option of prctl(2)
PR_SET_CHILD_SUBREAPER = 36

_server: Any = forkserver.ForkServer()
_server.set_forkserver_preload([TEMPLATE])
#: held while a process starts
_lock = threading.Lock()
#: ids of the processes that were started and whose end is not known
_started: set[int] = set()
#: directory of the socket, and a descriptor of the directory; made by `use`
_directory: tuple[str, int] | None = None


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


class _Popen(popen_forkserver.Popen):
    """A process that was forked from our server."""

    #: descriptors that are passed to it
    _fds: list[int]

    def _launch(self, process_obj: Any) -> None:
        preparation = spawn.get_preparation_data(process_obj._name)
        # A Seamless process must not import the script of the user.
        for name in ("init_main_from_name", "init_main_from_path"):
            preparation.pop(name, None)
        data = io.BytesIO()
        context.set_spawning_popen(self)
        try:
            reduction.dump(preparation, data)
            reduction.dump(process_obj, data)
        finally:
            context.set_spawning_popen(None)
        try:
            with _lock:
                self._fork(data)
                _started.add(self.pid)
        except EOFError as error:
            raise ChildProcessError("the fork server has ended") from error

    def _fork(self, data: io.BytesIO) -> None:
        _ensure_running()
        self.sentinel, write_end = _server.connect_to_new_process(self._fds)
        # The child notices the end of this process when this pipe closes.
        alive = os.dup(write_end)
        self.finalizer = Finalize(self, _close, (alive, self.sentinel))
        with open(write_end, "wb") as pipe:
            pipe.write(data.getbuffer())
        self.pid: int = forkserver.read_signed(self.sentinel)

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        code: int | None = super().poll(flag)
        if code is not None:
            _started.discard(self.pid)
        return code


class _Process(process.BaseProcess):
    _start_method = "forkserver"

    @staticmethod
    def _Popen(process_obj: Any) -> _Popen:
        return _Popen(process_obj)


class Context(context.BaseContext):
    """Replaces the multiprocessing context of seamless-transformer.

    Examples
    --------
    >>> from seamless_transformer.process import manager
    >>> replace(manager, "_CTX", Context())
    """

    _name = "forkserver"
    Process = _Process

    def Pipe(self, duplex: bool = True) -> tuple[Connection, Connection]:
        """Return two connected ends."""
        return Pipe(duplex)


def use(directory: str | Path) -> None:
    """Make a directory for the socket below `directory`; `stop` removes it.

    Raises
    ------
    OSError
        If it cannot be made.
    """
    global _directory
    made = tempfile.mkdtemp(prefix="socket-", dir=directory)
    _directory = made, os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _ensure_running() -> None:
    """Start the server if it does not run, with its socket in our directory."""
    config: dict[str, Any] = process.current_process()._config  # type: ignore[attr-defined]
    before = config.get("tempdir")
    if _directory is not None and os.path.isdir("/proc/self/fd"):
        config["tempdir"] = f"/proc/self/fd/{_directory[1]}"
    try:
        _server.ensure_running()
    finally:
        # Other child processes inherit the setting, but have other descriptors.
        config["tempdir"] = before


def orphans() -> list[psutil.Process]:
    """Return the processes that ended Seamless processes have left running."""
    with _lock:
        pid = _server._forkserver_pid
        if pid is None:
            return []
        try:
            children = psutil.Process(pid).children()
        except psutil.NoSuchProcess:
            return []
        return [child for child in children if child.pid not in _started]


def adopt_orphans() -> None:
    """Make the calling process the parent of descendants that lose their parent.

    So they can be found. Linux only; elsewhere they are recognised by an environment
    variable, see `seamless_dask.pool.os_processes`.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def expect_orphans() -> None:
    """Prepare the fork server, which adopts the orphans of Seamless processes."""
    adopt_orphans()
    warnings.filterwarnings("ignore", ORPHANS)


def stop() -> None:
    """End the server. It ends by itself with the process that has started it.

    Call it when the Seamless processes have ended, since they keep it running.
    """
    global _directory
    _server._stop()
    if _directory is not None:
        name, descriptor = _directory
        _directory = None
        os.close(descriptor)
        shutil.rmtree(name, ignore_errors=True)


def forget_inherited() -> None:
    """Give the code in this Seamless process a fork server of its own.

    Otherwise processes that it starts by multiprocessing's method "forkserver" would not
    be descendants of this process, and would outlive it. Also undoes `expect_orphans`.
    """
    warnings.filters[:] = [  # type: ignore[index]
        entry
        for entry in warnings.filters
        if getattr(entry[1], "pattern", "") != ORPHANS
    ]
    inherited: Any = forkserver._forkserver
    if inherited._forkserver_alive_fd is not None:
        os.close(inherited._forkserver_alive_fd)
    inherited.__init__()

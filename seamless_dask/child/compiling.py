"""Builds the extension modules of compiled transformations; in each Seamless process.

seamless-transformer builds a module on each request: many jobs that start together would
compile the same source as many times. While it builds, it changes the working directory
of the process, and it writes the module to a file of a fixed name that other processes
may have loaded. All that is done differently here:

- One thread of a process builds a module, and the others wait for it.
- One process of a Dask worker builds it; the processes share the module in a folder.
- Steps that change the working directory run in a process of their own.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import pickle
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from ..neighbours.replacing import replace

logger = logging.getLogger(__name__)

#: Built modules that the folder holds at most; the oldest go first.
MAX_MODULES = 1024
#: Files to lock. Two modules that share one are built one after the other.
N_LOCKS = 64

#: script that builds a C interface from data on standard input; its arguments are the
#: file with `build_extension_cffi`, and the path of the result
_BUILD = """\
import pickle, runpy, sys
script, output = sys.argv[1:]
search, arguments = pickle.load(sys.stdin.buffer)
sys.path[:] = search
built = runpy.run_path(script)["build_extension_cffi"](*arguments)
with open(output, "wb") as file:
    file.write(built)
"""


class BuildFailed(RuntimeError):
    """The C interface of a compiled transformation could not be built."""


class ModuleBuilder:
    """Builds and loads extension modules; replaces functions of seamless-transformer.

    Parameters
    ----------
    folder
        Folder for modules and locks that only the processes of a Dask worker share. It
        is made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._infos: dict[str, dict[str, Any]] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def get_compiled_module_info(
        self, module_definition: dict[str, Any], *, module_name: str | None = None
    ) -> dict[str, Any]:
        """Build or find a compiled module; return its description."""
        from seamless_transformer import compiler

        completed = compiler.complete(module_definition)
        digest = compiler._stable_digest(completed)
        with self._lock:
            lock = self._locks.setdefault(digest, threading.Lock())
        with lock:
            info = self._infos.get(digest)
            if info is None:
                name = module_name or f"_seamless_compiled_{digest[:24]}"
                info = self._load(completed, digest, name)
                self._infos[digest] = info
            return info

    def _load(
        self, completed: dict[str, Any], digest: str, name: str
    ) -> dict[str, Any]:
        started = time.perf_counter()
        module = self._shared(completed, digest, name)
        if module is None:
            module = _import_bytes(name, _build(completed, name))
        return {
            "digest": digest,
            "completed": deepcopy(completed),
            "module": module,
            "path": getattr(module, "__file__", None),
            "module_name": name,
            "compilation_time_seconds": round(time.perf_counter() - started, 6),
        }

    def _shared(
        self, completed: dict[str, Any], digest: str, name: str
    ) -> ModuleType | None:
        """Return the module from the folder, None if that cannot be used."""
        key = hashlib.sha256(f"{digest} {name}".encode()).hexdigest()
        path = self.folder / f"{key}.so"
        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                stack.enter_context(self._one_process(key))
                present = self._touch(path)
            except OSError as error:
                self._complain(error)
                return None
            if not present:
                built = _build(completed, name)
                try:
                    self._write(path, built)
                except OSError as error:
                    self._complain(error)
                    return _import_bytes(name, built)
            return _import_file(name, path)

    @staticmethod
    def _touch(path: Path) -> bool:
        """Make a module the newest, to protect it from removal; False if missing."""
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    @contextlib.contextmanager
    def _one_process(self, key: str) -> Iterator[None]:
        """Wait until no other process builds this; the end of a process ends its lock."""
        number = int(key[:8], 16) % N_LOCKS
        with open(self.folder / f"{number}.lock", "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                # Explicitly: a process that a job has forked may have the file open.
                fcntl.flock(file, fcntl.LOCK_UN)

    def _write(self, path: Path, built: bytes) -> None:
        descriptor, temporary = tempfile.mkstemp(dir=self.folder, suffix=".new")
        try:
            with open(descriptor, "wb") as file:
                file.write(built)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        self._remove_oldest(path)

    def _remove_oldest(self, newest: Path) -> None:
        """Remove modules above the limit; processes that have loaded one keep it."""
        modules = []
        for entry in os.scandir(self.folder):
            if entry.name.endswith((".so", ".new")) and entry.name != newest.name:
                with contextlib.suppress(FileNotFoundError):
                    modules.append((entry.stat().st_mtime, entry.path))
        modules.sort()
        for _, path in modules[: max(0, len(modules) + 1 - MAX_MODULES)]:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def _complain(self, error: OSError) -> None:
        logger.warning(
            "Built modules cannot be shared in the folder %s (%s): each Seamless "
            "process builds its own",
            self.folder,
            error,
        )


def _build(completed: dict[str, Any], name: str) -> bytes:
    """Compile the sources and their C interface; return the extension module."""
    from seamless_transformer import compiler

    # It names the missing package; the process below would only fail.
    _need_cffi()
    objects = compiler.compile(completed)
    arguments = (
        name,
        objects,
        completed.get("target", "profile"),
        completed["public_header"]["code"],
        completed.get("link_options", []),
    )
    with tempfile.TemporaryDirectory(prefix="seamless-build-") as directory:
        output = os.path.join(directory, "module.so")
        command = [sys.executable, "-c", _BUILD, compiler.cffi_wrapper.__file__, output]
        done = subprocess.run(
            command,
            cwd=directory,
            input=pickle.dumps(([p for p in sys.path if os.path.isabs(p)], arguments)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode:
            raise BuildFailed(
                f"The C interface of a compiled transformation could not be built "
                f"(exit code {done.returncode}):\n{done.stdout.decode(errors='replace')}"
            )
        with open(output, "rb") as file:
            return file.read()


def _need_cffi() -> None:
    try:
        import_module("cffi")
    except ImportError:
        raise ImportError(
            "cffi is required for compiled transformers. Install it with: pip install "
            "cffi"
        ) from None


def _import_file(name: str, path: Path) -> ModuleType:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"Cannot import the extension module {name!r} from {path}")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _import_bytes(name: str, built: bytes) -> ModuleType:
    """Import a module from a file of its own, which record mode inspects later."""
    directory = tempfile.mkdtemp(prefix="seamless-compiled-")
    path = Path(directory, name + (sysconfig.get_config_var("EXT_SUFFIX") or ".so"))
    path.write_bytes(built)
    return _import_file(name, path)


def install(folder: Path) -> None:
    """Build the compiled transformations of the calling process with `ModuleBuilder`.

    Parameters
    ----------
    folder
        See `ModuleBuilder`.
    """
    from seamless_transformer import compiler

    builder = ModuleBuilder(folder)
    replace(compiler, "get_compiled_module_info", builder.get_compiled_module_info)

"""Compiled transformations that start together: all succeed, and one compiles."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers.paths import DRIVERS

from seamless_dask.child import compiling

SCRIPT = DRIVERS / "compiling_together.py"

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        not (find_spec("cffi") and find_spec("seamless_signature")),
        reason="compiled transformers need cffi and seamless-signature",
    ),
    pytest.mark.skipif(
        shutil.which("gcc") is None, reason="compiled transformers need a C compiler"
    ),
]

Together = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The file to which the compiler appends a line for each source of a job."""
    return tmp_path / "compiled"


@pytest.fixture
def together(tmp_path: Path, log: Path) -> Together:
    """Return a function that runs the script with a compiler that tells on itself."""
    programs = tmp_path / "bin"
    programs.mkdir()
    gcc = programs / "gcc"
    gcc.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *main.c*) echo source >> "{log}";; esac\n'
        f'exec {shutil.which("gcc")} "$@"\n'
    )
    gcc.chmod(0o755)

    def run(mode: str, n: int, folder: Path, salt: str = "1", **environment: str):
        return subprocess.run(
            [sys.executable, str(SCRIPT), mode, str(n), str(folder), salt],
            env={
                **os.environ,
                "PATH": f"{programs}:{os.environ['PATH']}",
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def compilations(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_processes_together(together: Together, tmp_path: Path, log: Path) -> None:
    """The first time one of 24 compiles, and the second time nobody does."""
    for _ in ("cold", "warm"):
        done = together("processes", 24, tmp_path / "modules")
        assert done.returncode == 0, done.stderr
        assert compilations(log) == 1
    assert not list((tmp_path / "modules").glob("*.new"))


def test_threads_together(together: Together, tmp_path: Path, log: Path) -> None:
    done = together("threads", 24, tmp_path / "modules")
    assert done.returncode == 0, done.stderr
    assert compilations(log) == 1


def test_other_source(together: Together, tmp_path: Path, log: Path) -> None:
    """What another source has built is not used."""
    for salt in ("1", "2"):
        done = together("threads", 2, tmp_path / "modules", salt)
        assert done.returncode == 0, done.stderr
    assert compilations(log) == 2


def test_killed_while_building(together: Together, tmp_path: Path) -> None:
    """A process that is killed while it holds every lock blocks nobody."""
    folder = tmp_path / "modules"
    folder.mkdir()
    hold = (
        "import fcntl, signal, sys\n"
        "files = [open(f'{sys.argv[1]}/{i}.lock', 'ab') for i in range(64)]\n"
        "for file in files: fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "signal.pause()\n"
    )
    assert compiling.N_LOCKS == 64
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(folder)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with open(folder / "0.lock", "ab") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder.kill()
    done = together("processes", 2, folder)
    assert done.returncode == 0, done.stderr


def test_without_a_folder(together: Together, tmp_path: Path, log: Path) -> None:
    """Each process builds its own if there is no place to share it, and says so."""
    place = tmp_path / "file"
    place.write_text("")
    done = together("processes", 2, place / "modules")
    assert done.returncode == 0, done.stderr
    assert compilations(log) == 2
    assert f"cannot be shared in the folder {place / 'modules'}" in done.stderr


def test_disk_full(together: Together, tmp_path: Path, log: Path) -> None:
    """As above, if it is found only while the module is written."""
    folder = tmp_path / "small"
    folder.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder)],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root can mount a small file system")
    try:
        done = together("threads", 2, folder)
        assert done.returncode == 0, done.stderr
        assert "No space left" in done.stderr
        assert not list(folder.glob("*.new"))
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    assert compilations(log) == 1


def test_errors_are_told(together: Together, tmp_path: Path) -> None:
    """What the compiler says reaches the caller, and is not kept as a module."""
    folder = tmp_path / "modules"
    done = together("threads", 1, folder, "*/ oops /*")
    assert done.returncode != 0
    assert "Compilation failed" in done.stderr and "oops" in done.stderr
    assert not list(folder.glob("*.so"))


def test_number_of_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder does not grow for ever; the newest stay."""
    monkeypatch.setattr(compiling, "MAX_MODULES", 3)
    builder = compiling.ModuleBuilder(tmp_path)
    for i in range(6):
        builder._write(tmp_path / f"{i}.so", b"module")
        os.utime(tmp_path / f"{i}.so", (i, i))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3.so", "4.so", "5.so"]

"""Programs beside the Python of an environment that is not activated."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from seamless_dask.neighbours.launcher import PROGRAM, make_programs_found


def test_folder_of_programs_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found afterwards; what was found before is the same."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    before = shutil.which("sh")
    make_programs_found()
    assert os.environ["PATH"] == f"/usr/bin:/bin:{sysconfig.get_path('scripts')}"
    assert shutil.which(PROGRAM)
    assert shutil.which("sh") == before


def test_activated_environment_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nor that of another Python which has the programs."""
    (tmp_path / PROGRAM).touch(mode=0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    make_programs_found()
    assert os.environ["PATH"] == str(tmp_path)


def test_nothing_is_added_without_the_programs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A folder that would not help stays out of the path."""
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: str(tmp_path))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    make_programs_found()
    assert os.environ["PATH"] == "/usr/bin:/bin"


def test_transformations_need_no_activated_environment() -> None:
    """Their class is made when a driver script imports seamless, before any service."""
    code = "import os, seamless.transformer; print(os.environ['PATH'])"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == f"/usr/bin:/bin:{sysconfig.get_path('scripts')}"

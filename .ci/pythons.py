"""Print a Python on this machine other than the one that runs this.

``pythons.py oldest``: the oldest for which the oldest dependencies have wheels.
``pythons.py newest``: the newest, if its minor version is above that of this Python.
Looked at are this Python, ``python3.N`` on the PATH and what pyenv has; what cannot make
environments, and prereleases, do not count. Nothing is printed if there is none.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

#: Minor versions, from the first that is supported: the oldest dependencies on them
FIRST, LAST_WITH_OLDEST = (3, 10), (3, 11)
#: Prints the version; fails without what an environment needs, and for prereleases.
PROBE = """
import ensurepip, sys, venv
assert sys.version_info.releaselevel == "final"
print(*sys.version_info[:3])
"""
Version = tuple[int, ...]


def candidates() -> list[Path]:
    """Files that look like a Python of a minor version."""
    folders = [Path(each) for each in os.get_exec_path()]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    folders += sorted((pyenv / "versions").glob("*/bin"))
    found = [path for each in folders for path in each.glob("python3.[1-9][0-9]")]
    return [Path(sys.executable), *found]


def version_of(python: Path) -> Version | None:
    """The version of a Python that can be used here, else None."""
    try:
        answer = subprocess.run(
            [python, "-c", PROBE], capture_output=True, text=True, timeout=60
        )
    except OSError:  # not for this machine
        return None
    # also if pyenv knows the name, and has no such version switched on
    if answer.returncode != 0:
        return None
    return tuple(map(int, answer.stdout.split()))


def usable() -> dict[Version, Path]:
    """Each version once, the first that was found."""
    found: dict[Version, Path] = {}
    for python in candidates():
        version = version_of(python)
        if version is not None and version >= FIRST:
            found.setdefault(version, python)
    return found


def chosen(which: str, found: dict[Version, Path], here: Version) -> Path | None:
    """The Python that was asked for, if there is one."""
    if which == "oldest":
        versions = [each for each in found if each[:2] <= LAST_WITH_OLDEST]
        return found[min(versions)] if versions else None
    if which == "newest":
        versions = [each for each in found if each[:2] > here[:2]]
        return found[max(versions)] if versions else None
    raise ValueError(f"which: got {which!r}, allowed: 'oldest', 'newest'")


if __name__ == "__main__":
    print(chosen(sys.argv[1], usable(), sys.version_info[:3]) or "")

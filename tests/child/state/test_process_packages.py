"""What installed packages change in a process stays; what a job changes by them does not."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

START = """
import json, os, sys
from seamless_dask.child.state.process import CannotPutBack, ProcessState
def show(*values): print(json.dumps(values, default=str))
"""


def run(script: str, *path: Path) -> Any:
    """Return what a script shows, in a process of its own.

    Parameters
    ----------
    script
        Comes after `START`.
    path
        Folders that come first in ``PYTHONPATH``.
    """
    before = os.environ.get("PYTHONPATH")
    folders = [str(folder) for folder in path] + ([before] if before else [])
    done = subprocess.run(
        [sys.executable, "-c", START + script],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Return a folder in which packages are installed."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    return folder


def test_what_a_package_adds(installed: Path) -> None:
    """It stays, also for a job that began before; what it replaces is put back."""
    package = installed / "made"
    package.mkdir()
    (package / "tools.py").write_text(
        "import copyreg, functools, json, logging\n"
        "class Mine: pass\n"
        "class Other: pass\n"
        "def reduce(self, factor=1): return Mine, ()\n"
        "def trace(self, message): return message\n"
        "def unused(): pass\n"
        "TRACE = 7\n"
        "copyreg.pickle(Mine, reduce)\n"
        "copyreg.pickle(Other, functools.partial(reduce, factor=2))\n"
        "logging.TRACE = TRACE\n"
        "logging.addLevelName(TRACE, 'TRACE')\n"
    )
    (package / "__init__.py").write_text(
        "import json, logging\n"
        "from .tools import trace\n"
        "logging.Logger.trace = trace\n"
        "setattr(json.JSONEncoder, 'traced', trace)\n"
        "json.loads = trace\n"
    )
    script = """
import builtins, copyreg, logging
state = ProcessState()
waiting = state.save()
loads = json.loads
import made.tools
builtins.mine = lambda: None
builtins.np = made
builtins.also_mine = made.tools.unused
logging.MINE = 6
logging.addLevelName(6, 'MINE')
class Own: pass
copyreg.pickle(Own, lambda own: (Own, ()))
shown = []
def look():
    names = "mine", "np", "also_mine"
    shown.append([
        logging.getLogger("x").trace("y") if hasattr(logging.Logger, "trace") else None,
        hasattr(json.JSONEncoder, "traced"),
        getattr(logging, "TRACE", None),
        hasattr(logging, "MINE"),
        [logging.getLevelName(name) for name in (7, "TRACE", 6)],
        [name for name in names if hasattr(builtins, name)],
        [kind in copyreg.dispatch_table for kind in (made.tools.Mine, made.tools.Other, Own)],
        json.loads is loads,
    ])
reasons = state.reset()
look()
builtins.mine = 1
reasons += state.reset()
look()
state.restore(waiting)
look()
reasons += state.reset()
look()
show(shown, reasons)
"""
    stays = [
        "y",
        True,
        7,
        False,
        ["TRACE", 7, "Level 6"],
        [],
        [True, True, False],
        True,
    ]
    assert run(script, installed) == [[stays] * 4, []]


def test_packages_that_register(installed: Path, tmp_path: Path) -> None:
    """What a package registers at its import is no reason, but what its user does is."""
    text = (
        "import codecs, os, sys\n"
        "sys.addaudithook(lambda *_: None)\n"
        "codecs.register(lambda _: None)\n"
        "codecs.register_error('{0}', lambda error: ('', error.end))\n"
        "os.register_at_fork(before=lambda: None)\n"
        "def call(function, *arguments): function(*arguments)\n"
    )
    (installed / "made.py").write_text(text.format("made"))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "helper.py").write_text(text.format("own"))
    script = """
import pickle
state = ProcessState()
import made
shown = [state.reset()]
made.call(sys.addaudithook, lambda *_: None)
shown.append(state.reset())
import helper
shown.append(state.reset())
assert pickle.loads(pickle.dumps(sys.addaudithook)) is sys.addaudithook
show(*shown)
"""
    by_package, by_call, by_helper = run(script, installed, tmp_path / "own")
    assert by_package == []
    assert by_call == ["sys.addaudithook cannot be undone"]
    names = ("sys.addaudithook", "codecs.register", "os.register_at_fork")
    expected = {f"{name} cannot be undone" for name in names}
    expected.add("codecs.register_error of 'own' cannot be undone")
    assert set(by_helper) == expected


def test_registered_by_another_job() -> None:
    """A job does not go on where another one has registered something meanwhile."""
    script = """
import codecs
state = ProcessState()
waiting = state.save()
assert not state.reset()
codecs.register_error("mine", codecs.ignore_errors)
try:
    state.restore(waiting)
except CannotPutBack as error:
    show(str(error))
"""
    assert "codecs.register_error of 'mine'" in run(script)[0]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a compiler")
def test_libraries_beside_modules(installed: Path, tmp_path: Path) -> None:
    """They have a state of their own, unless they are of an installed package."""
    source = tmp_path / "count.c"
    source.write_text("int count(void) { static int n; return ++n; }")
    own = tmp_path / "project"
    own.mkdir()
    for folder in (installed, own):
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-o", folder / f"lib{folder.name}.so", source],
            check=True,
            timeout=60,
        )
    script = f"""
import ctypes
state = ProcessState()
ctypes.CDLL({str(installed / "libsite-packages.so")!r}).count()
shown = [state.reset()]
ctypes.CDLL({str(own / "libproject.so")!r}).count()
show(*shown, state.reset())
"""
    path = own / "libproject.so"
    reason = f"code from outside the installation is loaded: {path}"
    assert run(script, installed, own) == [[], [reason]]


@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib"
)
@pytest.mark.parametrize("loaded", ["before", "by the job"])
def test_lists_of_matplotlib(loaded: str) -> None:
    """Those that are changed in place go back too, and wherever the originals are."""
    script = f"""
if {loaded == "before"}:
    import matplotlib
state = ProcessState()
import matplotlib
font = "font.sans-serif"
def look(): return matplotlib.rcParams[font][0], matplotlib.rcParams["font.serif"][:2]
matplotlib.rcParams[font].insert(0, "Mine")
del matplotlib.rcParams["font.serif"][0]
shown = [look()]
waiting = state.save()
reasons = state.reset()
shown.append(look())
matplotlib.rcParams[font][:] = ["Other"]
state.restore(waiting)
shown.append(look())
reasons += state.reset()
matplotlib.rcdefaults()
shown.append(look())
reasons += state.reset()
shown.append(look())
show(shown, reasons)
"""
    fresh = ["DejaVu Sans", ["DejaVu Serif", "Bitstream Vera Serif"]]
    changed = ["Mine", ["Bitstream Vera Serif", "Computer Modern Roman"]]
    assert run(script) == [[changed, fresh, changed, fresh, fresh], []]


def test_timer_of_faulthandler() -> None:
    """The process of the next job does not end because of it."""
    script = """
import faulthandler, time
state = ProcessState()
tasks = lambda: len(os.listdir("/proc/self/task"))
before = tasks()
faulthandler.dump_traceback_later(1000, exit=True)
with_timer = tasks()
reasons = state.reset()
end = time.monotonic() + 30
while tasks() > before and time.monotonic() < end:
    time.sleep(0.001)  # its thread ends by itself
show(with_timer - before, tasks() - before, reasons)
"""
    assert run(script) == [1, 0, []]


@pytest.mark.parametrize("value", ["None", "object()", "type('X', (), {'a': 1})"])
def test_modules_replaced_by_anything(value: str) -> None:
    """A job may hide modules; it finds them hidden when it goes on, the next does not."""
    names = ["json", "numpy", "numpy.random", "matplotlib", "pandas"]
    names += ["matplotlib.pyplot", "pandas._config.config"]
    names = [name for name in names if importlib.util.find_spec(name.partition(".")[0])]
    script = f"""
import importlib
names = {names}
for name in names: importlib.import_module(name)
modules = dict(sys.modules)
state = ProcessState()
for name in names: sys.modules[name] = {value}
hidden = [sys.modules[name] for name in names]
waiting = state.save()
reasons = state.reset()
fresh = [sys.modules[name] is modules[name] for name in names]
state.restore(waiting)
again = [sys.modules[name] is value for name, value in zip(names, hidden)]
reasons += state.reset()
show(all(fresh), all(again), reasons)
"""
    assert run(script) == [True, True, []]


def test_exceptions_of_a_job() -> None:
    """Whatever is raised by what a job has put somewhere: the rest is put back."""
    script = """
import logging
class Bad(logging.Handler):
    def __getattribute__(self, name): raise KeyError(name)
state = ProcessState()
home = os.getcwd()
bad = Bad.__new__(Bad)
limit = sys.getrecursionlimit()
logging.getLogger("x").handlers.append(bad)
os.chdir("/")
sys.setrecursionlimit(4321)
shown = []
try:
    state.save()
except CannotPutBack as error:
    shown.append(str(error))
shown.append(state.reset())
shown.append([os.getcwd() == home, sys.getrecursionlimit() == limit])

waiting = state.save()
os.chdir("/")
sys.modules[5] = 1  # no name of a module
try:
    state.restore(waiting)
except CannotPutBack as error:
    shown.append(str(error))
shown.append(os.getcwd() == home)
os.chdir("/")
shown.append(state.reset())
shown.append(os.getcwd() == home)
show(*shown)
"""
    saving, reasons, fresh, restoring, at_home, again, at_home_again = run(script)
    assert "`logging`" in saving
    assert reasons == []
    assert fresh == [True, True]
    assert "Loaded modules" in restoring
    assert at_home and at_home_again
    assert ["Loaded modules" in reason for reason in again] == [True]

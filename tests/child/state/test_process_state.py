"""What a job changes in its process is put back, or the process is replaced."""

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
from helpers.paths import DRIVERS, ROOT

from seamless_dask.child.state.namespaces import CLASSES, NAMESPACES
from seamless_dask.child.state.process import ProcessState

SCRIPT = DRIVERS / "process_changes.py"

pytestmark = pytest.mark.cluster


def run(*arguments: str, script: str | Path = SCRIPT) -> Any:
    """Return what a script prints last, in a process of its own."""
    start = ["-c", script] if isinstance(script, str) else [str(script)]
    done = subprocess.run(
        [sys.executable, *start, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_each_kind() -> None:
    """Each is put back for the next job, and as it was for a job that goes on."""
    assert run("one") == {}


def test_any_order() -> None:
    """A job, one that gets in between, and what is left when both have ended."""
    assert run("any") == {}


def test_forked_processes_are_not_seeded() -> None:
    """They would draw the same numbers, as numpy does not look after them."""
    assert run("draws") == {}


def test_reasons(tmp_path: Path) -> None:
    """What cannot be put back is named each time; the rest is no reason."""
    library = tmp_path / "libcount.so"
    if shutil.which("gcc"):
        source = tmp_path / "count.c"
        source.write_text("int count(void) { static int n; return ++n; }")
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-o", library, source], check=True, timeout=60
        )
    found = run("reasons", str(library))
    expected = {
        "signal": "SIGUSR1",
        "signal in C": "SIGUSR2",
        "closed": "descriptor 50 ",
        "replaced": "descriptor 50 ",
        "redirected for good": "descriptor 1 ",
        "stream": "sys.__stdout__",
        "server": "listens at ('127.0.0.1', ",
        "local server": "/address",
        "many files": "80 descriptors were left open",
        "audit hook": "sys.addaudithook cannot be undone",
        "error handler": "codecs.register_error of 'mine' cannot be undone",
        "codec": "codecs.register cannot be undone",
        "at fork": "os.register_at_fork cannot be undone",
        "at fork, by a thread": "os.register_at_fork cannot be undone",
    }
    if sys.platform == "linux":
        expected["flock"] = expected["lockf"] = "locked: "
    if os.geteuid() == 0:
        expected["hard limit"] = "RLIMIT_CORE"
    if library.exists():
        expected["library"] = f"outside the installation is loaded: {library}"
        expected["relative"] = f"outside the installation is loaded: ./{library.name}"
    for name, word in expected.items():
        fresh, first, second = found[name]
        assert fresh == [], name
        assert any(word in reason for reason in first), (name, first)
        assert any(word in reason for reason in second), (name, second)
    no_reason = {"server in a cycle", "some files", "many closed files"}
    for name in no_reason | {"nothing", "installed code"}:
        assert found[name] == [[], [], []], name


def test_packages_stay_loaded(tmp_path: Path) -> None:
    """Installed packages stay, with finders and modules of theirs that have no file."""
    package = tmp_path / "made"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import sys, types\n"
        "class Finder:\n"
        "    def find_spec(self, *_): return None\n"
        "sys.meta_path.append(Finder())\n"
        "sys.modules['made.up'] = types.ModuleType('made.up')\n"
    )
    (tmp_path / "space" / "part").mkdir(parents=True)
    (tmp_path / "space" / "part" / "__init__.py").write_text("")
    script = (
        "import json, os, sys\n"
        f"sys.path.append({str(tmp_path)!r})\n"
        "from seamless_dask.child.state.process import ProcessState\n"
        "state = ProcessState()\n"
        "import made, space.part\n"
        f"os.makedirs({str(tmp_path / 'user' / 'more')!r})\n"
        f"sys.path.append({str(tmp_path / 'user')!r})\n"
        f"made.__path__.append({str(tmp_path / 'user')!r})\n"
        f"open({str(tmp_path / 'user' / 'mine.py')!r}, 'w').close()\n"
        "import made.mine, mine, more\n"
        "state.reset(); state.reset()\n"
        "names = ['made', 'made.up', 'space.part', 'made.mine', 'mine', 'more']\n"
        "print(json.dumps([[n for n in names if n in sys.modules],\n"
        "    type(sys.meta_path[0]).__name__, hasattr(made, 'mine')]))\n"
    )
    assert run(script=script) == [["made", "made.up", "space.part"], "Finder", False]


def test_same_module_name_in_two_jobs(tmp_path: Path) -> None:
    """Each job gets the module that it has written into the working directory."""
    script = (
        "import json, os, sys\n"
        f"os.chdir({str(tmp_path)!r})\n"
        "sys.dont_write_bytecode = True\n"
        "from seamless_dask.child.state.process import ProcessState\n"
        "state = ProcessState()\n"
        "values = []\n"
        "for i in range(3):\n"
        "    with open('helper.py', 'w') as file:\n"
        "        file.write(f'value = {i}' + ' ' * i)\n"
        "    import helper\n"
        "    values.append(helper.value)\n"
        "    state.reset()\n"
        "print(json.dumps(values))\n"
    )
    assert run(script=script) == [0, 1, 2]


@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib"
)
def test_matplotlib() -> None:
    script = (
        "import json\n"
        "from seamless_dask.child.state.process import ProcessState\n"
        "state = ProcessState()\n"
        "import matplotlib, matplotlib.pyplot as plt\n"
        "def show(): return [matplotlib.rcParams['lines.linewidth'],\n"
        "    plt.get_fignums(), matplotlib.get_backend().lower()]\n"
        "matplotlib.rcParams['lines.linewidth'] = 9\n"
        "plt.switch_backend('pdf')\n"
        "figure = plt.figure()\n"
        "shown = [show()]\n"
        "saved = state.save()\n"
        "reasons = state.reset()\n"
        "shown.append(show())\n"
        "plt.figure(7)\n"
        "state.restore(saved)\n"
        "assert plt.gcf() is figure\n"
        "shown.append(show())\n"
        "reasons += state.reset()\n"
        "shown.append(show())\n"
        "print(json.dumps([shown, reasons]))\n"
    )
    changed, fresh = [9, [1], "pdf"], [1.5, [], "agg"]
    assert run(script=script) == [[changed, fresh, changed, fresh], []]


@pytest.mark.skipif(importlib.util.find_spec("pandas") is None, reason="needs pandas")
def test_pandas() -> None:
    script = (
        "import json\n"
        "from seamless_dask.child.state.process import ProcessState\n"
        "state = ProcessState()\n"
        "import pandas\n"
        "names = 'display.max_rows', 'display.precision', 'compute.use_bottleneck'\n"
        "def show(): return [pandas.get_option(name) for name in names]\n"
        "shown = [show()]\n"
        "for name, value in zip(names, (3, 1, False)): pandas.set_option(name, value)\n"
        "saved = state.save()\n"
        "reasons = state.reset()\n"
        "shown.append(show())\n"
        "pandas.set_option('display.width', 7)\n"
        "state.restore(saved)\n"
        "shown.append(show())\n"
        "assert pandas.get_option('display.width') == 80\n"
        "reasons += state.reset()\n"
        "shown.append(show())\n"
        "print(json.dumps([shown, reasons]))\n"
    )
    fresh, changed = [60, 6, True], [3, 1, False]
    assert run(script=script) == [[fresh, fresh, changed, fresh], []]


def test_directory_removed_by_others(tmp_path: Path) -> None:
    """A job that goes on is where it was, though that does not exist any more."""
    script = (
        "import json, os, sys\n"
        "from seamless_dask.child.state.process import ProcessState\n"
        "state = ProcessState()\n"
        "home = os.getcwd()\n"
        f"os.mkdir({str(tmp_path / 'job')!r})\n"
        f"os.chdir({str(tmp_path / 'job')!r})\n"
        "saved = state.save()\n"
        "state.reset()\n"
        "assert os.getcwd() == home\n"
        f"os.rmdir({str(tmp_path / 'job')!r})\n"
        "state.restore(saved)\n"
        "left = os.stat('.').st_nlink\n"
        "state.reset()\n"
        "del saved\n"
        f"print(json.dumps([left, os.getcwd() == home]))\n"
    )
    assert run(script=script) == [0, True]
    assert not (tmp_path / "job").exists()


@pytest.mark.parametrize("when", ["before", "after"])
def test_own_directory_removed(tmp_path: Path, when: str) -> None:
    """It is a reason if a job has removed it, not if it was gone before."""
    remove = f"os.rmdir({str(tmp_path / 'home')!r})"
    script = (
        "import json, os, sys\n"
        "from seamless_dask.child.state.process import ProcessState\n"
        f"os.mkdir({str(tmp_path / 'home')!r})\n"
        f"os.chdir({str(tmp_path / 'home')!r})\n"
        f"if {when == 'before'}: {remove}\n"
        "state = ProcessState()\n"
        f"if {when == 'after'}: {remove}\n"
        "os.chdir('/')\n"
        "print(json.dumps(state.reset()))\n"
    )
    reasons = run(script=script)
    if when == "before":
        assert reasons == []
    else:
        assert reasons == [f"the working directory {tmp_path / 'home'} was deleted"]


def test_a_process_with_other_ids_is_replaced() -> None:
    """It may lack the right to go back."""
    script = (
        "import json, os\n"
        "from seamless_dask.child.state.process import ProcessState\n"
        "state = ProcessState()\n"
        "os.setpgid(0, 0)\n"
        "print(json.dumps(state.reset()))\n"
    )
    (reason,) = run(script=script)
    assert reason.startswith("the ids of the process were changed from")


def test_saving_leaks_no_descriptors() -> None:
    script = (
        "import json, os\n"
        "from seamless_dask.child.state.process import ProcessState\n"
        "state = ProcessState()\n"
        "before = len(os.listdir('/proc/self/fd'))\n"
        "for _ in range(50):\n"
        "    os.chdir('/tmp')\n"
        "    os.dup2(2, 1)\n"
        "    saved = state.save()\n"
        "    state.reset()\n"
        "    state.restore(saved)\n"
        "    state.reset()\n"
        "del saved\n"
        "print(json.dumps(len(os.listdir('/proc/self/fd')) - before))\n"
    )
    assert run(script=script) == 0


def test_systems_with_less() -> None:
    """Without /proc and without the functions of glibc the rest is put back."""
    script = (
        "import json, os, platform\n"
        "from seamless_dask.child.state import native_code, system\n"
        "system.STATUS = '/nowhere'\n"
        "system._environ = native_code._find_iterate = lambda: None\n"
        "platform.libc_ver = lambda: ('', '')\n"
        "from seamless_dask.child.state.process import ProcessState\n"
        "os.umask(0o022)\n"
        "state = ProcessState()\n"
        "os.umask(0o007)\n"
        "os.environ['A'] = '1'\n"
        "saved = state.save()\n"
        "reasons = state.reset() + state.foreign_code()\n"
        "fresh = os.umask(0) == 0o022, 'A' in os.environ\n"
        "state.restore(saved)\n"
        "print(json.dumps([reasons, fresh, os.umask(0), os.environ['A']]))\n"
    )
    assert run(script=script) == [[], [True, False], 0o007, "1"]


def test_documented() -> None:
    """The table in the documentation is the list of parts."""
    page = ROOT / "docs" / "isolation.md"
    section = page.read_text().partition("## What is put back")[2].partition("\n##")[0]
    rows = [line for line in section.splitlines() if line.startswith("- ")]
    titles = [f"- {part.title}" for part in ProcessState().parts]
    assert rows == titles
    for owner in (*NAMESPACES, *CLASSES):
        assert f"`{owner.__name__}`" in section

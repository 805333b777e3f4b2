"""What is not public of other packages: the table, what it is for, and its limits."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

import distributed.client
import pytest
from helpers.paths import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from seamless_dask import status
from seamless_dask.errors import NeighbourChanged
from seamless_dask.neighbours import check as checking
from seamless_dask.neighbours import names, versions
from seamless_dask.neighbours.names import Module, Name, Where, is_there
from seamless_dask.neighbours.replacing import current, extend, replace
from seamless_dask.neighbours.table import BY_NAME, NAMES
from seamless_dask.wrapper import launch
from seamless_dask.wrapper.exit_codes import StartFailed
from seamless_dask.wrapper.settings.parameters import read_parameters

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
#: what nobody needs for Seamless, and jobs may use
OF_JOBS = {"joblib", "loky", "matplotlib", "pandas"}
ALL = ~Where(0)
#: flags of classes in C: "made at run time", and that without "immutable"
HEAP_TYPE = 1 << 9
MUTABLE = HEAP_TYPE | 1 << 8


def check(where: Where) -> None:
    """As at the start of a process that has not checked yet."""
    checking.check.__wrapped__(where)


# -- the table ---------------------------------------------------------------------


def test_no_entry_is_there_twice() -> None:
    assert len(BY_NAME) == len(NAMES)


def test_all_is_there() -> None:
    """With what is installed here, which may be the newest or the oldest."""
    for neighbour in checking.report():
        assert list(neighbour.problems()) == []
        assert neighbour.ok or neighbour.distribution in OF_JOBS


def renamed(code: CodeType, name: str) -> CodeType:
    """A function that assigns to another attribute, or to another variable."""
    return code.replace(
        **{  # type: ignore[arg-type]
            kind: tuple(
                f"{each}_renamed" if each == name else each
                for each in getattr(code, kind)
            )
            for kind in ("co_names", "co_varnames", "co_cellvars")
        }
    )


def hide(entry: Name, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do to a name what a rename in another version would do."""
    owner: Any = sys.modules[entry.module]
    parent, own_name = owner, ""
    *path, last = entry.name.split(".")
    for part in path:
        parent, owner, own_name = owner, getattr(owner, part), part
    if isinstance(owner, ModuleType):
        monkeypatch.delattr(owner, last, raising=not entry.unless)
    elif isinstance(owner, FunctionType):
        monkeypatch.setattr(owner, "__code__", renamed(owner.__code__, last))
    elif isinstance(owner, type) and owner.__flags__ & MUTABLE == HEAP_TYPE:
        for each in owner.__mro__:
            if last in vars(each):
                monkeypatch.delattr(each, last)
            if last in names._made(each):
                constructor = names.inspect.unwrap(vars(each)["__init__"])
                code = renamed(constructor.__code__, last)
                monkeypatch.setattr(constructor, "__code__", code)
    else:
        monkeypatch.setattr(parent, own_name, object())


@pytest.mark.parametrize("entry", NAMES, ids=str)
def test_absence_is_noticed(entry: Name, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an error that names package, version and name, and what to install."""
    if versions.version_of(entry.distribution) is None:
        pytest.skip(f"{entry.distribution} is not installed")
    importlib.import_module(entry.module)
    if entry.unless:
        monkeypatch.delattr(f"{entry.module}.{entry.unless}", raising=False)
    with monkeypatch.context() as patch:
        hide(entry, patch)
        there = is_there(entry)
        try:
            check(entry.where)
            problem = ""
        except NeighbourChanged as error:
            problem = str(error)
    assert not there
    if not entry.needed:
        assert not problem
        return
    version = versions.version_of(entry.distribution)
    assert (
        f"- {entry.distribution} {version} has no {entry}: {entry.reason} (" in problem
    )
    assert "install " in problem
    assert is_there(entry) or entry.unless


def test_versions_out_of_range_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module("seamless_transformer.worker")
    monkeypatch.setattr(checking, "version_of", lambda distribution: "0.7.1")
    with pytest.raises(NeighbourChanged) as error:
        check(Where.WORKER)
    line = (
        "- seamless-transformer 0.7.1: allowed is >=0.6,<0.7 "
        "(pip install 'seamless-transformer>=0.6,<0.7')\n"
    )
    assert line in str(error.value)
    assert "- seamless-config 0.7.1: " in str(error.value)


def test_a_package_that_was_put_there_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without metadata nobody knows its version, which is no reason not to start."""
    monkeypatch.setattr(checking, "version_of", lambda distribution: None)
    check(ALL)
    monkeypatch.delattr(distributed.Scheduler, "_reschedule")
    with pytest.raises(NeighbourChanged, match="distributed of an unknown version has"):
        check(ALL)


def test_a_package_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """What nobody needs for Seamless may be missing."""
    real = versions.version_of
    gone = ("tornado", "pandas")
    monkeypatch.setattr(
        checking, "version_of", lambda name: None if name in gone else real(name)
    )
    assert status.main(["--check"]) == 1
    lines = capsys.readouterr().out.splitlines()
    (line,) = (i for i, text in enumerate(lines) if text.startswith("tornado"))
    assert lines[line].split()[1:3] == ["not", "installed"]
    assert lines[line].endswith("NOT OK")
    assert lines[line + 1].startswith(
        "    tornado is not installed (pip install 'tornado"
    )
    (optional,) = (text for text in lines if text.startswith("pandas"))
    assert optional.endswith("  ok")


@pytest.mark.slow
def test_the_check_imports_nothing() -> None:
    program = (
        "import sys, seamless_dask.client\n"
        "from seamless_dask.neighbours import check, names\n"
        "before = set(sys.modules)\n"
        "check.check(~names.Where(0))\n"
        "print(sorted(set(sys.modules) - before))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_a_module_that_is_being_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """By another thread, say: what it has not defined yet is waited for."""
    entry = Module("Python", "half_imported").read("_later", Where.DRIVER, "a test")
    module = ModuleType(entry.module)
    monkeypatch.setitem(sys.modules, entry.module, module)
    monkeypatch.setattr(checking, "NAMES", (entry,))
    monkeypatch.setattr(
        checking,
        "importlib",
        SimpleNamespace(import_module=lambda name: setattr(module, "_later", 1)),
    )
    check(Where.DRIVER)


@pytest.mark.parametrize(
    "version",
    "0.5.9 0.6 0.6.0 0.6.1 0.6.1.post2 0.7 0.7.0 0.7rc1 0.10 1.0 1!0.6 2026.8.0".split(),
)
@pytest.mark.parametrize(
    "allowed", [">=0.6,<0.7", ">=0.6", "<0.7", ">0.6.0", "<=0.6.1", "==0.6.1"]
)
def test_versions_are_compared_as_pip_does(version: str, allowed: str) -> None:
    expected = SpecifierSet(allowed).contains(
        version.removeprefix("1!"), prereleases=True
    )
    if (version, allowed) in (("0.7rc1", ">=0.6"), ("0.6.1.post2", "<=0.6.1")):
        return
    if version == "0.6.1.post2":  # counts as its release
        expected = SpecifierSet(allowed).contains("0.6.1")
    assert versions.is_allowed(version, allowed) == expected


def test_allowed_versions_are_those_that_are_declared() -> None:
    allowed = versions.requirements()
    assert allowed.pop("Python") == PROJECT["requires-python"]
    declared = {Requirement(each).name: each for each in PROJECT["dependencies"]}
    assert allowed.keys() == declared.keys()
    for name, text in allowed.items():
        assert SpecifierSet(text) == Requirement(declared[name]).specifier
        assert versions.least(text)
    known = {entry.distribution for entry in NAMES}
    assert known - allowed.keys() - {"Python"} == OF_JOBS


# -- where it is asked for ---------------------------------------------------------


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A name that a driver and a wrapper need is missing, and nobody has looked yet."""
    checking.check.cache_clear()
    monkeypatch.delattr(distributed.client.Client, "_send_to_scheduler")
    monkeypatch.delattr(distributed.Scheduler, "_reschedule")
    yield "distributed.client.Client._send_to_scheduler"
    checking.check.cache_clear()


def test_a_client_asks_for_it(changed: str) -> None:
    from seamless_dask.client import SeamlessDaskClient

    nobody: Any = None
    for role in ("driver", "inner"):
        with pytest.raises(NeighbourChanged, match=changed):
            SeamlessDaskClient(nobody, role=role)  # type: ignore[arg-type]


async def start_worker() -> None:
    from seamless_dask.worker.plugin import SeamlessWorkerPlugin

    worker: Any = SimpleNamespace(address="tcp://here:1")
    await SeamlessWorkerPlugin(1).setup(worker)


def test_a_worker_asks_for_it(changed: str) -> None:
    import asyncio

    with pytest.raises(NeighbourChanged, match=changed):
        asyncio.run(start_worker())


def test_the_wrapper_asks_for_it(changed: str) -> None:
    """What it raises goes to the status file."""
    parameters, _ = read_parameters(
        {"walltime": "01:00:00", "cores": 1, "memory": "1GiB"}
    )
    with pytest.raises(StartFailed, match="Scheduler._reschedule"):
        launch._check_config(parameters)


def test_the_command_shows_it(capsys: Any, changed: str) -> None:
    assert status.main(["--check"]) == 1
    printed = capsys.readouterr().out
    assert f"has no {changed}: messages without an answer (pip install" in printed
    assert "NOT OK" in printed
    assert status.main(["--check", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    packages = {each["package"]: each for each in found["packages"]}
    assert not packages["distributed"]["ok"] and not found["ok"]
    assert packages["seamless-core"]["ok"]
    missing = [e["name"] for e in packages["distributed"]["names"] if not e["ok"]]
    assert missing == [changed, "distributed.scheduler.Scheduler._reschedule"]


def test_the_command_finds_all_well(capsys: Any) -> None:
    assert status.main(["--check"]) == 0
    assert "NOT OK" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        status.main(["--check", "why", "0" * 64])


# -- replacing ---------------------------------------------------------------------


class Owner:
    """Of a neighbour."""

    def __init__(self) -> None:
        self._table = {1: 2}

    def method(self) -> str:
        return "theirs"


@pytest.fixture
def neighbour(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module with an entry for each kind of name."""
    module: Any = ModuleType("neighbour")
    module.function = lambda: "theirs"
    module.Class = Owner
    module.value = 1
    monkeypatch.setattr(Owner, "method", Owner.method)
    entries = [Module("n", "neighbour").replaced(n, ALL, "") for n in vars(module)]
    entries.append(Module("n", "neighbour").replaced("gone", ALL, "a test"))
    entries.append(Module("n", "neighbour").read("__doc__", ALL, "a test"))
    entries += [
        Module("n", __name__).replaced(f"Owner.{name}", ALL, "")
        for name in ("_table", "method")
    ]
    for entry in entries:
        monkeypatch.setitem(BY_NAME, (entry.module, entry.name), entry)
    return module


def louder(original: Any) -> Any:
    return lambda *self: original(*self) + "!"


def other(original: Any) -> Any:
    return lambda *self: f"({original(*self)})"


def test_functions_are_replaced_once(neighbour: Any) -> None:
    """However many others are on top."""
    original = neighbour.function
    for make in (louder, other, louder, other, louder):
        extend(neighbour, "function", make)
    assert neighbour.function() == "(theirs!)"
    assert extend(neighbour, "function", louder) is original


def test_what_somebody_puts_back_is_replaced_again(neighbour: Any) -> None:
    original = neighbour.function
    extend(neighbour, "function", louder)
    neighbour.function = original
    extend(neighbour, "function", louder)
    assert neighbour.function() == "theirs!"


def test_methods_of_a_class_and_of_an_object(neighbour: Any) -> None:
    owner = Owner()
    for _ in range(2):
        extend(neighbour.Class, "method", louder)
        extend(owner, "method", other)
    assert (owner.method(), Owner().method()) == ("(theirs!)", "theirs!")


def test_objects_are_replaced_by_others(neighbour: Any) -> None:
    """They need not be unlike what was there; bound methods are equal only by self."""
    owner = Owner()
    ours = {1: 2}
    assert replace(owner, "_table", ours) == {1: 2}
    assert owner._table is ours
    assert replace(neighbour, "value", 2) == 1
    first, second = Owner(), Owner()
    replace(neighbour, "function", first.method)
    replace(neighbour, "function", second.method)
    assert neighbour.function.__self__ is second


def test_classes_are_replaced_once(neighbour: Any) -> None:
    def make() -> type:
        class Ours(Owner):
            """Another object each time."""

        return Ours

    ours = make()
    assert replace(neighbour, "Class", ours) is Owner
    assert replace(neighbour, "Class", make()) is Owner
    assert neighbour.Class is ours


def test_what_cannot_be_replaced(neighbour: Any) -> None:
    """Nothing is there; or nobody has said why."""
    for action in (replace, extend):
        with pytest.raises(NeighbourChanged, match=r"n has no neighbour\.gone here"):
            action(neighbour, "gone", louder)
    with pytest.raises(NeighbourChanged):
        current(neighbour, "gone")
    neighbour.unknown = 1
    for name in ("unknown", "__doc__"):
        with pytest.raises(LookupError, match="does not say why"):
            replace(neighbour, name, 2)
    assert neighbour.unknown == 1

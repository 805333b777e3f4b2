"""The archives that are released: what is in them, and what they say of themselves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.pages import as_script
from helpers.paths import ROOT
from helpers.polling import wait_until
from helpers.stack import RealStack
from packaging.metadata import Metadata
from readme_renderer import markdown
from trove_classifiers import classifiers, deprecated_classifiers

pytestmark = pytest.mark.slow

PACKAGES = ("seamless_dask", "scheduler_ext")
BUILD = "from setuptools import build_meta; build_meta.build_{}({!r})"


def run(*command: str | Path, cwd: Path) -> str:
    """The output of a command that succeeds, with nothing of this environment."""
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONPATH"
    }
    ended = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def source_files() -> set[str]:
    """Paths of a clone, or of an unpacked source distribution."""
    if (ROOT / ".git").exists():
        listed = run(
            "git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT
        )
        return {line for line in listed.splitlines() if (ROOT / line).exists()}
    return {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*")
        if path.is_file() and not re.search(r"(cache|egg-info|venv)[^/]*/", str(path))
    }


@dataclass
class Archives:
    #: the archives, and the first one unpacked
    sdist: Path
    wheel: Path
    unpacked: Path

    @property
    def metadata(self) -> Metadata:
        """What the wheel says, as an index reads it: whatever is wrong raises."""
        with zipfile.ZipFile(self.wheel) as archive:
            [name] = [n for n in archive.namelist() if n.endswith("/METADATA")]
            return Metadata.from_email(archive.read(name), validate=True)


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    """Both, built from a copy; the wheel from the source distribution, as pip does."""
    folder = tmp_path_factory.mktemp("archives")
    source = folder / "source"
    for name in source_files():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    run(sys.executable, "-c", BUILD.format("sdist", str(folder)), cwd=source)
    [sdist] = folder.glob("*.tar.gz")
    (folder / "unpacked").mkdir()
    run("tar", "-xzf", sdist, cwd=folder / "unpacked")
    [unpacked] = (folder / "unpacked").iterdir()
    run(sys.executable, "-c", BUILD.format("wheel", str(folder)), cwd=unpacked)
    [wheel] = folder.glob("*.whl")
    return Archives(sdist, wheel, unpacked)


# -- what is in them ---------------------------------------------------------------


def test_source_distribution_is_complete(archives: Archives) -> None:
    """All of the clone: tests need examples, documentation, Makefile and so on."""
    packed = {
        path.relative_to(archives.unpacked).as_posix()
        for path in archives.unpacked.rglob("*")
        if path.is_file()
    }
    made = {each for each in packed if re.match(r"build/|[^/]*\.egg-info/", each)}
    assert packed - made - {"PKG-INFO", "setup.cfg"} == source_files() - {
        "PKG-INFO",
        "setup.cfg",
    }


def test_wheel_has_the_packages_and_nothing_else(archives: Archives) -> None:
    """Modules, the marker of typed packages, and the licence."""
    with zipfile.ZipFile(archives.wheel) as archive:
        packed = set(archive.namelist())
    about = {each for each in packed if ".dist-info/" in each}
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    assert packed - about == expected
    assert any(each.endswith("/licenses/LICENSE") for each in about)


@pytest.mark.cluster  # not that it starts one: it takes ten seconds
def test_tests_of_the_source_distribution_can_be_run(archives: Archives) -> None:
    """From its own folder, with its own packages."""
    where = run(
        sys.executable,
        "-c",
        "import seamless_dask; print(seamless_dask.__file__)",
        cwd=archives.unpacked,
    )
    assert Path(where).is_relative_to(archives.unpacked)
    # collects all, runs a few
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "links_lead")
    told = run(sys.executable, *command, cwd=archives.unpacked)
    assert re.search(r"\d passed, \d{3,} deselected", told)


# -- what they say -----------------------------------------------------------------


def test_metadata_is_accepted(archives: Archives) -> None:
    """By an index, which refuses what it does not know."""
    metadata = archives.metadata
    assert metadata.name == "seamless-dask"
    assert metadata.license_expression == "MIT"
    assert metadata.license_files == ["LICENSE"]
    assert metadata.author == "seamless-dask developers"
    told = set(metadata.classifiers or [])
    assert told <= classifiers
    assert not told & set(deprecated_classifiers)
    for minor in range(10, 14):
        assert f"Programming Language :: Python :: 3.{minor}" in told
    assert str(metadata.requires_python) == ">=3.10"
    packed = (archives.unpacked / "PKG-INFO").read_bytes()
    assert Metadata.from_email(packed, validate=True).description == (
        metadata.description
    )


def test_page_of_an_index_shows_the_readme(archives: Archives) -> None:
    """It renders, and it has no link to a file, since there is none beside it."""
    metadata = archives.metadata
    assert metadata.description_content_type == "text/markdown"
    description = metadata.description
    assert description is not None
    page = markdown.render(description)
    assert page is not None
    targets = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert targets
    assert not [each for each in targets if not each.startswith(("https://", "#"))]
    assert "<code>docs/index.md</code>" in page


# -- installed ---------------------------------------------------------------------

#: Imports every module but the two that are programs
IMPORT_ALL = """
import importlib, pkgutil, scheduler_ext, seamless_dask
for package in (scheduler_ext, seamless_dask):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
print(seamless_dask.__file__)
"""


@pytest.mark.cluster
def test_readme_works_word_for_word(archives: Archives) -> None:
    """A new environment and home; all commands and files, from the installation on."""
    page = (archives.unpacked / "README.md").read_text()
    script = as_script(page[page.index("## Install") :])
    assert "pip install" in script and "> total.py" in script
    with RealStack(project="first") as stack:
        shutil.rmtree(stack.home / ".seamless")
        environment = stack.environment()
        del environment["PYTHONPATH"]  # the working tree
        # the Python below this one: a new environment is made with it
        path = (str(Path(sys.base_prefix) / "bin"), "/usr/bin", "/bin")
        environment["PATH"] = os.pathsep.join(path)
        ended = subprocess.run(
            ["bash", "-e", "-u", "-o", "pipefail", "-c", script],
            cwd=archives.unpacked,
            env=environment,
            capture_output=True,
            text=True,
            timeout=500,
        )
        told = ended.stdout + ended.stderr
        assert ended.returncode == 0, told
        assert "Traceback" not in told
        assert re.search(r"^285$", ended.stdout, re.MULTILINE)
        assert len(stack.stored().results) == 11
        # its last command has stopped all services
        wait_until(lambda: not stack.processes(), "everything ends")
        check_installation(stack.home / "seamless-env" / "bin", cwd=stack.home)


def check_installation(binaries: Path, *, cwd: Path) -> None:
    """Built as installers do, from the source distribution; with what it declares."""
    run(binaries / "python", "-m", "pip", "check", cwd=cwd)
    where = run(binaries / "python", "-c", IMPORT_ALL, cwd=cwd)
    assert Path(where).is_relative_to(cwd)
    shown = run(binaries / "seamless-dask-wrapper", "--help", cwd=cwd)
    assert "--status-file" in shown
    run(binaries / "python", "-m", "seamless_dask.status", "--help", cwd=cwd)

"""The documentation says what the code says."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from helpers.pages import blocks
from helpers.paths import ROOT

from seamless_dask.wrapper import exit_codes

PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]*)?\)")


def test_generated_parts_are_current() -> None:
    """Parameters, exit codes and job scripts are those of the code."""
    ended = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr


#: Prints {queue: [cluster string, parameters]}, and configures the services
CONFIGURE = """
import json
from seamless_config import select, tools
from seamless_config.cluster import define_clusters, get_cluster
from seamless_config.config_files import _load_clusters, load_tools

load_tools()
clusters = _load_clusters()
define_clusters(clusters)
select.select_project("project")
cluster = clusters.pop("local_cluster")
assert [cluster] == list(clusters)
select.select_cluster(cluster)
for configure in (tools.configure_hashserver, tools.configure_database):
    assert "hostname" not in configure("rw", cluster=cluster), "ssh to this machine"
found = {}
for queue in get_cluster(cluster).queues or {}:
    select.select_queue(queue)
    config = tools.configure_daskserver(cluster=cluster)
    found[queue] = config["cluster_string"], config["file_parameters"]
print(json.dumps(found))
"""


#: What ``--dry-run`` prints for each of them; a process each, since it changes Dask's
#: configuration
DRY_RUN = """
import json, os, sys
from pathlib import Path
from seamless_dask.wrapper.dry_run import dry_run

for cluster_string, parameters in json.loads(sys.argv[1]):
    file = Path("~/parameters.json").expanduser()
    file.write_text(json.dumps(parameters))
    if os.fork() == 0:
        print(dry_run(cluster_string, file, "tcp://login1:1"), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


def run_python(*arguments: str | Path, home: Path) -> str:
    """The output of a Python that succeeds, with an own home directory."""
    ended = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def files_of(page: str) -> dict[str, str]:
    """{name: content} of the files that a page shows; of two the first."""
    files: dict[str, str] = {}
    for block in blocks(page_text(page)):
        if block.file is not None:
            files.setdefault(block.file, block.text)
    return files


@pytest.mark.parametrize(
    ("page", "queues", "system"),
    [
        (
            "site-slurm.md",
            ["short", "long", "gpu", "whole-node", "firewalled"],
            "SLURM",
        ),
        ("site-oar.md", ["default", "whole-node"], "OAR"),
        ("site-grid-engine.md", [], "SGE"),
        ("site-pbs.md", [], "PBS"),
        ("site-lsf.md", [], "LSF"),
    ],
)
def test_site_pages_are_accepted(
    page: str, queues: list[str], system: str, tmp_path: Path
) -> None:
    """seamless-config reads them, and the wrapper writes a job script for each queue."""
    files = files_of(page)
    (tmp_path / ".seamless").mkdir()
    (tmp_path / ".seamless" / "clusters.yaml").write_text(files["clusters.yaml"])
    found = json.loads(run_python("-c", CONFIGURE, home=tmp_path))
    assert list(found) == queues
    if not queues:
        content = json.loads(files["cluster.json"])
        found = {"by hand": (f"dask_jobqueue::{system}Cluster", content["parameters"])}
        assert f"dask_jobqueue::{system}Cluster --port-range" in page_text(page)
    assert {name for name, _ in found.values()} == {f"dask_jobqueue::{system}Cluster"}
    told = run_python("-c", DRY_RUN, json.dumps(list(found.values())), home=tmp_path)
    assert told.count("distributed.cli.dask_worker tcp://login1:1 ") == len(found)


def page_text(page: str) -> str:
    return (ROOT / "docs" / page).read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link to a file or a heading of this project finds it."""
    for file, heading in LINK.findall(page.read_text()):
        if "://" in file:
            continue
        target = page.parent / file if file else page
        assert target.exists(), f"{page.name}: {file}"
        if heading:
            lines = target.read_text().splitlines()
            headings = {_anchor(line) for line in lines if line.startswith("#")}
            assert heading in headings, f"{page.name}: {file}{heading}"


def test_names_are_those_of_the_code() -> None:
    """Configuration keys, metrics and calls that a page names exist; no key is left out."""
    code = "\n".join(
        path.read_text()
        for package in ("seamless_dask", "scheduler_ext")
        for path in (ROOT / package).rglob("*.py")
    )
    pages = "\n".join(page.read_text() for page in PAGES)
    keys = re.compile(r"\bseamless-dask\.[a-z]+(?:-[a-z]+)+")
    assert set(keys.findall(pages)) == set(keys.findall(code))
    for name in set(re.findall(r"`(seamless_[a-z_]+?)(?:_total)?\b", pages)):
        assert name in code or (ROOT / name).is_dir(), name


def test_every_module_is_in_the_map() -> None:
    """Whoever adds a module says in docs/developing.md what it is."""
    text = (ROOT / "docs" / "developing.md").read_text()
    # from the heading of one folder to the next heading
    for folder in ("scheduler_ext", "seamless_dask", "seamless_dask/wrapper"):
        part = text.partition(f"### `{folder}/`\n")[2].partition("\n#")[0]
        listed = set(re.findall(r"`(\w+)`", part))
        modules = {path.stem for path in (ROOT / folder).rglob("[a-z]*.py")}
        if folder == "seamless_dask":  # the wrapper has a table of its own
            wrapper = (ROOT / folder / "wrapper").rglob("[a-z]*.py")
            modules -= {path.stem for path in wrapper}
        assert modules <= listed, f"{folder}: add {sorted(modules - listed)}"


WRAPPER = ROOT / "seamless_dask" / "wrapper"
LOGGED = ("error", "exception", "warning")
#: how an error or a warning of the wrapper begins in the code, and an error elsewhere
SAID = re.compile(
    "|".join(
        [*(n for n, v in vars(exit_codes).items() if isinstance(v, type)), *LOGGED]
    )
)
RAISED = re.compile(r".*(Changed|Error|Failed|Lost|Mismatch|Missing|Refused)")
#: texts that are clear by themselves, that follow another one, or that only developers see
CLEAR = (
    "--",
    '{} must hold a JSON object, with the parameters or with a field "parameters"',
    "{} cannot be read: {}",
    "All jobs of the wrapper have gone.",
    "The status file of the dead wrapper: {}",
    "cffi is required for compiled transformers. Install it with:",
    "the future was cancelled",
    "the connection was closed here",
    "the fork server has ended",
    "has not ended",
    "writing was cancelled",
    "module {} has no attribute {}",
    "{} reads its pipe already",
    "seamless_dask.neighbours.table does not say why {}.{} is replaced",
    "The transformation has not been constructed, or was made by something other",
    "The transformation has no definition payload",
    "This process has Seamless processes of its own",
    "rpc_timeout: got {}",
    "processes: got {}",
    "Dask configuration {}: got {}",
    'got {}, allowed: at most one address, then "why" and one checksum',
    "{} is not between 0.1 and 86400",
)


def sentences(paths: Iterable[Path], begin: re.Pattern[str]) -> Iterator[str]:
    """The first arguments of such calls in files, with {} for what differs."""
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                text = _text(node.args[0])
                if begin.fullmatch(name) and re.search(r"[a-z] [a-z]", text):
                    yield text


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%(\.\d)?[a-z]", "{}", node.value)
    return "{}"


def quoted(page: str) -> dict[str, re.Pattern[str]]:
    """{quoted text: its pattern} in the first column of tables; ... is anything."""
    return {
        quote: re.compile(
            ".*".join(map(re.escape, re.split(r"\W*\.\.\.\W*", quote))), re.DOTALL
        )
        for row in re.findall(r"^\| (.*?) \|", page, re.MULTILINE)
        for quote in re.findall(r"`([^`]+)`", row)
    }


def unexplained(said: list[str], patterns: dict[str, re.Pattern[str]]) -> list[str]:
    return [
        sentence
        for sentence in said
        if not any(pattern.search(sentence) for pattern in patterns.values())
        and not sentence.startswith(CLEAR)
    ]


def test_sentences_of_the_wrapper_are_explained() -> None:
    """Troubleshooting has a line for each, and none for what the wrapper never says."""
    page = page_text("troubleshooting.md").partition("## Sentences of the wrapper")[2]
    said = [*sentences(WRAPPER.rglob("*.py"), SAID)]
    said.append(str(exit_codes.ParametersError(["one", "another"])))
    assert len(said) > 60
    patterns = quoted(page)
    for quote, pattern in patterns.items():
        assert any(map(pattern.search, said)), f"no longer said: {quote}"
    assert not unexplained(said, patterns)


def test_sentences_of_check_are_explained() -> None:
    """What prevents a start has a line, unless it says what is allowed."""
    page = page_text("troubleshooting.md").partition("## Sentences of --check")[2]
    patterns = quoted(page.partition("## Sentences of the wrapper")[0])
    paths = [*(WRAPPER / "preflight").glob("*.py"), WRAPPER / "site_check.py"]
    said = [*sentences(paths, re.compile("append|problem"))]
    assert len(said) > 20
    # what the folders and addresses are said to be has its own sentence
    addresses = WRAPPER / "settings" / "ports.py"
    reasons = [*sentences([addresses], re.compile("NoFreePort"))]
    said.append(str(exit_codes.ClustersFileError(["one", "another"])))
    for quote, pattern in patterns.items():
        assert any(map(pattern.search, said + reasons)), f"no longer said: {quote}"
    problems = [*sentences(paths, re.compile("problem"))]
    assert not [x for x in unexplained(problems, patterns) if "allowed is" not in x]


def test_errors_are_explained() -> None:
    """Those of the other packages as well."""
    said = [
        sentence
        for package in ("scheduler_ext", "seamless_dask")
        for path in (ROOT / package).rglob("*.py")
        if not path.is_relative_to(WRAPPER)
        for sentence in sentences([path], RAISED)
    ]
    assert len(said) > 40
    patterns = quoted(page_text("troubleshooting.md"))
    assert not unexplained(said, patterns)


def _anchor(line: str) -> str:
    """The fragment that leads to a heading, as GitHub makes it."""
    words = re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower())
    return "#" + words.replace(" ", "-")

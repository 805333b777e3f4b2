"""The documentation says what the code says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT

from seamless_dask.wrapper.jobs.arguments import batch_problems
from seamless_dask.wrapper.settings.parameters import read_parameters

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


#: Prints {cluster: {queue: [cluster string, parameters]}}
CONFIGURE = """
import json
from seamless_config import select
from seamless_config.cluster import define_clusters, get_cluster
from seamless_config.config_files import _load_clusters, load_tools
from seamless_config.tools import configure_daskserver

load_tools()
clusters = _load_clusters()
define_clusters(clusters)
select.select_project("project")
found = {}
for cluster in clusters:
    select.select_cluster(cluster)
    found[cluster] = {}
    for queue in get_cluster(cluster).queues:
        select.select_queue(queue)
        config = configure_daskserver(cluster=cluster)
        found[cluster][queue] = config["cluster_string"], config["file_parameters"]
print(json.dumps(found))
"""


def test_site_example_is_accepted(tmp_path: Path) -> None:
    """seamless-config reads it, and the wrapper takes what it makes of each queue."""
    (tmp_path / ".seamless").mkdir()
    source = ROOT / "examples" / "site" / "clusters.yaml"
    shutil.copy(source, tmp_path / ".seamless")
    ended = subprocess.run(
        [sys.executable, "-c", CONFIGURE],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert {cluster: len(queues) for cluster, queues in found.items()} == {
        "bigcluster": 5,
        "grid": 1,
    }
    for queues in found.values():
        for queue, (cluster_string, raw) in queues.items():
            system = "oar" if "OAR" in cluster_string else "slurm"
            parameters, unknown = read_parameters(raw)
            assert not unknown, queue
            assert not batch_problems(parameters, system), queue


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


def _anchor(line: str) -> str:
    """The fragment that leads to a heading, as GitHub makes it."""
    words = re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower())
    return "#" + words.replace(" ", "-")

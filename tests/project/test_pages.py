"""What the pages of the documentation show is run as it stands there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from helpers.pages import as_script, blocks
from helpers.paths import ROOT
from helpers.polling import wait_until
from helpers.stack import RealStack

pytestmark = pytest.mark.cluster

#: runs Python files as a notebook runs its cells: one after the other, in one event
#: loop that goes on, with ``await`` at the top
NOTEBOOK = """
import ast, asyncio, inspect, sys

async def main():
    names = {}
    for path in sys.argv[1:]:
        with open(path) as file:
            tree = ast.parse(file.read())
        if isinstance(tree.body[-1], ast.Expr):  # shown, as in a notebook
            last = ast.parse("shown = None").body[0]
            last.value = tree.body[-1].value
            tree.body[-1] = last
        code = compile(tree, path, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        running = eval(code, names)
        if inspect.iscoroutine(running):
            await running
        print(path, names.pop("shown", None))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def stack() -> Iterator[RealStack]:
    """The cluster of the README, with a GPU for the page that wants one."""
    with RealStack(project="first", queue={"dask_resources": {"GPU": 1}}) as stack:
        yield stack


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def run(stack: RealStack, *command: str) -> str:
    """The output of a command that succeeds, in the folder of the project."""
    ended = subprocess.run(
        command,
        cwd=stack.project_dir,
        env=stack.environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr + stack.logs()
    return ended.stdout + ended.stderr


def run_page(stack: RealStack, name: str, *, then: str = "") -> str:
    """Save the files and run the commands of a page, then one more command."""
    script = as_script(page(name)) + then
    return run(stack, "bash", "-e", "-u", "-o", "pipefail", "-c", script)


def test_resources(stack: RealStack) -> None:
    """A transformation that asks for a GPU; one that stays in the driver script."""
    told = run_page(stack, "resources.md", then="python train.py\npython local.py\n")
    assert "['trained with 0', 'trained with 1', 'trained with 2']" in told


def test_command_line(stack: RealStack) -> None:
    """``seamless-run`` on the cluster, also inside of a command."""
    told = run_page(stack, "command-line.md").splitlines()
    assert told.count("1000 numbers.txt") == 2
    assert told.count("1000") == 2  # the largest, and the content of last.txt
    assert "inner" in told


def test_without_services(stack: RealStack) -> None:
    """A cluster inside one script, which prints nothing of its own; pure Dask."""
    told = run_page(stack, "without-services.md").splitlines()
    assert told[0] == "42"
    assert "6" in told
    assert run(stack, sys.executable, "dummy.py") == "42\n"


def test_notebook(stack: RealStack) -> None:
    """Cell by cell."""
    (stack.project_dir / "notebook.py").write_text(NOTEBOOK)
    cells = []
    for number, block in enumerate(blocks(page("notebooks.md"))):
        cell = stack.project_dir / f"cell-{number}.py"
        cell.write_text(block.text)
        cells.append(cell.name)
    told = run(stack, sys.executable, "notebook.py", *cells)
    values = re.findall(r"^cell-\d+\.py (.*)$", told, re.MULTILINE)
    squares = str([i * i for i in range(100)])
    assert values == ["None", "49", squares, "None", "27", "None"]


def test_batch_systems_by_hand() -> None:
    """The driver script of a wrapper that was started by hand, here on this machine."""
    script = as_script(page("other-batch-systems.md"))
    for name in ("login1.example.org", "login1"):
        script = script.replace(name, "127.0.0.1")
    with RealStack(project="by-hand") as stack:
        script = script.replace("/scratch/me", str(stack.home))
        status_file = stack.project_dir / "cluster.json"
        parameters = {"cores": 2, "interactive": True}
        status_file.write_text(
            json.dumps({"status": "starting", "parameters": parameters})
        )
        command = ("seamless-dask-wrapper", "distributed::LocalCluster", "--port-range")
        wrapper = subprocess.Popen(
            [*command, "60200", "60299", "--status-file", "cluster.json"],
            cwd=stack.project_dir,
            env=stack.environment(),
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: '"running"' in status_file.read_text(), "it runs")
            script += "mv clusters.yaml ~/.seamless/\npython script.py\n"
            told = run(stack, "bash", "-e", "-u", "-o", "pipefail", "-c", script)
            assert str([i * i for i in range(10)]) in told
        finally:
            wrapper.terminate()
            assert wrapper.wait(timeout=30) == 0


def test_stopping(stack: RealStack) -> None:
    """The last one: its commands stop all services."""
    told = run_page(stack, "stopping.md")
    assert "stopped" in told
    assert not stack.processes()

"""Driver scripts that select another queue than the one that runs."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from helpers.stack import RealStack

pytestmark = pytest.mark.cluster

DRIVER = """
import sys
import seamless, seamless.config
from seamless.transformer import direct

@direct
def double(a):
    return 2 * a

seamless.config.init()
print(double(int(sys.argv[1])))
seamless.close()
"""
WARNING = "this client selects cluster 'local', queue 'other'"


@pytest.fixture
def two_queues() -> Iterator[RealStack]:
    """A stack whose cluster has the queues default and other."""
    with RealStack() as stack:
        path = stack.home / ".seamless" / "clusters.yaml"
        clusters = yaml.safe_load(path.read_text())
        clusters["local"]["queues"]["other"] = {"TEMPLATE": "default", "memory": "3GB"}
        path.write_text(yaml.safe_dump(clusters))
        (stack.project_dir / "driver.py").write_text(DRIVER)
        yield stack


def drive(stack: RealStack, queue: str, number: int) -> str:
    """Run the driver in this queue; return what it writes to the standard error."""
    profile = stack.project_dir / "seamless.profile.yaml"
    commands = [
        command
        for command in yaml.safe_load(profile.read_text())
        if "queue" not in command
    ]
    commands.insert(1, {"queue": queue})
    profile.write_text(yaml.safe_dump(commands))
    result = stack.run(stack.project_dir / "driver.py", number, timeout=120)
    assert result.value == 2 * number
    return result.stderr


def run_command(stack: RealStack, command: str) -> None:
    """Run a command of seamless-config as the user would, in the folder."""
    program, *arguments = shlex.split(command)
    subprocess.run(
        [str(Path(sys.executable).parent / program), *arguments],
        cwd=stack.project_dir,
        env={
            **stack.environment(),
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        },
        check=True,
        timeout=60,
    )


def test_the_warning_has_the_command(two_queues: RealStack) -> None:
    """After that command the next driver gets the queue that it selects."""
    assert "selects" not in drive(two_queues, "default", 1)
    said = drive(two_queues, "other", 2)
    assert "The Dask cluster runs in cluster 'local', queue 'default'" in said
    assert WARNING in said
    (line,) = [line for line in said.splitlines() if WARNING in line]
    command = line.partition("run this script again: ")[2]
    assert command.startswith("seamless-service-stop --service daskserver"), said
    run_command(two_queues, command)
    assert "selects" not in drive(two_queues, "other", 3)
    services = two_queues.services()
    (key,) = [key for key in services if key.startswith("daskserver-")]
    assert services[key]["parameters"]["memory"] == "3GB"


def test_a_changed_definition_is_told(two_queues: RealStack) -> None:
    """Of the queue that is used; what another driver reads in the file does not matter."""
    assert "its definition" not in drive(two_queues, "default", 1)
    path = two_queues.home / ".seamless" / "clusters.yaml"
    clusters = yaml.safe_load(path.read_text())
    queues = clusters["local"]["queues"]
    before = queues["default"]["walltime"]
    queues["other"]["memory"] = "2GB"
    path.write_text(yaml.safe_dump(clusters))
    assert "its definition" not in drive(two_queues, "default", 2)
    queues["default"]["walltime"] = "03:21:00"
    path.write_text(yaml.safe_dump(clusters))
    said = drive(two_queues, "default", 3)
    assert f"walltime was {before!r} and is '03:21:00'" in said
    (line,) = [line for line in said.splitlines() if "its definition" in line]
    run_command(two_queues, line.partition("run this script again: ")[2])
    assert "its definition" not in drive(two_queues, "default", 4)


def test_other_services_are_no_other_queue(two_queues: RealStack) -> None:
    """A driver that makes workers use a new hashserver does not move them."""
    drive(two_queues, "default", 1)
    for number in (2, 3):
        run_command(
            two_queues,
            f"seamless-service-stop --service hashserver --cluster local "
            f"--project {two_queues.project}",
        )
        assert WARNING in drive(two_queues, "other", number)
    assert "selects" not in drive(two_queues, "default", 4)

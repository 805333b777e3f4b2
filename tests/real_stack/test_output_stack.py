"""Output of transformations on the real stack, as users see it in two terminals."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from drivers import output_driver
from helpers.polling import wait_until
from helpers.stack import RealStack

pytestmark = pytest.mark.cluster

SCRIPT = Path(output_driver.__file__)
GUARD = 90


def command(stack: RealStack, *arguments: str) -> subprocess.Popen[str]:
    """The command, where only the home of the user says which cluster there is."""
    return subprocess.Popen(
        [sys.executable, "-m", "seamless_dask.status", "output", *arguments],
        env=stack.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def texts(output: str) -> list[str]:
    return sorted(line.partition(" | ")[2] for line in output.splitlines())


def test_a_streamed_driver_shows_calls_as_well(
    real_stack: RealStack, tmp_path: Path
) -> None:
    gate = tmp_path / "open"
    gate.touch()
    result = real_stack.run(SCRIPT, "streamed", gate, "stream", timeout=GUARD)
    lines = result.stdout.splitlines()
    assert lines[-1] == "the result is 203"  # after all output
    shown = [line for line in lines if " | " in line]
    assert texts("\n".join(shown)) == [
        "scored 101",
        "scored 102",
        "scoring 101",
        "scoring 102",
        "simulating streamed",
    ]
    assert {line.split()[0] for line in shown} == {"simulate", "score"}
    assert result.stderr.count("| careful") == 2


@pytest.mark.parametrize("streams", [False, True])
def test_another_terminal_follows_nested_transformations(
    real_stack: RealStack, tmp_path: Path, streams: bool
) -> None:
    """Whether the driver script shows the output itself or not."""
    gate = tmp_path / f"gate {streams}"
    options = ["stream"] if streams else []
    began = time.monotonic()
    driver = real_stack.start(SCRIPT, f"followed {streams}", gate, *options)

    def scoring() -> str | None:
        said = command(real_stack, "score").communicate(timeout=GUARD)[0]
        return said if said.count("scoring") == 2 else None

    wait_until(scoring, "both transformations have written", GUARD)
    with command(real_stack, "score", "--follow") as follower:
        assert follower.stdout is not None and follower.stderr is not None
        said = follower.stdout.readline() + follower.stdout.readline()
        gate.touch()
        said += follower.stdout.read()
        errors = follower.stderr.read()
        assert follower.wait(GUARD) == 0
    assert texts(said) == ["scored 101", "scored 102", "scoring 101", "scoring 102"]
    assert texts(errors) == ["careful", "careful"]
    ended = real_stack.finish(driver, begin=began, timeout=GUARD)
    assert ended.stdout.splitlines()[-1] == "the result is 203"
    assert ("scored 101" in ended.stdout) == streams

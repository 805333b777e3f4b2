"""Commands that cannot write their output, or reach their scheduler, say so."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.written import BATCH

pytestmark = pytest.mark.cluster
STATUS = ("seamless_dask.status", 1)
WRAPPER = ("seamless_dask.wrapper", 10)


def run(
    shell: str, module: str, *arguments: str, **environment: str
) -> tuple[int, str]:
    """Exit code and standard error of a command in a line of a shell."""
    done = subprocess.run(
        ["sh", "-c", shell, "sh", sys.executable, "-m", module, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (STATUS, ["--check"]),
        (STATUS, ["--check", "--json"]),
        (STATUS, ["--help"]),
        (WRAPPER, ["--help"]),
        (WRAPPER, ["--version"]),
        (WRAPPER, ["--print-schema"]),
        (WRAPPER, ["dask_jobqueue::SLURMCluster", "--dry-run", "--parameters", "FILE"]),
    ],
)
def test_an_output_that_cannot_be_written(
    command: tuple[str, int], arguments: list[str], unbuffered: str, tmp_path: Path
) -> None:
    """A full disk and a closed stream are a sentence; a reader may end early."""
    file = tmp_path / "parameters.json"
    file.write_text(json.dumps(BATCH))
    arguments = [str(file) if item == "FILE" else item for item in arguments]
    module, code = command
    for shell, reason in (
        ('"$@" >/dev/full', "No space left on device"),
        ('"$@" >&-', "it is closed"),
    ):
        ended, said = run(shell, module, *arguments, PYTHONUNBUFFERED=unbuffered)
        assert (ended, said) == (code, f"The output cannot be written: {reason}.\n")
    piped = '("$@" || echo failed >&2) | true'
    assert run(piped, module, *arguments, PYTHONUNBUFFERED=unbuffered) == (0, "")


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """A port of which the system drops further connections, like a dead machine."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        yield port


def test_a_dead_address_is_reported_soon() -> None:
    with silent_port() as port:
        began = time.monotonic()
        ended, said = run('"$@"', STATUS[0], f"tcp://127.0.0.1:{port}")
        assert time.monotonic() - began < 30  # a guard against hanging
    assert ended == 1
    assert f"tcp://127.0.0.1:{port} does not answer within 3.5 s" in said


def test_a_closed_port_is_reported_at_once() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{bound.getsockname()[1]}"
        ended, said = run('"$@"', STATUS[0], address)
    assert ended == 1
    assert said.startswith(f"{address} cannot be reached: ") and "within" not in said

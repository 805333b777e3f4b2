"""The end of processes while this process has too many open files."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import atexit, logging, os, resource, subprocess, sys
from seamless_dask.wrapper import processes

logging.basicConfig(format="%(message)s", stream=sys.stdout)
child = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL)
atexit.register(child.kill)
known = processes.descendants()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
taken = []
try:
    while True:
        taken.append(os.open("/dev/null", os.O_RDONLY))
except OSError as error:
    assert error.errno == 24
assert processes.descendants() == set()
assert processes.alive(known) == known
processes.kill(known, 0.1)
for descriptor in taken:
    os.close(descriptor)
assert not processes.kill(known, 30)
child.wait()
assert {process.pid for process in known} == {child.pid}
"""


def test_too_many_open_files() -> None:
    """A process that cannot be looked at counts as running; the log says why."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "cannot be listed: [Errno 24] Too many open files" in done.stdout

"""Which processes have ended."""

from __future__ import annotations

import subprocess
import sys

import psutil

from seamless_dask.cluster.process_state import has_ended
from seamless_dask.pool import os_processes
from seamless_dask.wrapper import processes

#: Starts a process that ends at once, says its id, and never collects it.
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-S", "-E", "-c", "pass"])
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_a_zombie_that_nobody_collects_has_ended() -> None:
    """For example a Seamless process whose fork server was killed."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert parent.stdout is not None
        zombie = psutil.Process(int(parent.stdout.readline()))
        while zombie.status() != psutil.STATUS_ZOMBIE:
            assert parent.poll() is None
        assert zombie.is_running()
        both = [psutil.Process(parent.pid), zombie]
        assert [has_ended(process) for process in both] == [False, True]
        assert os_processes.remaining(both) == both[:1]
        assert processes.alive(both) == {both[0]}
    finally:
        parent.kill()
        parent.communicate()
    assert all(map(has_ended, both))
    assert os_processes.remaining(both) == []
    assert not processes.alive(both)

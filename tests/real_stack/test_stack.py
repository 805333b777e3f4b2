"""The harness itself: what it would say if a service hung or stayed behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
from helpers.stack import RealStack, StackError

pytestmark = pytest.mark.slow

SLEEP = "import time; print('started', flush=True); time.sleep(600)"


@pytest.fixture
def bare_stack() -> Iterator[RealStack]:
    """A stack in which no driver has started a service."""
    with RealStack(remote="jobserver") as stack:
        yield stack


#: Is killed in the middle of a change that is partly in the file.
KILLED = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("create table transformation (checksum, result)")
connection.execute("create table meta_data (checksum, metadata)")
connection.execute("insert into transformation values ('a', 'b')")
connection.commit()
connection.execute("pragma cache_size = 1")
for number in range(1000):
    connection.execute("insert into transformation values (?, 'c')", (str(number),))
os.kill(os.getpid(), signal.SIGKILL)
"""


def write_driver(stack: RealStack, code: str) -> str:
    path = stack.project_dir / "driver.py"
    path.write_text(code)
    return str(path)


def test_nothing_runs_and_nothing_is_stored(bare_stack: RealStack) -> None:
    """Before the first driver there is only a directory."""
    assert bare_stack.services() == {}
    assert bare_stack.processes() == []
    assert bare_stack.stored().results == {}
    assert bare_stack.stop() == []


def test_what_a_killed_server_has_stored_can_be_read(bare_stack: RealStack) -> None:
    """Although it was writing."""
    file = bare_stack.database_file
    file.parent.mkdir(parents=True)
    subprocess.run([sys.executable, "-c", KILLED, str(file)])
    assert file.with_name(file.name + "-journal").stat().st_size > 0
    assert bare_stack.stored().results == {"a": "b"}


def test_hanging_driver_is_ended_with_its_stacks(bare_stack: RealStack) -> None:
    """The error shows where the driver was, and the driver is gone."""
    driver = write_driver(bare_stack, SLEEP)
    with pytest.raises(StackError) as caught:
        bare_stack.run(driver, timeout=2)
    assert "did not end within 2 s" in str(caught.value)
    assert 'driver.py", line 1 in <module>' in str(caught.value)
    assert bare_stack.end_leftovers() == []


def test_failing_driver_is_an_error_with_its_output(bare_stack: RealStack) -> None:
    """Exit code and traceback are in the message."""
    driver = write_driver(bare_stack, "raise SystemExit('no such luck')")
    with pytest.raises(StackError, match=r"exit code 1\n(.*\n)*.*no such luck"):
        bare_stack.run(driver, timeout=60)


def test_leftover_process_is_reported_and_killed(bare_stack: RealStack) -> None:
    """Whoever has the home of the stack belongs to it, however it was started."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEP],
        env=bare_stack.environment(),
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        (left,) = bare_stack.end_leftovers(grace=0)
        assert f"pid {process.pid}" in left
        assert not psutil.pid_exists(process.pid)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.mark.cluster
def test_services_start_with_the_driver_and_stop(bare_stack: RealStack) -> None:
    """On the jobserver: values, database rows, buffers, and an orderly end."""
    run = bare_stack.run_workload("independent", n=10)
    assert run.outcome["values_ok"], run.outcome
    assert len(run.new_results) == run.outcome["distinct"] == 10
    assert run.executed == set(run.new_results)
    assert all(map(bare_stack.has_buffer, run.new_results.values()))

    again = bare_stack.run_workload("independent", n=10)
    assert again.outcome["values_ok"] and not again.executed

    stops = bare_stack.stop()
    assert sorted(stop.service.split("-")[0] for stop in stops) == [
        "database",
        "hashserver",
        "jobserver",
    ]
    assert {stop.by for stop in stops} == {"SIGINT"}
    assert bare_stack.end_leftovers() == []

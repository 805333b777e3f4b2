"""The line of progress and the warnings of a driver script that waits."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.terminal import screen, set_size
from hypothesis import given
from hypothesis import strategies as st

from seamless_dask.submit.progress import Complaints, Counts, Progress, lines_of

ANSWER: dict[str, Any] = {
    "running": 3,
    "waiting": 4,
    "announced": 0,
    "nested": {"unfinished": 5, "ended": 10},
    "ended": 20,
    "failed": 1,
    "seconds_left": 90.0,
    "workers": 1,
    "wanted": 2,
    "blocked": "",
    "refused": "",
}


def answer(**changes: Any) -> dict[str, Any]:
    return {**ANSWER, **changes}


def test_the_line_has_what_the_wait_is_about() -> None:
    """Only what has happened since it began counts."""
    first = answer(nested={"unfinished": 0, "ended": 4})
    (line,) = lines_of(Counts(total=10, done=2, cached=1), ANSWER, first)
    assert line == (
        "seamless: 2/10 done, 1 cached; calls 6/11; 3 running, 4 waiting; "
        "about 90.0 s left; workers 1 of 2"
    )
    kept_back = answer(announced=1000, nested={"unfinished": 0, "ended": 10})
    (line,) = lines_of(Counts(), kept_back, kept_back)
    assert "3 running, 1004 waiting" in line
    first = answer(failed=0, nested={"unfinished": 0, "ended": 10})
    now = answer(nested={"unfinished": 0, "ended": 10}, seconds_left=None, wanted=None)
    (line,) = lines_of(Counts(total=1), now, first)
    assert line == "seamless: 0/1 done, 1 failed; 3 running, 4 waiting; workers 1"


def test_it_says_why_nothing_runs() -> None:
    now = answer(blocked="no worker: 4\x1b pending", refused="sbatch: invalid\ngres")
    assert lines_of(Counts(), now, now)[1:] == [
        "  jobs are refused: sbatch: invalid gres",
        "  nothing runs: no worker: 4 pending",
    ]


def test_a_refusal_is_reported_at_once_and_once() -> None:
    complaints = Complaints()
    first = complaints.look(answer(refused="sbatch: error 12"), 0.0)
    assert first == ["Submissions of jobs are refused: sbatch: error 12"]
    assert complaints.look(answer(refused="sbatch: error 13"), 1.0) == []
    assert len(complaints.look(answer(refused="another"), 2.0)) == 1


def test_a_standstill_is_reported_after_a_minute_and_once() -> None:
    complaints = Complaints()
    blocked = answer(blocked="no slot for 7 s")
    times = [n for n in range(300) if complaints.look(blocked, float(n))]
    assert times == [60]
    assert complaints.look(answer(blocked="no worker"), 301.0)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.floats(0.1, 40))))
def test_no_warning_while_anything_moves(steps) -> None:
    """Compared with a plain count of the seconds without movement."""
    complaints, now, still, before = Complaints(), 0.0, 0.0, None
    for blocked, ended, seconds in steps:
        now += seconds
        moved = ended != before or not blocked
        still = 0.0 if moved else still + seconds
        before = ended
        text = "nothing" if blocked else ""
        due = complaints.look(answer(ended=ended, blocked=text), now)
        if due:
            assert still >= 60 - 1e-6


def test_the_variable_is_checked(monkeypatch) -> None:
    monkeypatch.setenv("SEAMLESS_DASK_PROGRESS", "true")
    with pytest.raises(ValueError, match="SEAMLESS_DASK_PROGRESS: got 'true'"):
        Progress(None, shows=True)  # type: ignore[arg-type]
    Progress(None, shows=False)  # type: ignore[arg-type]  # a worker does not care


# -- as a user sees it ---------------------------------------------------------------

SCRIPT = """
import logging, os, sys, threading, time
import seamless.config
from seamless_dask import create_dummy_client
from seamless.transformer import delayed

logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(message)s")
seamless.config.set_nparallel(50)
client = create_dummy_client(worker_threads=6, spawn_workers=2)

def score(number, gate):
    import os, time
    from seamless.transformer import delayed
    def inner(n):
        print("inner", n)
        return n
    from tqdm import tqdm
    for n in tqdm(range(1000), mininterval=0):
        if n == 500:
            while not os.path.exists(gate):
                time.sleep(0.05)
    return delayed(inner)(number).run()

nodes = [delayed(score)(number, sys.argv[1]) for number in (1001, 1002)]
for node in nodes:
    node.streaming = True

def others():
    while not os.path.exists(sys.argv[1] + " others"):
        time.sleep(0.05)
    print("the user prints")
    logging.warning("the user logs")
    sys.stdout.write("half a ")
    sys.stdout.flush()
    time.sleep(1.5)
    print("line")
    open(sys.argv[1], "w").close()

if os.isatty(2):
    threading.Thread(target=others, daemon=True).start()
for node in nodes:
    node.start()
print("the sum is", sum(node.run() for node in nodes))
"""


def on_terminal(script: Path, gate: Path) -> str:
    """All that a script writes on a terminal; other code of it writes when there is progress."""
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {**os.environ, "COLUMNS": "120", "TERM": "xterm"}
        os.execve(sys.executable, [sys.executable, str(script), str(gate)], environment)
    set_size(terminal, 120)
    record, entered = b"", False
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            read = os.read(terminal, 65536)
        except OSError:  # it has ended
            break
        record += read
        if b"seamless: 0/2 done" in record and b"50%" in record and not entered:
            gate.with_name(f"{gate.name} others").touch()
            entered = True
        if not read:
            break
    else:
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(terminal)
    return record.decode("utf-8", "replace")


@pytest.mark.cluster
def test_a_terminal_shows_progress_and_other_output_stays_whole(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    record = on_terminal(script, tmp_path / "gate")
    assert "2 running, 0 waiting" in record
    lines = screen(record)
    texts = [line.partition(" | ")[2] for line in lines if " | " in line]
    assert sorted(texts)[2:] == ["inner 1001", "inner 1002"]
    assert sum("1000/1000" in text for text in texts) == 2
    for line in (
        "the user prints",
        "WARNING the user logs",
        "half a line",
        "the sum is 2003",
    ):
        assert lines.count(line) == 1, lines
    assert not any("seamless: " in line for line in lines)


@pytest.mark.cluster
@pytest.mark.parametrize("value", [None, "1"])
def test_without_a_terminal_it_is_silent_unless_asked(
    tmp_path: Path, value: str | None
) -> None:
    script, gate = tmp_path / "script.py", tmp_path / "gate"
    script.write_text(textwrap.dedent(SCRIPT))
    environment = dict(os.environ)
    if value is not None:
        environment["SEAMLESS_DASK_PROGRESS"] = value
    process = subprocess.Popen(
        [sys.executable, str(script), str(gate)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    errors = ""
    if value is None:
        # as long as it would take; the bar is printed at the end only
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(8)
    else:
        while "seamless: 0/2 done" not in errors:
            line = process.stderr.readline()
            assert line, errors
            errors += line
    gate.touch()
    out, rest = process.communicate(timeout=60)
    errors += rest
    assert "the sum is 2003" in out
    assert errors.count("seamless: 0/2") == (value is not None)
    assert "\x1b" not in out + errors
    assert errors.count("1000/1000") == 2 and "50%" not in errors

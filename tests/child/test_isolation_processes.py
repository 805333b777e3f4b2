"""Transformations at the same time in one worker: what ends one ends no other.

And what a transformation leaves running ends with it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from helpers.cancelling import unfinished
from helpers.patient_jobs import patient, running, starts
from helpers.polling import wait_until
from seamless.transformer import Transformation, delayed

from seamless_dask import SeamlessDaskClient
from seamless_dask.pool import pulse

pytestmark = pytest.mark.cluster

#: a guard, not the promise: tests share their machine
SOON = 30.0


@pytest.fixture(autouse=True)
def over(tmp_path: Path) -> Iterator[None]:
    """What waits for these files does not outlive a test that fails."""
    yield
    for name in ("go", "die"):
        (tmp_path / name).touch()


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def cancel(tf: Transformation, pid: int) -> None:
    assert tf.cancel()


def kill(tf: Transformation, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("end", [cancel, kill])
def test_others_that_execute_are_not_disturbed(
    dummy: SeamlessDaskClient,
    tmp_path: Path,
    end: Callable[[Transformation, int], None],
) -> None:
    """Six at once: one is ended, each other one is executed once."""
    names = [f"job{i}" for i in range(6)]
    nodes = [delayed(patient)(str(tmp_path), name) for name in names]
    for node in nodes:
        node.start()
    pids = [running(tmp_path, name) for name in names]
    end(nodes[2], pids[2])
    wait_until(lambda: gone(pids[2]), "its process ends", SOON)
    more = delayed(patient)(str(tmp_path), "more")
    more.start()
    if end is kill:
        running(tmp_path, names[2], times=2)
    else:
        running(tmp_path, "more")
    (tmp_path / "go").touch()
    ended = [name for name in names if end is kill or name != names[2]]
    assert [
        node.run() for node in nodes if node is not nodes[2] or end is kill
    ] == ended
    assert more.run() == "more"
    executions = [len(starts(tmp_path, name)) for name in names]
    assert executions == [1, 1, 2 if end is kill else 1, 1, 1, 1]
    assert len(set(pids)) == 6, "each executes in a process of its own"


def dies_once(path: str, name: str) -> str:
    """Kill the process in which this runs, the first time."""
    import os
    import signal
    import time

    first = not os.path.exists(f"{path}/{name}")
    with open(f"{path}/{name}", "a") as file:
        file.write(f"{os.getpid()}\n")
    while not os.path.exists(f"{path}/die"):
        time.sleep(0.02)
    if first:
        os.kill(os.getpid(), signal.SIGKILL)
    return name


def test_a_process_that_dies_takes_no_other_with_it(
    dummy: SeamlessDaskClient, tmp_path: Path
) -> None:
    """Two of six kill theirs: they are executed twice, the others once."""
    path = str(tmp_path)
    dying = [delayed(dies_once)(path, f"dies{i}") for i in range(2)]
    others = [delayed(patient)(path, f"other{i}") for i in range(4)]
    for node in [*dying, *others]:
        node.start()
    for i in range(2):
        running(tmp_path, f"dies{i}")
    for i in range(4):
        running(tmp_path, f"other{i}")
    (tmp_path / "die").touch()
    for i in range(2):
        running(tmp_path, f"dies{i}", times=2)
    (tmp_path / "go").touch()
    assert [node.run() for node in dying] == ["dies0", "dies1"]
    assert [node.run() for node in others] == [f"other{i}" for i in range(4)]
    assert [len(starts(tmp_path, f"other{i}")) for i in range(4)] == [1] * 4


def caller(path: str, name: str) -> list[str]:
    """A call that ends, and one that waits for a file."""
    import os

    from seamless.transformer import direct

    def ends(path, name):
        import os

        with open(f"{path}/{name}", "a") as file:
            file.write(f"{os.getpid()}\n")
        return name

    def waits(path, name):
        import os
        import time

        with open(f"{path}/{name}", "a") as file:
            file.write(f"{os.getpid()}\n")
        while not os.path.exists(f"{path}/go"):
            time.sleep(0.02)
        return name

    with open(f"{path}/{name}", "a") as file:
        file.write(f"{os.getpid()}\n")
    return [direct(ends)(path, name + "-first"), direct(waits)(path, name + "-second")]


@pytest.mark.parametrize("end", [cancel, kill])
def test_others_that_wait_for_calls_are_not_disturbed(
    dummy: SeamlessDaskClient,
    tmp_path: Path,
    end: Callable[[Transformation, int], None],
) -> None:
    """Three callers wait, two nested jobs' neighbours are ended: all is executed once."""
    path = str(tmp_path)
    names = [f"caller{i}" for i in range(3)]
    callers = [delayed(caller)(path, name) for name in names]
    for node in callers:
        node.start()
    for name in names:
        running(tmp_path, f"{name}-second")
    victims = [delayed(patient)(path, f"victim{i}") for i in range(2)]
    for i, victim in enumerate(victims):
        victim.start()
        pid = running(tmp_path, f"victim{i}")
        end(victim, pid)
        wait_until(lambda pid=pid: gone(pid), "its process ends", SOON)
    (tmp_path / "go").touch()
    assert [node.run() for node in callers] == [
        [f"{name}-first", f"{name}-second"] for name in names
    ]
    executed = [name + what for name in names for what in ("", "-first", "-second")]
    assert [len(starts(tmp_path, name)) for name in executed] == [1] * 9


# -- what is left running ------------------------------------------------------------


def leaves(path: str, name: str, how: str) -> str:
    """Start processes and do not wait for them; say which, then end as `how` says."""
    import multiprocessing
    import os
    import signal
    import subprocess
    import time

    again = os.path.exists(f"{path}/{name}")
    started = [subprocess.Popen(["sleep", "600"]).pid]
    # as daemons start: its parent has ended, and it has a session of its own
    command = "setsid sleep 600 >/dev/null 2>&1 & echo $!"
    daemon = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, text=True)
    started.append(int(daemon.stdout))
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        process = context.Process(target=time.sleep, args=(600,))
        process.start()
        started.append(process.pid)
    for suffix, pids in (("-left", started), ("", [os.getpid()])):
        with open(f"{path}/{name}{suffix}", "a") as file:
            file.write("".join(f"{pid}\n" for pid in pids))
    if how == "raises":
        raise ValueError("as it should")
    if how == "waits":
        time.sleep(600)
    if how == "dies" and not again:
        os.kill(os.getpid(), signal.SIGKILL)
    return name


@pytest.mark.parametrize("how", ["returns", "raises", "waits", "dies"])
def test_what_a_transformation_leaves_running_ends_with_it(
    dummy: SeamlessDaskClient, tmp_path: Path, how: str
) -> None:
    """Children, daemons, processes of multiprocessing; and the next one is not hurt."""
    path = str(tmp_path)
    node = delayed(leaves)(path, "left", how)
    if how == "waits":
        node.start()
        running(tmp_path, "left")
        assert node.cancel()
    else:
        node.compute()
        exception = str(node.exception)
        assert ("ValueError: as it should" in exception) == (how == "raises"), exception
    pids = starts(tmp_path, "left-left")
    assert len(pids) == (8 if how == "dies" else 4)
    wait_until(lambda: all(gone(pid) for pid in pids), f"{pids} end", SOON)
    (tmp_path / "go").touch()
    after = [delayed(patient)(path, f"after{i}") for i in range(6)]
    for node in after:
        node.start()
    assert [node.run() for node in after] == [f"after{i}" for i in range(6)]


def test_what_is_left_running_is_said(
    dummy: SeamlessDaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Which transformation it was, and the names of its threads and processes."""

    def careless(seconds):
        import subprocess
        import threading
        import time

        subprocess.Popen(["sleep", str(seconds)])
        sleeper = threading.Thread(
            target=time.sleep, args=(seconds,), name="my-sleeper"
        )
        sleeper.daemon = True
        sleeper.start()
        return seconds

    node = delayed(careless)(1000)
    with caplog.at_level("WARNING", "seamless_dask"):
        assert node.run() == 1000
    name = f"careless {node.transformation_checksum.hex()[:12]} "
    said = [m for m in caplog.messages if name in m]
    assert any("threads: my-sleeper" in message for message in said), caplog.messages
    assert any("processes: sleep (" in message for message in said), caplog.messages


def never_gone(path: str, where: str) -> str:
    """Leave something that waits for ever when it is thrown away."""
    import os
    import threading

    class Waits:
        def __init__(self):
            # What it needs later may be gone by then.
            self.open, self.getpid, self.path = open, os.getpid, f"{path}/{where}"
            self.wait = threading.Event().wait

        def __del__(self):
            with self.open(self.path, "a") as file:
                file.write(f"{self.getpid()}\n")
            self.wait()

    if where == "global":
        globals()["left"] = Waits()
    elif where == "cycle":
        left = Waits()
        left.me = left
    else:
        threading.of_each_thread = threading.local()
        threading.of_each_thread.left = Waits()
    return where


def test_an_end_that_does_not_come_is_said(
    dummy: SeamlessDaskClient,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once, with the name of the transformation; cancelling it leaves nothing."""
    monkeypatch.setattr(pulse, "PING_INTERVAL", 0.1)
    monkeypatch.setattr(pulse, "END_PATIENCE", 0.5)
    places = ["global", "cycle", "thread"]
    nodes = {where: delayed(never_gone)(str(tmp_path), where) for where in places}
    with caplog.at_level("WARNING", "seamless_dask"):
        for node in nodes.values():
            node.start()
        pids = [running(tmp_path, where) for where in places]

        digits = {where: node.construct().hex()[:12] for where, node in nodes.items()}

        def said(where: str) -> list[str]:
            return [m for m in caplog.messages if digits[where] in m and "__del__" in m]

        for where in places:
            wait_until(lambda where=where: said(where), f"it is said of {where}", SOON)
    for where, node in nodes.items():
        assert node.cancel()
        assert node.status == "Status: canceled"
        assert len(said(where)) == 1
    wait_until(lambda: all(gone(pid) for pid in pids), f"{pids} end", SOON)
    wait_until(lambda: not unfinished(dummy), "nothing is left of them", SOON)
    after = delayed(patient)(str(tmp_path), "after")
    (tmp_path / "go").touch()
    assert after.run() == "after"


def test_what_others_have_started_is_left_alone(
    dummy: SeamlessDaskClient, tmp_path: Path
) -> None:
    """While they execute, or wait for calls, theirs run on."""

    def uses(path, name, calls):
        import os
        import subprocess
        import time

        from seamless.transformer import direct

        def waits(path, name):
            import os
            import time

            while not os.path.exists(f"{path}/go"):
                time.sleep(0.02)
            return name

        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with open(f"{path}/{name}", "a") as file:
            file.write(f"{os.getpid()}\n")
        if calls:
            direct(waits)(path, name)
        while not os.path.exists(f"{path}/go"):
            time.sleep(0.02)
        return child.communicate(b"alive")[0].decode()

    path = str(tmp_path)
    nodes = [delayed(uses)(path, f"uses{i}", i) for i in range(2)]
    for node in nodes:
        node.start()
    for i in range(2):
        running(tmp_path, f"uses{i}")
    delayed(leaves)(path, "left", "returns").compute()
    pids = starts(tmp_path, "left-left")
    wait_until(lambda: all(gone(pid) for pid in pids), f"{pids} end", SOON)
    (tmp_path / "go").touch()
    assert [node.run() for node in nodes] == ["alive"] * 2


def test_what_a_command_leaves_running_ends_with_it(dummy: SeamlessDaskClient) -> None:
    """A bash transformation with something in the background."""
    code = """
(setsid sh -c 'touch started; exec sleep 600' >/dev/null 2>&1 & echo $! > RESULT)
while [ ! -e started ]; do sleep 0.02; done
"""
    transformer = delayed(code, "bash")
    transformer.celltypes.result = "int"
    pid = transformer().run()
    wait_until(lambda: gone(pid), f"{pid} ends", SOON)

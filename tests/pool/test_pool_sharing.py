"""Jobs that wait lend their process when there are many; they get it back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from drivers import workloads
from helpers.patient_jobs import patient, running, starts
from helpers.polling import wait_until
from helpers.pools import (
    SOON,
)
from seamless.transformer import delayed

from seamless_dask import SeamlessDaskClient
from seamless_dask.child.turn_keeper import PATIENCE
from seamless_dask.pool.processes import Processes

pytestmark = pytest.mark.cluster


def caller(path: str, name: str, seed: int) -> Any:
    """Seed, say where it runs, call, draw."""
    import os
    import random
    import tempfile

    from seamless.transformer import direct

    def nested(path, name):
        import os
        import random
        import time

        random.seed(0)
        os.chdir("/")
        with open(f"{path}/nested-{name}", "a") as file:
            file.write(f"{os.getpid()}\n")
        while not os.path.exists(f"{path}/answer-{name}"):
            time.sleep(0.02)
        return random.random()

    random.seed(seed)
    directory = tempfile.mkdtemp()
    os.chdir(directory)
    with open(f"{path}/{name}", "a") as file:
        file.write(f"{os.getpid()}\n")
    direct(nested)(path, name)
    return [random.random(), os.getcwd() == directory]


def alone(seed: int) -> list[Any]:
    import random

    return [random.Random(seed).random(), True]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("tree", {"n": 10}),
        ("fan", {"n": 3, "leaves": 10, "how": "parallel"}),
        ("recursion", {"n": 3, "depth": 12}),
        ("random_trees", {"n": 12, "max_nodes": 12}),
    ],
    ids=str,
)
def test_workloads_end(group: Processes, name: str, arguments: dict[str, Any]) -> None:
    """With two processes, whatever the shape of the trees."""
    before = group.shared
    outcome = workloads.WORKLOADS[name](f"sharing/{arguments}", **arguments)
    assert outcome["values_ok"], outcome
    assert group.shared > before


def test_what_is_global_is_put_aside(group: Processes, tmp_path: Path) -> None:
    """Six that have seeded and wait, in few processes; then each draws its own."""
    path = str(tmp_path)
    callers = [delayed(caller)(path, f"caller{i}", i) for i in range(6)]
    for i, tf in enumerate(callers):
        tf.start()
        running(tmp_path, f"nested-caller{i}")
    assert len({running(tmp_path, f"caller{i}") for i in range(6)}) < 6
    for i in range(6):
        (tmp_path / f"answer-caller{i}").touch()
    assert [tf.run() for tf in callers] == [alone(i) for i in range(6)]
    assert [len(starts(tmp_path, f"caller{i}")) for i in range(6)] == [1] * 6


def borrowed(group: Processes, path: Path) -> tuple[Any, Any, int]:
    """Start a caller, and another job in its process; return both, and its id."""
    tf = delayed(caller)(str(path), "caller", 7)
    tf.start()
    pid = running(path, "caller")
    running(path, "nested-caller")
    guest = delayed(patient)(str(path), "guest")
    guest.start()
    assert running(path, "guest") == pid
    return tf, guest, pid


def transformations(dummy: SeamlessDaskClient) -> Any:
    """What the scheduler says of all transformations together."""
    client = dummy.client
    return client.sync(client.scheduler.seamless_status)["transformations"]


def test_a_job_that_waits_long_for_its_process_begins_elsewhere(
    dummy: SeamlessDaskClient, group: Processes, tmp_path: Path
) -> None:
    """What it has called is not executed again."""
    before = transformations(dummy)
    tf, guest, _ = borrowed(group, tmp_path)
    (tmp_path / "answer-caller").touch()
    assert tf.run() == alone(7)
    assert len(starts(tmp_path, "caller")) == 2
    assert len(starts(tmp_path, "nested-caller")) == 1
    after = transformations(dummy)
    assert after["begun_again_total"] == before["begun_again_total"] + 1
    assert after["resumes"]["waited"] == before["resumes"]["waited"] + 1
    assert after["resumes"]["seconds"] >= before["resumes"]["seconds"] + PATIENCE
    (tmp_path / "go").touch()
    assert guest.run() == "guest"
    assert len(starts(tmp_path, "guest")) == 1


def test_cancelling_one_that_waits_ends_no_other(
    group: Processes, tmp_path: Path
) -> None:
    """Its process ends when the other one has ended."""
    tf, guest, pid = borrowed(group, tmp_path)
    tf.cancel()
    wait_until(
        lambda: all(len(p.jobs) < 2 for p in group.all()), "it is given up", SOON
    )
    (tmp_path / "go").touch()
    assert guest.run() == "guest"
    assert len(starts(tmp_path, "guest")) == 1
    wait_until(lambda: pid not in {p.pid for p in group.all()}, "it ends", SOON)


def test_cancelling_the_guest_lets_the_other_one_begin_again(
    group: Processes, tmp_path: Path
) -> None:
    """The process is stopped; what the other one has called goes on."""
    tf, guest, pid = borrowed(group, tmp_path)
    guest.cancel()
    running(tmp_path, "caller", times=2)
    (tmp_path / "answer-caller").touch()
    assert tf.run() == alone(7)
    assert len(starts(tmp_path, "nested-caller")) == 1
    assert pid not in {p.pid for p in group.all()}

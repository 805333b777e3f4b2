"""Workers at the end of their lifetime finish what they run, in real clusters."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from distributed import Client
from helpers.stack import RealStack
from helpers.wrapper_process import WrapperProcess

pytestmark = pytest.mark.cluster

DRIVER = """
import json, sys
import seamless, seamless.config
from seamless.transformer import delayed, parallel

def outer(i, leaves, pause, log):
    from seamless.transformer import delayed

    with open(log, "a") as file:
        file.write(f"outer {i}\\n")

    @delayed
    def leaf(i, k, pause, log):
        import time

        with open(log, "a") as file:
            file.write(f"leaf {i} {k}\\n")
        time.sleep(pause)
        return 10 * i + k

    nodes = [leaf(i, k, pause, log) for k in range(leaves)]
    for node in nodes:
        node.start()
    return sum(node.run() for node in nodes)

outers, leaves = map(int, sys.argv[1:3])
pause, log = float(sys.argv[3]), sys.argv[4]
seamless.config.init(workdir=".")
nodes = [delayed(outer)(i, leaves, pause, log) for i in range(outers)]
for _finished in parallel(nodes):
    continue
errors = [node.exception for node in nodes if node.exception is not None]
values = [node.run() for node in nodes if node.exception is None]
seamless.close()
print(json.dumps({"values": values, "errors": errors}))
"""


def log_and_sleep(log: str, number: int, seconds: float) -> int:
    with open(log, "a") as file:
        file.write(f"{number}\n")
    time.sleep(seconds)
    return number


def replaced(log: str) -> int:
    """How many workers left, as the wrapper tells."""
    return log.count(") leaves; ")


def test_nested_work_survives_the_end_of_its_worker() -> None:
    """All that was started ends where it is, or is done by the next worker."""
    outers, leaves = 8, 3
    queue = {"maximum_jobs": 2, "lifetime": "3s", "lifetime_stagger": 0}
    with RealStack(queue=queue) as stack:
        script = stack.project_dir / "lifetime.py"
        script.write_text(DRIVER)
        log = stack.home / "executions"
        result = stack.run(script, outers, leaves, 1.0, log, timeout=120).value
        executions = log.read_text().splitlines()
        logs = stack.logs(lines=10_000)
    below = leaves * (leaves - 1) // 2
    expected = [10 * i * leaves + below for i in range(outers)]
    assert result == {"values": expected, "errors": []}
    assert len(executions) == len(set(executions)) == outers * (1 + leaves)
    assert replaced(logs) >= 1


def test_plain_tasks_survive_the_end_of_their_worker(tmp_path: Path) -> None:
    """The same without Seamless: each task is executed once."""
    parameters = {
        "pure_dask": True,
        "worker_threads": 2,
        "lifetime": "2s",
        "lifetime_stagger": 0,
        "maximum_jobs": 2,
    }
    log = tmp_path / "executions"
    numbers = list(range(8))
    with WrapperProcess(tmp_path, parameters) as wrapper:
        wrapper.until_running()
        with Client(wrapper.address(), set_as_default=False) as client:
            futures = [
                client.submit(log_and_sleep, str(log), number, 0.8, pure=False)
                for number in numbers
            ]
            assert client.gather(futures) == numbers
        assert replaced(wrapper.output()) >= 1
    assert sorted(map(json.loads, log.read_text().split())) == numbers

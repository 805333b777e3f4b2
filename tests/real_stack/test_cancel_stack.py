"""Cancellation on the real stack: by the command, and what is stored afterwards."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from helpers.polling import wait_until
from helpers.stack import RealStack, call_scheduler

pytestmark = pytest.mark.cluster

DRIVER = """
import json
import sys

import seamless
import seamless.config
from seamless.transformer import delayed

seamless.config.init(workdir=".")


def outer(path):
    import os

    from seamless.transformer import direct

    def inner(path):
        import os
        import time

        with open(path + "/inner", "a") as file:
            file.write(f"{os.getpid()}\\n")
        while not os.path.exists(path + "/go"):
            time.sleep(0.02)
        return 20

    with open(path + "/outer", "a") as file:
        file.write(f"{os.getpid()}\\n")
    return direct(inner)(path) + 1


tf = delayed(outer)(sys.argv[1])
checksum = tf.construct().hex()
with open(sys.argv[1] + "/checksum", "w") as file:
    file.write(checksum)
if sys.argv[2:]:
    tf.transformation_checksum.resolve().write()
    seamless.close()
    print(json.dumps(checksum))
    sys.exit()
result = tf.compute()
value = None if result is None else tf.run()
seamless.close()
print(json.dumps({"value": value, "exception": str(tf.exception)}))
"""


def command(stack: RealStack, name: str, *arguments: str) -> subprocess.Popen[str]:
    """Start one of the commands of seamless-transformer in the project."""
    return subprocess.Popen(
        [str(Path(sys.executable).parent / name), *arguments],
        cwd=stack.project_dir,
        env=stack.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_seamless_cancel(real_stack: RealStack, tmp_path: Path) -> None:
    """All processes end, the driver is told, nothing is stored; then it runs anew."""
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    begin = time.monotonic()
    driver = real_stack.start(script, tmp_path)
    pids = [
        int(
            wait_until(
                lambda f=tmp_path / name: f.exists() and f.read_text(), f"{name} runs"
            )
        )
        for name in ("outer", "inner")
    ]
    checksum = (tmp_path / "checksum").read_text()
    cancelled = command(real_stack, "seamless-cancel", checksum).communicate(timeout=60)
    assert "dask: canceled" in cancelled[0], cancelled
    outcome = real_stack.finish(driver, begin=begin, timeout=60)
    assert outcome.value["value"] is None
    assert "cancel" in outcome.value["exception"].lower()
    for pid in pids:
        wait_until(lambda pid=pid: not psutil.pid_exists(pid), "its process ends")
    (tmp_path / "go").touch()  # had one been left over, it would end now
    assert not real_stack.stored().results

    again = real_stack.run(script, tmp_path, timeout=60)
    assert again.value["value"] == 21
    assert len(real_stack.stored().results) == 2


def transformations(stack: RealStack) -> list[str]:
    """Return the checksums of what the cluster has to do."""
    busy = call_scheduler(
        stack.scheduler_address(), lambda scheduler: scheduler.processing(workers=None)
    )
    keys = [key for each in busy.values() for key in each]
    return [key.split("-")[1] for key in keys if key.startswith("base")]


@pytest.mark.parametrize("name", ["seamless-run", "seamless-run-transformation"])
def test_commands_say_that_they_were_canceled(
    real_stack: RealStack, tmp_path: Path, name: str
) -> None:
    """On stderr, without a traceback; the exit code says so, too."""
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    if name == "seamless-run":
        code = f"echo $$ > {tmp_path}/outer; sleep 1000"
        arguments = ["-q", "--yes", "-c", code]
    else:
        prepared = real_stack.run(script, tmp_path, "construct", timeout=60)
        arguments = [prepared.value]
    running = command(real_stack, name, *arguments)
    wait_until((tmp_path / "outer").exists, "it runs")
    checksums = wait_until(lambda: transformations(real_stack), "it is a task")
    outermost = checksums[0] if name == "seamless-run" else arguments[0]
    stdout, _ = command(real_stack, "seamless-cancel", outermost).communicate(
        timeout=60
    )
    assert "dask: canceled" in stdout
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "Transformation was canceled" in stderr
    assert "Traceback" not in stderr
    assert "Task was destroyed" not in stderr

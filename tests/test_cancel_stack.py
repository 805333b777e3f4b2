"""Cancellation on the real stack: by the command, and what is stored afterwards."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from polling import wait_until
from stack import RealStack

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
result = tf.compute()
value = None if result is None else tf.run()
seamless.close()
print(json.dumps({"value": value, "exception": str(tf.exception)}))
"""


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
    command = [str(Path(sys.executable).parent / "seamless-cancel"), checksum]
    cancelled = subprocess.run(
        command,
        cwd=real_stack.project_dir,
        env=real_stack.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "dask: canceled" in cancelled.stdout, cancelled
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

"""CPU and memory of a worker with the processes below it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

from helpers.polling import wait_until

from scheduler_ext import reports
from seamless_dask.worker.usage import TreeUsage

#: Uses CPU time until it is told to end; a grandchild of this process does the work
BUSY = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
content = bytearray(64 << 20)
for n in range(0, len(content), 4096): content[n] = 1
print("ready", flush=True)
sys.stdin.read()
child.kill(); child.wait()
"""


def test_a_loop_in_a_process_below_is_seen() -> None:
    """Dask's own figures would show nothing of it."""
    usage = TreeUsage()
    usage.measure(time.monotonic())
    assert usage.cpu is None, "it takes two measurements"
    before = usage.memory
    assert before is not None and before > 0
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        usage.measure(time.monotonic())

        def busy() -> bool:
            usage.measure(time.monotonic())
            return usage.cpu is not None and usage.cpu > 1

        wait_until(busy, "the loop")
        assert usage.memory is not None and usage.memory > before + (48 << 20)
    finally:
        process.communicate()
    usage.measure(time.monotonic())
    assert usage.cpu is not None and usage.cpu >= 0, "its time is not lost"


def test_it_measures_in_a_thread_and_not_too_often() -> None:
    """A heartbeat does not wait: it gets what is known."""

    async def beats() -> list[reports.WorkerFigures]:
        usage = TreeUsage()
        parse = reports.parse_figures
        first = parse({reports.METRICS: usage.figures(3)})
        measuring = usage._measuring
        assert measuring is not None
        await measuring
        second = parse({reports.METRICS: usage.figures(4)})
        assert usage._measuring is measuring, "a moment later there is no other one"
        return [first, second]

    first, second = asyncio.run(beats())
    assert first == reports.WorkerFigures(3, None, None)
    assert second.processes == 4 and second.cpu is None
    assert second.memory is not None and second.memory > 0

"""Dask workers that compute nothing: ``python light_workers.py SCHEDULER NUMBER PREFIX``.

Each is a real connection to the scheduler with real messages: it registers, offers slots,
sends heartbeats, and says of each task that it was computed, at once or after some seconds.
Some tasks ask for a lease first, as a call does, and give it back. A thousand of them fit into
one process.

Tasks wait until the command ``go``. Commands on the standard input, one a line: ``go``,
``start N``, ``stop N`` (connections are cut), ``leases`` (prints the seconds from request to
grant since the last time, as JSON).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(_HERE.parent))

from distributed.batched import BatchedSend  # noqa: E402
from distributed.comm import connect  # noqa: E402
from distributed.core import rpc  # noqa: E402
from distributed.versions import get_versions  # noqa: E402

from scheduler_ext import messages  # noqa: E402
from scheduler_ext.task_keys import (  # noqa: E402
    NESTED_RESOURCE,
    NESTED_SUPPLY,
    TOP_LEVEL_RESOURCE,
)

#: Seamless processes of each, and slots of each of these
PROCESSES, THROTTLE = 4, 3
#: one of so many tasks asks for a lease
LEASE_EVERY = 10

METRICS: dict[str, Any] = {
    "cpu": 50.0,
    "memory": 2**30,
    "time": 0.0,
    "task_counts": {},
    "bandwidth": {"total": 1e8, "workers": {}, "types": {}},
    "digests_total_since_heartbeat": {},
    "managed_bytes": 0,
    "spilled_bytes": {"memory": 0, "disk": 0},
    "transfer": {
        "incoming_bytes": 0,
        "incoming_count": 0,
        "incoming_count_total": 0,
        "outgoing_bytes": 0,
        "outgoing_count": 0,
        "outgoing_count_total": 0,
    },
    "event_loop_interval": 0.02,
    "host_net_io": {"read_bps": 0.0, "write_bps": 0.0},
    "host_disk_io": {"read_bps": 0.0, "write_bps": 0.0},
    "num_fds": 20,
    "seamless": {"processes": PROCESSES, "cpu": 350.0, "memory": 2**32},
}


class LightWorker:
    """One worker."""

    def __init__(self, crowd: Crowd, number: int) -> None:
        self._crowd = crowd
        self.address = f"tcp://10.{crowd.prefix}.{number // 250}.{number % 250}:40000"
        self._stream = BatchedSend(interval="5ms")
        self._asked: dict[str, tuple[float, Any]] = {}
        self._waiting: list[dict[str, Any]] = []
        self._number = 0

    async def run(self) -> None:
        """Work until the connection ends."""
        crowd = self._crowd
        comm = await connect(crowd.scheduler)
        units = float(PROCESSES * THROTTLE)
        resources = {TOP_LEVEL_RESOURCE: units, NESTED_RESOURCE: NESTED_SUPPLY}
        offer = messages.registration(
            self.address,
            processes=PROCESSES,
            throttle=THROTTLE,
            units=None,
            resources=resources,
        )
        await getattr(crowd.rpc, messages.OP_REGISTER_WORKER)(**offer)
        await comm.write(
            {
                "op": "register-worker",
                "reply": False,
                "address": self.address,
                "status": "running",
                "nthreads": PROCESSES * THROTTLE,
                "name": self.address,
                "now": time.time(),
                "resources": resources,
                "resolve_address": False,
                "memory_limit": 2**35,
                "local_directory": "/tmp",
                "services": {},
                "nanny": None,
                "pid": 0,
                "versions": crowd.versions,
                "metrics": METRICS,
                "extra": {},
                "stimulus_id": f"light-{time.time()}",
                "server_id": self.address,
            }
        )
        answer = await comm.read()
        if answer["status"] != "OK":
            raise RuntimeError(answer)
        self._comm = comm
        self._stream.start(comm)
        beating = asyncio.create_task(self._beat(answer["heartbeat-interval"]))
        try:
            while True:
                for message in await comm.read():
                    self._hear(message)
        except OSError:
            return
        finally:
            beating.cancel()
            comm.abort()

    def cut(self) -> None:
        """End the connection, as if the machine had gone."""
        self._comm.abort()

    async def _beat(self, interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            answer = await self._crowd.rpc.heartbeat_worker(
                address=self.address,
                resolve_address=False,
                now=time.time(),
                metrics=METRICS,
                executing={},
                extensions={},
            )
            interval = answer.get("heartbeat-interval", interval)

    def _hear(self, message: dict[str, Any]) -> None:
        op = message["op"]
        if op == "compute-task":
            self._begin(message)
        elif op == messages.PUSH_DECISIONS:
            for lease_id in message["granted"]:
                begin, task = self._asked.pop(lease_id)
                self._crowd.latencies.append(time.monotonic() - begin)
                self._stream.send(messages.release(self.address, [lease_id]))
                self._later(task)

    def begin(self) -> None:
        """Begin what has arrived before."""
        waiting, self._waiting = self._waiting, []
        for task in waiting:
            self._begin(task)

    def _begin(self, task: dict[str, Any]) -> None:
        if not self._crowd.going:
            self._waiting.append(task)
            return
        self._number += 1
        if self._number % LEASE_EVERY:
            self._later(task)
            return
        lease_id = f"{self.address}-{self._number}"
        self._asked[lease_id] = time.monotonic(), task
        lease = messages.lease_request(lease_id, owner=task["key"], depth=1)
        self._stream.send(messages.request(lease))

    def _later(self, task: dict[str, Any]) -> None:
        if self._crowd.seconds:
            loop = asyncio.get_running_loop()
            loop.call_later(self._crowd.seconds, self._end, task)
        else:
            self._end(task)

    def _end(self, task: dict[str, Any]) -> None:
        now = time.time()
        key = task["key"]
        with contextlib.suppress(OSError):  # cut meanwhile
            self._stream.send(
                messages.stores(key),
                {
                    "op": "task-finished",
                    "status": "OK",
                    "key": key,
                    "run_id": task["run_id"],
                    "nbytes": 500,
                    "type": b"",
                    "typename": "dict",
                    "metadata": {},
                    "thread": 0,
                    "startstops": [{"action": "compute", "start": now, "stop": now}],
                    "stimulus_id": f"task-finished-{now}",
                },
            )


class Crowd:
    """The workers of this process."""

    def __init__(self, scheduler: str, prefix: int, seconds: float) -> None:
        self.scheduler = scheduler
        self.prefix = prefix
        #: whether tasks begin, and the seconds that each takes
        self.going = False
        self.seconds = seconds
        self.rpc = rpc(scheduler)
        self.versions = get_versions()
        self.latencies: deque[float] = deque(maxlen=100_000)
        self._workers: deque[LightWorker] = deque()
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, number: int) -> None:
        """Let so many workers connect."""
        for _ in range(number):
            self._number += 1
            worker = LightWorker(self, self._number)
            self._workers.append(worker)
            task = asyncio.create_task(worker.run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def go(self) -> None:
        """Let the tasks begin."""
        self.going = True
        for worker in self._workers:
            worker.begin()

    def stop(self, number: int) -> None:
        """Cut the connections of those that have been there for the longest."""
        for _ in range(number):
            self._workers.popleft().cut()

    async def obey(self) -> None:
        """Carry out commands until the standard input is closed."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        while line := await reader.readline():
            command, *values = line.decode().split()
            if command == "leases":
                print(json.dumps(list(self.latencies)), flush=True)
                self.latencies.clear()
            else:
                getattr(self, command)(*map(int, values))


async def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scheduler")
    parser.add_argument("number", type=int)
    parser.add_argument("prefix", type=int, help="second number of their addresses")
    parser.add_argument("--seconds", type=float, default=0.0, help="for each task")
    options = parser.parse_args()
    crowd = Crowd(options.scheduler, options.prefix, options.seconds)
    crowd.start(options.number)
    await crowd.obey()


if __name__ == "__main__":
    asyncio.run(main())

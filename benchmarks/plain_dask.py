"""Driver script: trees of the same shapes as plain Dask tasks, without Seamless.

``python plain_dask.py SCHEDULER NAME [JSON arguments]``

A task that calls tasks does so with ``worker_client``. Nothing is stored and no value
has a checksum: this is what Dask alone does with that many tasks.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distributed import Client, worker_client

sys.path.insert(0, str(Path(__file__).resolve().parent))

from usage import measured


def _square(i: int) -> int:
    return i * i


def independent(client: Client, n: int = 300) -> Any:
    return client.gather(client.map(_square, range(n), pure=False)), n


def one_at_a_time(client: Client, n: int = 50) -> Any:
    latencies = []
    values = []
    for i in range(n):
        begin = time.perf_counter()
        values.append(client.submit(_square, i, pure=False).result())
        latencies.append(time.perf_counter() - begin)
    return values, n, latencies


def _sum_of_calls(client: Client, function: Callable[..., int], count: int) -> int:
    """One call after the other."""
    return sum(client.submit(function, i, pure=False).result() for i in range(count))


def _middle(j: int) -> int:
    with worker_client() as client:
        return _sum_of_calls(client, _square, 2)


def _outer(i: int) -> int:
    with worker_client() as client:
        return _sum_of_calls(client, _middle, 2)


def tree(client: Client, n: int = 40) -> Any:
    return client.gather(client.map(_outer, range(n), pure=False)), 7 * n


def _fan_out(i: int, leaves: int) -> int:
    with worker_client() as client:
        return sum(client.gather(client.map(_square, range(leaves), pure=False)))


def fan(client: Client, n: int = 6, leaves: int = 20) -> Any:
    futures = [client.submit(_fan_out, i, leaves, pure=False) for i in range(n)]
    return client.gather(futures), n * (1 + leaves)


def _level(i: int, below: int) -> int:
    if below == 0:
        return i
    with worker_client() as client:
        return 1 + client.submit(_level, i, below - 1, pure=False).result()


def recursion(client: Client, n: int = 40, depth: int = 3) -> Any:
    futures = [client.submit(_level, i, depth - 1, pure=False) for i in range(n)]
    return client.gather(futures), n * depth


def _step(i: int, value: int) -> int:
    return (5 * value + i) % 1_000_003


def chain(client: Client, n: int = 50) -> Any:
    value: Any = 1
    for i in range(n):
        value = client.submit(_step, i, value, pure=False)
    return value.result(), n


def _produce(i: int, size: int) -> bytes:
    return random.Random(i).randbytes(size)


def _consume(blob: bytes) -> list[int]:
    return [len(blob), zlib.crc32(blob)]


def big(client: Client, n: int = 10, megabytes: int = 10) -> Any:
    size = megabytes * 1_000_000
    blobs = [client.submit(_produce, i, size, pure=False) for i in range(n)]
    return client.gather(client.map(_consume, blobs, pure=False)), 2 * n


def _sleep(seconds: float, k: int) -> int:
    time.sleep(seconds)
    return k


def _sleep_outer(i: int, leaves: int, seconds: float) -> int:
    with worker_client() as client:
        futures = [client.submit(_sleep, seconds, k, pure=False) for k in range(leaves)]
        return sum(client.gather(futures))


def sleepers(
    client: Client, n: int = 50, leaves: int = 4, leaf_seconds: float = 0.5
) -> Any:
    futures = [
        client.submit(_sleep_outer, i, leaves, leaf_seconds, pure=False)
        for i in range(n)
    ]
    return client.gather(futures), n * (1 + leaves)


WORKLOADS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        independent,
        one_at_a_time,
        tree,
        fan,
        recursion,
        chain,
        big,
        sleepers,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("scheduler")
    parser.add_argument("name", choices=sorted(WORKLOADS))
    parser.add_argument("arguments", nargs="?", default="{}", type=json.loads)
    args = parser.parse_args()

    with Client(args.scheduler, set_as_default=False) as client:
        independent(client, 12)

        def run() -> dict[str, Any]:
            begin = time.perf_counter()
            _values, distinct, *rest = WORKLOADS[args.name](client, **args.arguments)
            seconds = time.perf_counter() - begin
            outcome = {"values_ok": True, "distinct": distinct, "seconds": seconds}
            if rest:
                outcome["latencies"] = rest[0]
            return outcome

        print(json.dumps(measured(run)))


if __name__ == "__main__":
    main()

"""Driver script of ``far.py``: ``python far_driver.py SALT ALONE TOGETHER``.

Prints one line of JSON: seconds for the start, for each of ALONE transformations one after
the other, in several kinds, and for TOGETHER by ``parallel``, and whether all values of these
are right.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

#: characters of a large input
INPUT = 100_000


def double(salt, i, seconds, file):
    import os
    import time

    if file:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, f"{i}\n".encode())
        os.close(descriptor)
    time.sleep(seconds)
    return 2 * i


def length(salt, a, b, c, d, e, f, g, h):
    return sum(map(len, (a, b, c, d, e, f, g, h)))


def repeated(salt, i):
    return f"{salt} {i} " * 10_000


def connect() -> float:
    """Connect to the same cluster once more; return the seconds that it took."""
    import seamless_config.select
    from distributed import Client
    from seamless_config import collect_remote_clients

    from seamless_dask.client import SeamlessDaskClient
    from seamless_dask.transformer_client import get_seamless_dask_client

    present: Any = get_seamless_dask_client()
    address = present.client.scheduler.address
    services = collect_remote_clients(seamless_config.select.get_current()[0])
    begin = time.monotonic()
    dask = Client(address, timeout="10s", set_as_default=False)
    SeamlessDaskClient(
        dask,
        worker_plugin_workers=present.worker_plugin_workers,
        remote_clients=services,
    )
    seconds = time.monotonic() - begin
    dask.close()
    return seconds


def one_by_one(salt: str, number: int) -> dict[str, float]:
    """Return the median seconds of transformations that are run one after the other."""
    from seamless.transformer import delayed

    make = delayed(double)
    measure = delayed(length)
    repeat = delayed(repeated)

    def texts(i: int) -> list[str]:
        return [f"{salt} {i} {n} ".ljust(INPUT, ".") for n in range(8)]

    cases: dict[str, tuple[Callable[[int], Any], Callable[[int], Any]]] = {
        "alone": (lambda i: make(salt, i, 0.0, ""), lambda i: 2 * i),
        "known": (lambda i: make(salt, i, 0.0, ""), lambda i: 2 * i),
        "inputs": (lambda i: measure(salt, *texts(i)), lambda i: 8 * INPUT),
        "result": (lambda i: repeat(salt, i), lambda i: f"{salt} {i} " * 10_000),
    }
    found = {}
    for name, (made_by, value) in cases.items():
        seconds = []
        for i in range(number):
            transformation = made_by(i)
            begin = time.monotonic()
            assert transformation.run() == value(i)
            seconds.append(time.monotonic() - begin)
        found[name] = statistics.median(seconds)
    return found


def drive(
    salt: str, alone: int, together: int, work: float, file: str
) -> dict[str, Any]:
    """Compute; return the times in seconds."""
    import seamless
    import seamless.config
    from seamless.transformer import delayed, parallel
    from seamless_remote import buffer_remote

    begin = time.monotonic()
    seamless.config.init(workdir=".")
    found: dict[str, Any] = {"init": time.monotonic() - begin}
    # A driver script that is far away does not see the folder of the hashserver.
    buffer_remote._read_folders_clients.clear()
    found["connect"] = connect()
    make = delayed(double)
    right = make(salt, -1, 0.0, "").run() == -2
    if alone:
        found |= one_by_one(salt, alone)
    print("begun", flush=True)
    made = [make(salt, 1000 + i, work, file) for i in range(together)]
    begin = time.monotonic()
    for _finished in parallel(made):
        continue
    found["together"] = time.monotonic() - begin
    right &= [each.run() for each in made] == [2 * (1000 + i) for i in range(together)]
    begin = time.monotonic()
    seamless.close()
    found["close"] = time.monotonic() - begin
    found["right"] = bool(right)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("salt")
    parser.add_argument("alone", type=int)
    parser.add_argument("together", type=int)
    parser.add_argument("--work", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--file", default="", help="gets a line for each execution")
    options = parser.parse_args()
    print(json.dumps(drive(**vars(options))))

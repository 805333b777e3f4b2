"""Driver script of ``far.py``: ``python far_driver.py SALT ALONE TOGETHER [--client]``.

Prints one line of JSON: seconds for the start, for each of ALONE transformations one after
the other, and for TOGETHER by ``parallel``; whether all values are right, and how often a
function was called that should be called once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any


def double(salt, i, seconds):
    import time

    time.sleep(seconds)
    return 2 * i


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


def drive(salt: str, alone: int, together: int, work: float) -> dict[str, Any]:
    """Compute; return the times in seconds."""
    import seamless
    import seamless.config
    from seamless.transformer import delayed, parallel

    begin = time.monotonic()
    seamless.config.init(workdir=".")
    found: dict[str, Any] = {"init": time.monotonic() - begin}
    found["connect"] = connect()
    make = delayed(double)
    right = make(salt, -1, 0.0).run() == -2
    seconds = []
    for i in range(alone):
        begin = time.monotonic()
        right &= make(salt, i, 0.0).run() == 2 * i
        seconds.append(time.monotonic() - begin)
    if seconds:
        found["alone"] = statistics.median(seconds)
        begin = time.monotonic()
        right &= make(salt, 0, 0.0).run() == 0
        found["known"] = time.monotonic() - begin
    made = [make(salt, 1000 + i, work) for i in range(together)]
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
    options = parser.parse_args()
    print(json.dumps(drive(options.salt, options.alone, options.together, options.work)))

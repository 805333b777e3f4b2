"""Driver script: one workload of ``tests/drivers/workloads.py``, measured.

``python driver.py NAME [JSON arguments] --salt TEXT (--pool N | --database FILE)``

Configures Seamless as a user's script in the current folder would, warms up with a few
other transformations, and prints the outcome as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE), str(_HERE.parent / "tests")]

from usage import measured  # noqa: E402

#: seconds that workers may take to start
TIMEOUT = 60.0


def await_workers(number: int, salt: str) -> None:
    """Wait until the cluster has so many workers; more than one come only for work."""
    from drivers import workloads

    from seamless_dask.transformer_client import get_seamless_dask_client

    client = get_seamless_dask_client().client
    client.wait_for_workers(1, timeout=TIMEOUT)
    deadline = time.monotonic() + TIMEOUT
    round_ = 0
    while len(client.scheduler_info(n_workers=-1)["workers"]) < number:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{number} workers within {TIMEOUT:g} s")
        round_ += 1
        workloads.naps(f"{salt}/workers {round_}", n=40 * number, nap_seconds=0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name")
    parser.add_argument("arguments", nargs="?", default="{}", type=json.loads)
    parser.add_argument("--salt", required=True)
    parser.add_argument("--pool", type=int, metavar="N", help="local processes only")
    parser.add_argument("--database", type=Path, help="where results are stored")
    parser.add_argument("--warm-up", type=int, default=12, metavar="N")
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="Dask workers to wait for"
    )
    args = parser.parse_args()

    import seamless
    import seamless.config
    import seamless.transformer
    from drivers import workloads

    if args.pool:
        seamless.config.set_nparallel(50)
        seamless.transformer.spawn(args.pool)
    else:
        seamless.config.init(workdir=".")
    if args.warm_up:
        workloads.independent(f"{args.salt}/warm-up", n=args.warm_up)
    if args.workers:
        await_workers(args.workers, args.salt)
    outcome = measured(
        lambda: workloads.WORKLOADS[args.name](args.salt, **args.arguments),
        database=args.database,
        close=seamless.close,
    )
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()

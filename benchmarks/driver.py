"""Driver script: one workload of ``tests/workloads.py``, measured.

``python driver.py NAME [JSON arguments] --salt TEXT (--pool N | --database FILE)``

Configures Seamless as a user's script in the current folder would, warms up with a few
other transformations, and prints the outcome as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE), str(_HERE.parent / "tests")]

from usage import measured  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name")
    parser.add_argument("arguments", nargs="?", default="{}", type=json.loads)
    parser.add_argument("--salt", required=True)
    parser.add_argument("--pool", type=int, metavar="N", help="local processes only")
    parser.add_argument("--database", type=Path, help="where results are stored")
    parser.add_argument("--warm-up", type=int, default=12, metavar="N")
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
    workloads.independent(f"{args.salt}/warm-up", n=args.warm_up)
    outcome = measured(
        lambda: workloads.WORKLOADS[args.name](args.salt, **args.arguments),
        database=args.database,
        close=seamless.close,
    )
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()

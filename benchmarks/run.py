"""Nested throughput, side by side: ``make bench`` or ``python benchmarks/run.py``.

Runs the same workloads in turn on this package, on seamless-jobserver, on the local
processes of seamless-transformer and on plain Dask, all on this machine. Writes
``results.json`` (every run, with machine and versions), ``results.txt`` (the tables)
and ``results.html`` (plots).
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(_HERE))

import machine  # noqa: E402
import page  # noqa: E402
import report  # noqa: E402
from backends import Backend, PlainDask, Pool, Stack  # noqa: E402
from suite import FULL, QUICK, TINY, measure  # noqa: E402

#: {size: (workloads, repeats, seconds that a run may take)}
SIZES = {
    "full": (FULL, 5, 60.0),
    "quick": (QUICK, 2, 10.0),
    "tiny": (TINY, 1, 30.0),
}
OURS = "seamless-dask"


def backends_of(names: Sequence[str], pythons: Sequence[str]) -> list[Backend]:
    """The backends of these names, and one for each other environment."""
    here = sys.executable
    known: dict[str, Backend] = {
        "ours": Stack(OURS, "daskserver", here),
        "jobserver": Stack(report.JOBSERVER, "jobserver", here),
        "pool": Pool(report.POOL, here),
        "dask": PlainDask(python=here),
    }
    chosen = [known[name] for name in names]
    for python in pythons:
        other = Stack("", "daskserver", python)
        versions = {name.lower(): text for name, text in other.versions().items()}
        version = versions.get("seamless-dask") or versions.get("seamless_dask", "?")
        other.name = f"seamless-dask {version} in {Path(python).parent.parent.name}"
        chosen.append(other)
    return chosen


def executable(text: str) -> str:
    """An interpreter that exists, as an absolute path."""
    found = shutil.which(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be executed")
    return str(Path(found).absolute())


def _end_in_order() -> None:
    """Let SIGINT and SIGTERM stop the services as well, also in the background.

    A shell makes background jobs ignore SIGINT, and SIGTERM would end this process
    at once and leave what it has started.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="size", action="store_const", const="quick")
    size.add_argument("--tiny", dest="size", action="store_const", const="tiny")
    parser.set_defaults(size="full")
    parser.add_argument("--repeats", type=int, help="runs of each workload")
    parser.add_argument("--timeout", type=float, help="seconds for one run")
    parser.add_argument(
        "--on",
        nargs="+",
        choices=("ours", "jobserver", "pool", "dask"),
        default=("ours", "jobserver", "pool", "dask"),
    )
    parser.add_argument(
        "--only", nargs="+", metavar="FUNCTION", help="for example: tree fan"
    )
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        type=executable,
        help="an interpreter of another environment with a seamless_dask",
    )
    parser.add_argument("--output", type=Path, default=_HERE / "results")
    parser.add_argument("--markdown", action="store_true", help="tables for a page")
    args = parser.parse_args(arguments)

    _end_in_order()
    workloads, repeats, timeout = SIZES[args.size]
    if args.only:
        workloads = tuple(one for one in workloads if one.function in args.only)
    begin = time.monotonic()
    about = machine.describe()
    chosen = backends_of(args.on, args.python)

    def tell(text: str) -> None:
        print(f"{time.monotonic() - begin:6.0f} s  {text}", file=sys.stderr, flush=True)

    runs = measure(
        chosen,
        workloads,
        repeats=args.repeats or repeats,
        timeout=args.timeout or timeout,
        salt=uuid.uuid4().hex[:8],
        tell=tell,
    )
    lines = report.summarise(runs)
    words = machine.in_words(about)
    text = f"{words}\n\n{report.tables(lines, markdown=args.markdown)}\n"
    print(text)
    results = {
        "machine": about,
        "versions": {backend.name: backend.versions() for backend in chosen},
        "seconds": time.monotonic() - begin,
        "summary": report.as_json(lines),
        "runs": runs,
    }
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "results.json").write_text(json.dumps(results, indent=1))
    (args.output / "results.txt").write_text(text)
    page.write(args.output / "results.html", lines, runs, words)
    print(f"{args.output}/results.html, .json and .txt")
    ours = [run for run in runs if run["backend"] == OURS]
    return 1 if any(run["problem"] for run in ours) else 0


if __name__ == "__main__":
    sys.exit(main())

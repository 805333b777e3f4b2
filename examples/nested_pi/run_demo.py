"""Run the nested example on a real stack, twice, and leave nothing behind.

This is ``make demo``: a temporary home directory, hashserver, database and daskserver
started by seamless-config, the example in one process, the same again in another.
The exit code is 0 only if every transformation was stored, the second run executed
none, and no process is left.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from local_stack import DriverResult, LocalStack, StackError, Stored  # noqa: E402

#: variables that say what the example shows while it runs: docs/output.md
SHOWN = ("SEAMLESS_DASK_PROGRESS", "SEAMLESS_DASK_STREAMING")


def run_example(
    stack: LocalStack, timeout: float
) -> tuple[DriverResult, Stored, Stored]:
    """Run the example once; also return what was stored before and after."""
    before = stack.stored()
    result = stack.run(
        stack.project_dir / "nested_pi.py",
        "--json",
        timeout=timeout,
        show_stderr=True,
    )
    return result, before, stack.stored()


def report(title: str, result: DriverResult, before: Stored, after: Stored) -> int:
    """Print the line with the numbers; return how many transformations were run."""
    total = result.value["transformations"]
    run = sum(
        after.records.get(checksum) != before.records.get(checksum)
        for checksum in after.records
    )
    print(
        f"{title}: {run} transformations run, {len(after.results)} stored, "
        f"{max(0, total - run)} cached, {result.value['seconds']:.2f} s "
        f"(whole process {result.seconds:.1f} s)",
        flush=True,
    )
    return run


def demo(stack: LocalStack, timeout: float) -> list[str]:
    """Run the example twice and return what is wrong with the outcome."""
    shutil.copy(HERE / "nested_pi.py", stack.project_dir)
    problems = []

    print("First run: starts the services, computes everything.", flush=True)
    first, before, after = run_example(stack, timeout)
    lines = first.stdout.splitlines()[:-1]
    print("\n".join(lines))
    total = first.value["transformations"]
    report("first run ", first, before, after)
    if len(after.results) != total:
        problems.append(f"{len(after.results)} of {total} transformations are stored")

    print("\nSecond run: a new process, everything is stored already.", flush=True)
    second, before, after = run_example(stack, timeout)
    if second.stdout.splitlines()[:-1] != lines:
        problems.append("the second run has other results")
    if report("second run", second, before, after):
        problems.append("the second run executed transformations")
    if second.value["seconds"] > first.value["seconds"] / 2:
        problems.append("the second run is not much faster than the first")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--remote", choices=["daskserver", "jobserver"], default="daskserver"
    )
    parser.add_argument("--workers", type=int, default=2, help="Seamless processes")
    parser.add_argument("--timeout", type=float, default=180, help="seconds per run")
    args = parser.parse_args()

    stack = LocalStack(
        remote=args.remote,
        workers=args.workers,
        project="nested-pi",
        environment={name: os.environ[name] for name in SHOWN if name in os.environ},
    )
    try:
        with stack:
            problems = demo(stack, args.timeout)
            print("\nStopping:")
            for stop in stack.stop():
                how = f"by {stop.by}" if stop.by else "had already ended"
                print(f"  {stop.service} ({how}, {stop.seconds:.1f} s)")
                if stop.by == "SIGKILL":
                    problems.append(f"{stop.service} had to be killed")
            left = stack.end_leftovers()
            problems += [f"left behind: {process}" for process in left]
            if not left:
                print("  no process is left")
    except StackError as exc:
        problems = [str(exc)]
    for problem in problems:
        print(f"FAILED: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

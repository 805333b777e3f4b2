"""A driver script that is far away from its cluster: ``python benchmarks/far.py [--quick]``.

All services run here; driver scripts run in a network namespace at the other end of a slow
link (``far_link.py``). Printed are the round trips of the start of a driver script and of a
transformation, the rate of ``parallel`` near, far, and with lost packets, and what a link
costs that is away for a while. Needs root and ``/dev/net/tun``; says so where they are missing
(exit code 2). Exit code 1 if an outage has cost any work.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import yaml

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE.parent / "examples"), str(_HERE)]

from far_link import NEAR, Link, Missing  # noqa: E402
from local_stack import LocalStack  # noqa: E402

DRIVER = _HERE / "far_driver.py"
#: seconds one way, for the number of round trips; the second is a usual tunnel
DELAYS = 0.0, 0.02, 0.2
#: name, delay in seconds one way, share of lost packets
CONDITIONS = (
    ("no delay", 0.0, 0.0),
    ("40 ms", 0.02, 0.0),
    ("40 ms, 1 % of packets lost", 0.02, 0.01),
)


class FarStack(LocalStack):
    """The real stack; its drivers run at the other end of a link if it has one."""

    #: where drivers run; None: beside the services
    link: Link | None = None

    def _write_files(self) -> None:
        super()._write_files()
        path = self.home / ".seamless" / "clusters.yaml"
        clusters = yaml.safe_load(path.read_text())
        for service in clusters["local"]["frontends"][0].values():
            service["network_interface"] = NEAR
        path.write_text(yaml.safe_dump(clusters))

    def command(self, *words: str) -> list[str]:
        """Drivers run at the other end of the link."""
        return list(words) if self.link is None else self.link.command(*words)


#: what is measured, and what it is called
NAMES = {
    "init": "seamless.config.init, services are running",
    "connect": "of which Dask's client and ours",
    "alone": "one transformation",
    "known": "one whose result is known",
    "inputs": "one with 8 new inputs of 100 kB",
    "result": "one with a result of 120 kB, which is fetched",
}


def round_trips(stack: FarStack, link: Link, number: int) -> None:
    """Print a table: seconds at three delays, and the round trips that this makes.

    Round trips are the slope between the second and the third delay, so that the time
    that the cluster takes does not count.
    """
    rows: list[dict[str, float]] = []
    for delay in DELAYS:
        link.set(delay=delay)
        rows.append(stack.run(DRIVER, f"trips {delay}", number, 0).value)
    first, second, third = DELAYS
    print(
        f"seconds at a round trip of {2000 * first:g}, {2000 * second:g} and "
        f"{2000 * third:g} ms, and the number of round trips"
    )
    for name, what in NAMES.items():
        near, far, further = (row[name] for row in rows)
        trips = (further - far) / (2 * (third - second))
        print(
            f"{what:46}{near:9.3f}{far:9.3f}{further:9.3f}{trips:7.1f}",
            flush=True,
        )


def together(stack: FarStack, link: Link, number: int, repeats: int) -> None:
    """Print how many transformations per second ``parallel`` runs, near and far in turn."""
    print(f"{number} transformations by parallel: per second, all repeats")
    found: dict[str, list[float]] = {}
    for repeat in range(repeats):
        for name, delay, loss in CONDITIONS:
            link.set(delay=delay, loss=loss)
            outcome = stack.run(DRIVER, f"{name} {repeat}", 0, number).value
            assert outcome["right"], outcome
            found.setdefault(name, []).append(number / outcome["together"])
    for name, rates in found.items():
        print(f"{name:30}", " ".join(f"{rate:.0f}" for rate in rates), flush=True)


def outage(stack: FarStack, link: Link, seconds: float) -> bool:
    """Print what a link costs that is away; return whether no work was lost."""
    link.set(delay=DELAYS[1])
    file = stack.home / "executions"
    work = 2.0
    # the six slots are busy for longer than the link is away
    number = int(6 * (seconds + 15) / work)
    process = stack.start(
        DRIVER, f"outage {seconds}", 0, number, "--work", work, "--file", file
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("begun"):
            break
    begin = time.monotonic()
    time.sleep(3.0)
    link.down()
    time.sleep(seconds)
    done = len(file.read_text().split())
    link.up()
    result = stack.finish(process, begin=begin, timeout=300).value
    executions = Counter(file.read_text().split())
    again = sum(executions.values()) - len(executions)
    print(
        f"link away for {seconds:g} s: {number} transformations of {work:g} s on "
        f"{stack.workers} processes took {result['together']:.0f} s; {done} had begun "
        f"when the link was back, {again} were executed again, values "
        f"{'right' if result['right'] else 'WRONG'}",
        flush=True,
    )
    return bool(result["right"]) and not again


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer of everything")
    parser.add_argument(
        "--trace", type=Path, metavar="FILE", help="gets a line for each packet"
    )
    parser.add_argument(
        "--outages", type=float, nargs="*", default=[30.0, 45.0], metavar="SECONDS"
    )
    parser.add_argument(
        "--only", choices=["trips", "together", "outages"], help="one of the parts"
    )
    options = parser.parse_args(arguments)
    fine = True
    try:
        with Link() as link, FarStack(project="far", nparallel=500) as stack:
            stack.run(DRIVER, "starts the services", 1, 20)
            stack.link = link
            if options.trace:
                link.trace(options.trace.resolve())
            if options.only in (None, "trips"):
                round_trips(stack, link, 3 if options.quick else 10)
            if options.only in (None, "together"):
                together(stack, link, 100, 1 if options.quick else 3)
            if options.only in (None, "outages"):
                for seconds in options.outages:
                    fine &= outage(stack, link, seconds)
    except Missing as missing:
        print(missing, file=sys.stderr)
        return 2
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())

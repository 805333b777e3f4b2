"""``python -m seamless_dask.status output``: what transformations write, as lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..output.printer import Printer
from ..output.region import Region

#: seconds between the first questions, and then between all; what a transformation has
#: written before it was followed is in the second answer
SOON = 0.5
INTERVAL = 2.0
UNKNOWN = (
    "no transformation with this checksum or name runs, and no output of one is kept"
)


def show(
    what: str, ask: Callable[[int | None], dict[str, Any]], *, follow: bool
) -> int:
    """Print the output of transformations; return the exit code.

    Parameters
    ----------
    what
        Their checksum or name.
    ask
        Asks the scheduler for what was written since the answer with this number.
    follow
        Go on until all of them have ended, at most until Ctrl-C. If none is known yet,
        wait for one.
    """
    region = Region()
    printer = Printer(region.print)
    answer: dict[str, Any] = {}
    try:
        for answer in _answers(ask, follow):
            for row in answer["outputs"]:
                printer.show(
                    row["key"],
                    row["label"],
                    row["pieces"],
                    begins=row["begins"],
                    ended=row["ended"],
                )
            region.draw(printer.unfinished() if follow else [])
            sys.stdout.flush()
    finally:
        region.close()
        printer.end()
    if answer["running"] > answer["asked"]:
        more = answer["running"] - answer["asked"]
        print(f"{more} more run; give a checksum to see one of them.", file=sys.stderr)
    if not answer["found"]:
        print(f"{what}: {UNKNOWN}.", file=sys.stderr)
        return 1
    return 0


def _answers(
    ask: Callable[[int | None], dict[str, Any]], follow: bool
) -> Iterator[dict[str, Any]]:
    answer = ask(None)
    yield answer
    pause = SOON
    while follow and not (answer["found"] and not answer["running"]):
        time.sleep(pause)
        pause = min(2 * pause, INTERVAL)
        running, answer = answer["running"], ask(answer["number"])
        yield answer
        if running and not answer["running"]:
            # what they have written at their end
            yield ask(answer["number"])

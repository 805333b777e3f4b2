"""From single runs to what is reported: spreads, ratios and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from figures import Spread, markdown_table, percentile, ratios, rounded, table
from usage import KINDS

JOBSERVER = "seamless-jobserver"
POOL = "in-process pool"
NOTHING = "-"


@dataclass(frozen=True)
class Line:
    """All runs of one workload on one backend."""

    workload: str
    backend: str
    #: what went wrong, and in how many runs
    problem: str | None
    #: transformations per second
    rate: Spread | None
    #: rate as a multiple of that of others, in the same repeat
    to_jobserver: Spread | None
    to_pool: Spread | None
    #: results in the database / transformations
    stored: Spread | None
    #: {kind of process: CPU milliseconds per transformation}
    cpu: Mapping[str, Spread]
    cpu_total: Spread | None
    #: peak memory, all processes together, in MB
    memory: Spread | None
    #: single calls: {percentile: milliseconds} and how many calls
    latencies: Mapping[int, float]
    calls: int
    #: sleeping leaf seconds / (slots x seconds)
    efficiency: Spread | None
    #: load average of the machine before each run
    load: Spread | None


def summarise(runs: Iterable[Mapping[str, Any]]) -> list[Line]:
    """One line for each workload and backend, in the order in which they were run."""
    groups: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for run in runs:
        backends = groups.setdefault(run["workload"], {})
        backends.setdefault(run["backend"], []).append(run)
    return [
        _line(workload, backend, some, backends)
        for workload, backends in groups.items()
        for backend, some in backends.items()
    ]


def _line(
    workload: str,
    backend: str,
    runs: Sequence[Mapping[str, Any]],
    others: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Line:
    good = [run for run in runs if run["problem"] is None]
    bad = [run["problem"] for run in runs if run["problem"] is not None]
    calls = [1000 * one for run in good for one in run["latencies"]]

    def spread(value: Callable[[Mapping[str, Any]], float | None]) -> Spread | None:
        values = [value(run) for run in good]
        return Spread.of(one for one in values if one is not None)

    def cpu(kind: str) -> Spread | None:
        return spread(
            lambda run: 1000 * run["cpu_seconds"].get(kind, 0) / run["transformations"]
        )

    by_kind = {kind: cpu(kind) for kind in KINDS}
    mine = _rates(good)
    return Line(
        workload,
        backend,
        problem=", ".join(
            f"{what} ({count} of {len(runs)} runs)"
            for what, count in Counter(bad).items()
        )
        or None,
        rate=spread(lambda run: run["rate"]),
        to_jobserver=ratios(mine, _rates(others.get(JOBSERVER, ()))),
        to_pool=ratios(mine, _rates(others.get(POOL, ()))),
        stored=spread(lambda run: run["stored_share"]),
        cpu={kind: one for kind, one in by_kind.items() if one and one.most > 0},
        cpu_total=spread(
            lambda run: 1000 * sum(run["cpu_seconds"].values()) / run["transformations"]
        ),
        memory=spread(lambda run: sum(run["peak_memory_bytes"].values()) / 1e6),
        latencies={share: percentile(calls, share) for share in (50, 90, 99, 100)}
        if calls
        else {},
        calls=len(calls),
        efficiency=spread(lambda run: run["slot_efficiency"]),
        load=Spread.of(run["load_before"] for run in runs),
    )


def _rates(runs: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    return {run["repeat"]: run["rate"] for run in runs if run["problem"] is None}


def as_json(lines: Iterable[Line]) -> list[dict[str, Any]]:
    """The summary as it is written to the file."""
    return [asdict(line) for line in lines]


def tables(lines: Sequence[Line], *, markdown: bool = False) -> str:
    """Speed, then where the CPU time goes."""
    show = markdown_table if markdown else table
    speed = [
        [
            line.workload,
            line.backend,
            *(
                [line.problem or NOTHING]
                if line.rate is None
                else [line.rate.text() + (f"; {line.problem}" if line.problem else "")]
            ),
            _text(line.to_jobserver),
            _text(line.to_pool),
            NOTHING if line.stored is None else f"{line.stored.least:.0%}",
            _median(line.cpu_total, 2),
            _median(line.memory),
            _special(line),
            _median(line.load, 2),
        ]
        for line in lines
    ]
    heading = [
        "workload", "on", "transformations/s", "x jobserver", "x pool",
        "stored", "CPU ms each", "peak MB", "calls, slots", "load",
    ]  # fmt: skip
    used = [kind for kind in KINDS if any(kind in line.cpu for line in lines)]
    costs = [
        [
            line.workload,
            line.backend,
            *(_median(line.cpu.get(kind), 2) for kind in used),
            line.rate.count,
        ]
        for line in lines
        if line.rate is not None
    ]
    return "\n".join(
        (
            "median (least-most, n repeats); stored: the least of all repeats\n",
            show(heading, speed),
            "\nCPU milliseconds per transformation, median of n repeats\n",
            show(["workload", "on", *used, "n"], costs),
        )
    )


def _text(spread: Spread | None) -> str:
    return NOTHING if spread is None else spread.text()


def _median(spread: Spread | None, digits: int = 3) -> str:
    return NOTHING if spread is None else rounded(spread.median, digits)


def _special(line: Line) -> str:
    """What only some workloads show."""
    if line.efficiency is not None:
        share = line.efficiency
        return (
            f"slots used {share.median:.0%} "
            f"({share.least:.0%}-{share.most:.0%}, n={share.count})"
        )
    if line.calls:
        low, _, high, _ = line.latencies.values()
        return f"p50 {rounded(low)} p99 {rounded(high)} ms (n={line.calls})"
    return NOTHING

"""What the permission policy does: ``python benchmarks/simulate.py [--quick]``.

Compares policies and constants on random trees of transformations, on 10 to 10,000
workers, in virtual time (see ``simulation.py`` for what is real and what is modelled).
Prints a table per question and writes the curves as an SVG file.

Exits with 1 if any tree never ended.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE), str(_HERE.parent)]

from charts import Chart, svg  # noqa: E402
from figures import markdown_table, rounded, table  # noqa: E402
from simulation import Outcome, Policy, Simulation  # noqa: E402
from trees import Node, random_tree  # noqa: E402

#: slots per worker
THROTTLE = 3
IN_USE = Policy()
IN_ORDER = Policy("order of arrival", deepest_first=False)
NO_LENDING = Policy("no lending", lending=False)
WITHOUT_PLACES = Policy("slots of the whole cluster", places=False)

#: seconds from sending a task to its beginning, and for storing a result, as measured
DELAY, STORING = 0.01, 0.02

#: what an epoch may grant beyond the capacity, from nothing to a lot
THRESHOLDS = (
    replace(IN_USE, name="never beyond capacity", low_load=-1.0, high_load=-1.0),
    replace(IN_USE, name="in use: 5 % below 50 %, 1 below 85 %"),
    replace(IN_USE, name="5 % below 80 %, 1 below 95 %", low_load=0.8, high_load=0.95),
    replace(IN_USE, name="20 % below 50 %, 1 below 85 %", low_load_share=0.2),
    replace(IN_USE, name="in use, epochs of 2 s", epoch=2.0),
)

HEADING = (
    "policy", "workers", "slots", "transf.", "makespan / ideal", "efficiency",
    "used while others wait", "lost", "most held", "most computing", "refused", "beyond cap.", "deadlocks",
    "wait 50 / 99 / 100 % (s)", "tree 50 / 99 % (s)", "never ended",
)  # fmt: skip


def row(outcome: Outcome) -> list[object]:
    """One line of a table, as in ``HEADING``."""
    waits, spans = outcome.waits, outcome.spans
    return [
        outcome.policy,
        outcome.workers,
        outcome.slots,
        outcome.transformations,
        f"{outcome.stretch:.2f}",
        f"{outcome.efficiency:.1%}",
        f"{outcome.used_while_waiting:.1%}",
        "{} workers, {} transf.".format(*outcome.lost),
        outcome.most_held,
        outcome.most_computing,
        outcome.refused,
        outcome.over_capacity,
        outcome.deadlocks,
        " / ".join(rounded(waits[share], 2) for share in (50, 99, 100)),
        " / ".join(rounded(spans[share], 2) for share in (50, 99)),
        outcome.unfinished,
    ]


def forest(workers: int, seed: int, *, unknown_owners: float = 0.0) -> list[Node]:
    """Two trees per slot; the same ones for every policy."""
    rng = random.Random(seed)
    return [
        random_tree(rng, depth=6, nodes=30, unknown_owners=unknown_owners)
        for _ in range(2 * THROTTLE * workers)
    ]


def arrival_times(trees: Sequence[Node], load: float, seed: int) -> list[float]:
    """Random times, so far apart that the work takes this share of the slots.

    As in ``forest`` there are two trees per slot.
    """
    rng = random.Random(seed)
    work = sum(node.work for tree in trees for node in tree.walk())
    slots = len(trees) / 2
    rate = load * slots / (work / len(trees))
    return list(itertools.accumulate(rng.expovariate(rate) for _ in trees))


def complete_tree(depth: int, width: int, rng: random.Random) -> Node:
    """Each node of the upper levels starts ``width`` children together."""

    def grow(level: int) -> Node:
        node = Node(rng.expovariate(1.0), together=True, depth=level)
        if level + 1 < depth:
            node.children = [grow(level + 1) for _ in range(width)]
            for child in node.children:
                child.parent = node
        return node

    return grow(0)


def sizes(workers: Sequence[int], seed: int) -> list[Outcome]:
    """Order and lending, on clusters of different size."""
    return [
        Simulation(forest(count, seed), workers=count, policy=policy).run()
        for count in workers
        for policy in (IN_USE, IN_ORDER, NO_LENDING)
    ]


def loads(
    shares: Sequence[float], seed: int, workers: int
) -> dict[float, list[Outcome]]:
    """{offered load: outcomes}: trees that arrive at random times."""
    result: dict[float, list[Outcome]] = {}
    for share in shares:
        for policy in (IN_USE, IN_ORDER, NO_LENDING):
            trees = forest(workers, seed)
            arrivals = arrival_times(trees, share, seed)
            simulation = Simulation(
                trees, workers=workers, policy=policy, arrivals=arrivals
            )
            result.setdefault(share, []).append(simulation.run())
    return result


def sleepers(trees: int) -> list[Node]:
    """Trees of 4 middle ones with 3 leaves each, which sleep for 1.2 s."""
    result = []
    for _ in range(trees):
        root = Node(0.01, together=True)
        for _ in range(4):
            middle = Node(0.01, together=True, depth=1, parent=root)
            root.children.append(middle)
            for _ in range(3):
                middle.children.append(Node(1.2, True, depth=2, parent=middle))
        result.append(root)
    return result


def placements(workers: Sequence[int]) -> dict[float, list[Outcome]]:
    """{workers: outcomes}, with 6 slots each: all there before, or all but one 3 s later.

    Warm and cold with places, then warm and cold without, but for the largest clusters:
    there, looking at all workers for each task would take hours.
    """
    result: dict[float, list[Outcome]] = {}
    for count in workers:
        policies = (IN_USE, WITHOUT_PLACES) if count <= 1000 else (IN_USE,)
        for policy in policies:
            for late in (0.0, 3.0):
                name = f"{policy.name}, {'cold' if late else 'warm'}"
                simulation = Simulation(
                    sleepers(10 * count),
                    workers=count,
                    processes=2,
                    throttle=THROTTLE,
                    policy=replace(policy, name=name),
                    workers_at=[0.0] + [late] * (count - 1),
                    delay=DELAY,
                    storing=STORING,
                )
                result.setdefault(count, []).append(simulation.run())
    return result


def losses(counts: Sequence[int], workers: int) -> dict[float, list[Outcome]]:
    """{workers lost: outcomes}: trees of sleepers, and another worker 3 s later."""
    return {
        count: [
            Simulation(
                sleepers(20 * workers),
                workers=workers,
                processes=2,
                throttle=THROTTLE,
                policy=IN_USE,
                losses_at=[5.0 + 30.0 * n / count for n in range(count)],
                delay=DELAY,
                storing=STORING,
            ).run()
        ]
        for count in counts
    }


def depths(seed: int, deepest: int, width: int = 6) -> dict[float, list[Outcome]]:
    """{levels: outcomes}: one complete tree on 10 workers, in both orders."""
    return {
        depth: [
            Simulation(
                [complete_tree(depth, width, random.Random(seed))],
                workers=10,
                policy=policy,
            ).run()
            for policy in (IN_USE, IN_ORDER)
        ]
        for depth in range(2, deepest + 1)
    }


def thresholds(
    shares: Sequence[float], seed: int, workers: int
) -> dict[float, list[Outcome]]:
    """{share of calls by unknown owners: outcomes}, for the constants of the epoch."""
    return {
        share: [
            Simulation(
                forest(workers, seed, unknown_owners=share),
                workers=workers,
                policy=policy,
            ).run()
            for policy in THRESHOLDS
        ]
        for share in shares
    }


def figure(
    by_size: Iterable[Outcome],
    by_depth: Mapping[float, list[Outcome]],
    by_share: Mapping[float, list[Outcome]],
) -> str:
    """The three curves of the documentation."""
    stretch: dict[str, list[tuple[float, float]]] = {}
    for outcome in by_size:
        line = stretch.setdefault(outcome.policy, [])
        line.append((outcome.workers, outcome.stretch))
    held: dict[str, list[tuple[float, float]]] = {}
    for depth, outcomes in by_depth.items():
        for outcome in outcomes:
            line = held.setdefault(outcome.policy, [])
            line.append((depth, outcome.most_held))
    held["slots x levels"] = [
        (depth, outcomes[0].slots * depth) for depth, outcomes in by_depth.items()
    ]
    efficiency: dict[str, list[tuple[float, float]]] = {}
    for share, outcomes in by_share.items():
        for outcome in outcomes:
            line = efficiency.setdefault(outcome.policy, [])
            line.append((100 * share, 100 * outcome.efficiency))
    return svg(
        [
            Chart(
                "Held at the same time",
                "levels of one tree, 6 children each",
                "transformations",
                held,
                log_y=True,
            ),
            Chart(
                "Time for random trees",
                "workers, 3 slots each",
                "makespan / ideal",
                stretch,
                log_x=True,
            ),
            Chart(
                "Callers that are not known",
                "% of calls",
                "slot efficiency (%)",
                efficiency,
            ),
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="under 2 minutes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--markdown", action="store_true", help="tables for a page")
    parser.add_argument(
        "--svg",
        type=Path,
        default=_HERE / "results" / "permission-policy.svg",
        metavar="FILE",
    )
    args = parser.parse_args()

    begin = time.perf_counter()
    quick, seed = args.quick, args.seed
    by_size = sizes((10, 100, 1000) if quick else (10, 100, 1000, 10_000), seed)
    by_place = placements((3, 30) if quick else (3, 100, 10_000))
    by_loss = losses((0, 10), 10) if quick else losses((0, 10, 30, 100), 100)
    by_load = loads((0.5, 0.9), seed, 30 if quick else 100)
    by_depth = depths(seed, 5 if quick else 6)
    shares = (0, 0.5, 1) if quick else (0, 0.25, 0.5, 0.75, 1)
    by_share = thresholds(shares, seed, 30 if quick else 100)

    show = markdown_table if args.markdown else table
    print("Random trees, two per slot, all there at the beginning\n")
    print(show(HEADING, map(row, by_size)))
    groups: dict[str, tuple[str, Mapping[float, list[Outcome]]]] = {
        "workers": ("Trees of sleepers, 10 per worker", by_place),
        "losses": ("20 trees of sleepers per worker, workers lost in 30 s", by_loss),
        "load": ("Random trees that arrive at random times", by_load),
        "levels": ("One complete tree with 6 children per node", by_depth),
        "unknown": ("Calls of which the scheduler does not learn who asks", by_share),
    }
    outcomes = list(by_size)
    for what, (title, group) in groups.items():
        print(f"\n{title}\n")
        lines = [[key, *row(each)] for key, some in group.items() for each in some]
        print(show([what, *HEADING], lines))
        for some in group.values():
            outcomes += some

    args.svg.parent.mkdir(parents=True, exist_ok=True)
    args.svg.write_text(figure(by_size, by_depth, by_share))
    stuck = sum(outcome.unfinished for outcome in outcomes)
    print(
        f"\n{len(outcomes)} simulations with seed {args.seed}, one per line, "
        f"{sum(o.transformations for o in outcomes):,} transformations, "
        f"{sum(o.events for o in outcomes):,} events, "
        f"{time.perf_counter() - begin:.0f} s; {stuck} trees never ended; {args.svg}"
    )
    return 1 if stuck else 0


if __name__ == "__main__":
    sys.exit(main())

"""Monte-Carlo pi as a tree of transformations: estimates, batches, samples.

Each node of the tree is a transformation that starts the nodes below it. Where they
run is not said here but in ``seamless.profile.yaml``; with ``remote: daskserver`` it
is a Dask cluster. Every node is stored under what went into it, so a second run, or
a run with one estimate more, computes only what is new.

    python nested_pi.py --estimates 10
"""

from __future__ import annotations

import argparse
import json
import time

import seamless
import seamless.config
from seamless.transformer import TransformationList, delayed, parallel


@delayed
def estimate(seed, batches, samples, points):
    """The root of one tree: start the batches, then collect them."""
    # The code of a transformation travels without the module around it, so what it
    # needs is imported and defined inside.
    import sys

    from seamless.transformer import delayed

    @delayed
    def batch(seed, samples, points):
        """Start the samples of one batch, then collect them."""
        from seamless.transformer import delayed

        @delayed
        def sample(seed, points):
            """Count the points that fall into the quarter circle."""
            import random

            draw = random.Random(seed).random
            return sum(draw() ** 2 + draw() ** 2 < 1 for _ in range(points))

        leaves = [sample(100 * seed + n, points) for n in range(samples)]
        for leaf in leaves:
            leaf.start()
        return [leaf.run() for leaf in leaves]

    nodes = [batch(100 * seed + n, samples, points) for n in range(batches)]
    for node in nodes:
        node.start()
    hits = [node.run() for node in nodes]
    # shown if the driver script streams: SEAMLESS_DASK_STREAMING=1
    print(f"estimate {seed}: {batches} batches are there", file=sys.stderr)
    return hits


def print_tree(estimates, points):
    """Show every node with its own estimate of pi."""

    def pi(hits):
        return f"{4 * sum(hits) / (points * len(hits)):.4f}"

    everything = [hits for tree in estimates for node in tree for hits in node]
    print(f"pi is about {pi(everything)}")
    for number, tree in enumerate(estimates):
        last = number == len(estimates) - 1
        below = [hits for node in tree for hits in node]
        print(f"{'└' if last else '├'}─ estimate {number}: {pi(below)}")
        for index, node in enumerate(tree):
            stem = "  " if last else "│ "
            corner = "└" if index == len(tree) - 1 else "├"
            leaves = " ".join(pi([hits]) for hits in node)
            print(f"{stem} {corner}─ batch {index}: {pi(node)}  = {leaves}")


def main():
    parser = argparse.ArgumentParser(description="Monte-Carlo pi, nested.")
    parser.add_argument("--estimates", type=int, default=10)
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--points", type=int, default=200_000)
    parser.add_argument("--json", action="store_true", help="end with a line of JSON")
    args = parser.parse_args()

    seamless.config.init()
    begin = time.perf_counter()
    trees = TransformationList(
        [
            estimate(seed, args.batches, args.samples, args.points)
            for seed in range(args.estimates)
        ],
        show_progress=True,
        on_error="raise",
    )
    for _finished in parallel(trees):
        pass  # the progress bar says it all
    results = [tree.run() for tree in trees]
    seconds = time.perf_counter() - begin

    print_tree(results, args.points)
    if args.json:
        batches = args.estimates * args.batches
        total = args.estimates + batches + batches * args.samples
        print(json.dumps({"transformations": total, "seconds": seconds}))
    seamless.close()


if __name__ == "__main__":
    main()

"""Nested workloads as a driver script: ``python workloads.py NAME [JSON arguments]``.

Each workload builds transformations, runs them, compares every value with what plain
Python gives and returns ``values_ok``, ``distinct`` (how many transformations with
different checksums that makes, so how many rows the database must gain) and
``seconds``. All inputs depend on ``salt``: another salt, other transformations.

The code of a transformation is its source alone, so each function imports and defines
inside whatever it uses; one that calls itself may do so by its own name.

With ``--pool N`` no service is used: the transformations run in N local processes.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import seamless
import seamless.config
from seamless.transformer import Transformation, delayed, direct, parallel

Outcome = dict[str, Any]


def run_all(transformations: Sequence[Transformation]) -> list[Any]:
    """Run them together and return their values in order."""
    for _finished in parallel(transformations):
        pass
    return [transformation.run() for transformation in transformations]


def outcome(begin: float, values: Any, expected: Any, distinct: int) -> Outcome:
    result: Outcome = {
        "values_ok": values == expected,
        "distinct": distinct,
        "seconds": time.perf_counter() - begin,
    }
    if values != expected:
        result["values"], result["expected"] = repr(values), repr(expected)
    return result


def independent(salt: str, n: int = 300) -> Outcome:
    """Transformations that have nothing to do with each other."""

    def square(salt, i):
        return i * i

    begin = time.perf_counter()
    values = run_all([delayed(square)(salt, i) for i in range(n)])
    return outcome(begin, values, [i * i for i in range(n)], n)


def computing(salt: str, n: int = 300, milliseconds: float = 20.0) -> Outcome:
    """Independent ones in pure Python, each with so much CPU time of its own."""

    def count(salt, i, seconds):
        import time

        end = time.thread_time() + seconds
        turns = 0
        while time.thread_time() < end:
            turns += sum(range(100)) > 0
        return i if turns else None

    begin = time.perf_counter()
    values = run_all([delayed(count)(salt, i, milliseconds / 1000) for i in range(n)])
    return outcome(begin, values, list(range(n)), n)


def one_at_a_time(salt: str, n: int = 50) -> Outcome:
    """Direct calls, each after the one before; with the seconds of each call."""

    def cube_root(salt, i):
        return round(i ** (1 / 3), 6)

    call = direct(cube_root)
    values = []
    latencies = []
    begin = time.perf_counter()
    for i in range(n):
        called = time.perf_counter()
        values.append(call(salt, i))
        latencies.append(time.perf_counter() - called)
    expected = [round(i ** (1 / 3), 6) for i in range(n)]
    return {**outcome(begin, values, expected, n), "latencies": latencies}


def run_while_iterating(salt: str, n: int = 50) -> Outcome:
    """Ask for each value while ``parallel`` still has others in the air."""

    def cube(salt, i):
        return i**3

    begin = time.perf_counter()
    values = [tf.run() for tf in parallel([delayed(cube)(salt, i) for i in range(n)])]
    return outcome(begin, values, [i**3 for i in range(n)], n)


def tree(salt: str, n: int = 40) -> Outcome:
    """Each outer calls two middles, each middle calls two leaves, one after the other."""

    def outer(salt, i):
        from seamless.transformer import direct

        @direct
        def middle(salt, i, j):
            from seamless.transformer import direct

            @direct
            def leaf(salt, i, j, k):
                return 100 * i + 10 * j + k

            return sum(leaf(salt, i, j, k) for k in range(2))

        return sum(middle(salt, i, j) for j in range(2))

    begin = time.perf_counter()
    values = run_all([delayed(outer)(salt, i) for i in range(n)])
    expected = [400 * i + 22 for i in range(n)]
    return outcome(begin, values, expected, 7 * n)


def fan(salt: str, n: int = 6, leaves: int = 20, how: str = "start") -> Outcome:
    """Few outers with many leaves: ``how`` is start, parallel or sequential."""

    def outer(salt, i, leaves, how):
        from seamless.transformer import delayed

        @delayed
        def leaf(salt, i, k):
            return 1000 * i + k

        nodes = [leaf(salt, i, k) for k in range(leaves)]
        if how == "start":
            for node in nodes:
                node.start()
        elif how == "parallel":
            import seamless_config
            from seamless.transformer import parallel

            seamless_config.set_nparallel(leaves)
            for _finished in parallel(nodes):
                pass
        return sum(node.run() for node in nodes)

    salt = f"{salt}/{how}"
    begin = time.perf_counter()
    values = run_all([delayed(outer)(salt, i, leaves, how) for i in range(n)])
    below = leaves * (leaves - 1) // 2
    expected = [1000 * i * leaves + below for i in range(n)]
    return outcome(begin, values, expected, n * (1 + leaves))


def sleepers(
    salt: str, n: int = 50, leaves: int = 4, leaf_seconds: float = 0.5
) -> Outcome:
    """Jobs that each start leaves which sleep: how well are the slots used?"""

    def job(salt, i, leaves, leaf_seconds):
        from seamless.transformer import delayed

        @delayed
        def leaf(salt, i, k, leaf_seconds):
            import time

            time.sleep(leaf_seconds)
            return 10 * i + k

        nodes = [leaf(salt, i, k, leaf_seconds) for k in range(leaves)]
        for node in nodes:
            node.start()
        return sum(node.run() for node in nodes)

    begin = time.perf_counter()
    jobs = [delayed(job)(salt, i, leaves, leaf_seconds) for i in range(n)]
    values = run_all(jobs)
    below = leaves * (leaves - 1) // 2
    expected = [10 * i * leaves + below for i in range(n)]
    return outcome(begin, values, expected, n * (1 + leaves))


def sleeping_trees(
    salt: str,
    n: int = 30,
    middles: int = 4,
    leaves: int = 3,
    leaf_seconds: float = 1.2,
) -> Outcome:
    """Trees whose leaves sleep; for clusters of several workers."""

    def root(salt, i, middles, leaves, leaf_seconds):
        from seamless.transformer import delayed

        @delayed
        def middle(salt, i, j, leaves, leaf_seconds):
            from seamless.transformer import delayed

            @delayed
            def leaf(salt, i, j, k, leaf_seconds):
                import time

                time.sleep(leaf_seconds)
                return i + k

            nodes = [leaf(salt, i, j, k, leaf_seconds) for k in range(leaves)]
            for node in nodes:
                node.start()
            return sum(node.run() for node in nodes)

        nodes = [middle(salt, i, j, leaves, leaf_seconds) for j in range(middles)]
        for node in nodes:
            node.start()
        return sum(node.run() for node in nodes)

    begin = time.perf_counter()
    trees = [delayed(root)(salt, i, middles, leaves, leaf_seconds) for i in range(n)]
    values = run_all(trees)
    below = leaves * (leaves - 1) // 2
    expected = [middles * (i * leaves + below) for i in range(n)]
    return outcome(begin, values, expected, n * (1 + middles * (1 + leaves)))


def naps(salt: str, n: int = 480, nap_seconds: float = 0.5) -> Outcome:
    """Transformations that have nothing to do with each other, and sleep."""

    def nap(salt, i, nap_seconds):
        import time

        time.sleep(nap_seconds)
        return i

    begin = time.perf_counter()
    values = run_all([delayed(nap)(salt, i, nap_seconds) for i in range(n)])
    return outcome(begin, values, list(range(n)), n)


def recursion(salt: str, n: int = 40, depth: int = 3) -> Outcome:
    """A transformation that calls itself: ``depth`` levels, one below the other."""

    def level(salt, i, below):
        from seamless.transformer import direct

        return i if below == 0 else 1 + direct(level)(salt, i, below - 1)

    begin = time.perf_counter()
    values = run_all([delayed(level)(salt, i, depth - 1) for i in range(n)])
    expected = [i + depth - 1 for i in range(n)]
    return outcome(begin, values, expected, n * depth)


def chain(salt: str, n: int = 50) -> Outcome:
    """Each transformation is the input of the next."""

    def step(salt, i, value):
        # A comment makes the source longer than 64 characters: with exactly 64,
        # seamless-transformer takes it for a checksum.
        return (5 * value + i) % 1_000_003

    # One transformer for all: it keeps the buffer of the code in memory.
    make = delayed(step)
    begin = time.perf_counter()
    value: Any = 1
    expected = 1
    for i in range(n):
        value = make(salt, i, value)
        expected = (5 * expected + i) % 1_000_003
    return outcome(begin, value.run(), expected, n)


def produce(salt, i, size):
    """Return so many bytes."""
    import random

    return random.Random(f"{salt}/{i}").randbytes(size)


def consume(blob):
    """Return what can be compared of them."""
    import zlib

    content = blob.content  # celltype bytes arrives as a seamless.Buffer
    return [len(content), zlib.crc32(content)]


def bulk() -> tuple[Any, Any]:
    """Return the transformers of `produce` and `consume`."""
    producer, consumer = delayed(produce), delayed(consume)
    producer.celltypes.result = "bytes"
    consumer.celltypes.blob = "bytes"
    return producer, consumer


def big(salt: str, n: int = 10, megabytes: int = 10) -> Outcome:
    """Large results, each the input of another transformation."""

    producer, consumer = bulk()
    size = megabytes * 1_000_000
    begin = time.perf_counter()
    values = run_all([consumer(producer(salt, i, size)) for i in range(n)])
    expected = []
    for i in range(n):
        expected.append([size, zlib.crc32(produce(salt, i, size))])
    return outcome(begin, values, expected, 2 * n)


def pi(
    salt: str, trials: int = 32, driver: bool = True, points: int = 20_000
) -> Outcome:
    """Monte-Carlo pi: one transformation starts all trials, with or without ``driver``.

    A transformation marked as a driver only submits and waits, so that what it
    submits asks for no permission.
    """

    def estimate(salt, trials, points):
        from seamless.transformer import delayed

        @delayed
        def trial(salt, seed, points):
            import random

            draw = random.Random(seed).random
            return sum(draw() ** 2 + draw() ** 2 < 1 for _ in range(points))

        nodes = [trial(salt, seed, points) for seed in range(trials)]
        for node in nodes:
            node.start()
        return sum(node.run() for node in nodes)

    def plain(seed: int) -> int:
        draw = random.Random(seed).random
        return sum(draw() ** 2 + draw() ** 2 < 1 for _ in range(points))

    # Whether it is a driver is no part of what a transformation is, hence the salt.
    salt = f"{salt}/{trials}/{'driver' if driver else 'plain'}"
    estimator = delayed(estimate)
    if driver:
        estimator.driver = True
    begin = time.perf_counter()
    value = estimator(salt, trials, points).run()
    expected = sum(map(plain, range(trials)))
    return outcome(begin, value, expected, 1 + trials)


#: how a node of a random tree runs its children
MODES = ("direct", "delayed", "start", "feed", "threads", "local")


class Grower:
    """Grows seeded random trees, some of whose branches are the same.

    Parameters
    ----------
    depth, width
        At most so many levels, and children of one node.
    """

    def __init__(self, depth: int, width: int) -> None:
        self._depth = depth
        self._width = width
        #: {levels: branches that were grown}
        self._grown: dict[int, list[list[Any]]] = {n: [] for n in range(1, depth + 1)}

    def grow(self, rng: random.Random, nodes: int) -> list[Any]:
        """Return a tree as ``[value, mode, children]``, of at most ``nodes`` new."""
        return self._grow(rng, self._depth, [nodes])

    def _grow(self, rng: random.Random, depth: int, budget: list[int]) -> list[Any]:
        budget[0] -= 1
        children = []
        if depth > 1:
            for _ in range(rng.randint(0, self._width)):
                if budget[0] <= 0:
                    break
                grown = self._grown[depth - 1]
                if grown and rng.random() < 0.2:
                    children.append(rng.choice(grown))
                else:
                    children.append(self._grow(rng, depth - 1, budget))
        tree = [rng.randrange(10_000), rng.choice(MODES), children]
        self._grown[depth].append(tree)
        return tree


def evaluate(node: list[Any], carry: int, seen: set[str]) -> int:
    """What the tree is worth, and in ``seen`` which transformations that takes."""
    seen.add(json.dumps([node, carry]))
    value, mode, children = node
    if mode == "feed":
        below = 0
        for child in children:
            below = evaluate(child, below, seen)
    else:
        below = sum(evaluate(child, 0, seen) for child in children)
    return (value + carry + 7 * below) % 1_000_003


def tree_node(salt, spec, carry, pause):
    """Run the children of a node of a random tree, then pause: see `random_trees`."""
    import time

    from seamless.transformer import delayed, direct

    value, mode, children = spec
    if mode == "direct":
        below = sum(direct(tree_node)(salt, child, 0, pause) for child in children)
    elif mode == "delayed":
        below = sum(
            delayed(tree_node)(salt, child, 0, pause).run() for child in children
        )
    elif mode == "start":
        nodes = [delayed(tree_node)(salt, child, 0, pause) for child in children]
        for started in nodes:
            started.start()
        below = sum(started.run() for started in nodes)
    elif mode == "threads":
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(3) as pool:
            calls = [
                pool.submit(direct(tree_node), salt, child, 0, pause)
                for child in children
            ]
            below = sum(call.result() for call in calls)
    elif mode == "local":
        make = delayed(tree_node)
        make.local = True
        below = sum(make(salt, child, 0, pause).run() for child in children)
    else:
        last = 0
        make = delayed(tree_node)
        for child in children:
            last = make(salt, child, last, pause)
        below = last.run() if children else 0
    time.sleep(pause)
    return (value + carry + 7 * below) % 1_000_003


def random_trees(
    salt: str,
    seed: int = 0,
    n: int = 10,
    depth: int = 5,
    width: int = 6,
    max_nodes: int = 60,
) -> Outcome:
    """Seeded random trees whose nodes run their children in different ways.

    Modes: call each child directly; make each and run it at once; start all, then
    run all; feed each child to the next; call each in a thread; run each in the same
    process. Some branches are the same, within a tree and in different ones.
    """

    grower = Grower(depth, width)
    specs = [grower.grow(random.Random(seed + i), max_nodes) for i in range(n)]
    seen: set[str] = set()
    expected = [evaluate(spec, 0, seen) for spec in specs]
    begin = time.perf_counter()
    values = run_all([delayed(tree_node)(salt, spec, 0, 0) for spec in specs])
    return outcome(begin, values, expected, len(seen))


WORKLOADS: dict[str, Callable[..., Outcome]] = {
    function.__name__: function
    for function in (
        independent,
        computing,
        one_at_a_time,
        run_while_iterating,
        tree,
        fan,
        sleepers,
        sleeping_trees,
        naps,
        recursion,
        chain,
        big,
        pi,
        random_trees,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", choices=sorted(WORKLOADS))
    parser.add_argument("arguments", nargs="?", default="{}", type=json.loads)
    parser.add_argument("--salt", default="salt")
    parser.add_argument("--pool", type=int, metavar="N", help="local processes only")
    args = parser.parse_args()

    if args.pool:
        seamless.config.set_nparallel(50)
        seamless.transformer.spawn(args.pool)
    else:
        # The configuration is that of the current folder, not of this file's.
        seamless.config.init(workdir=".")
    result = WORKLOADS[args.name](args.salt, **args.arguments)
    seamless.close()
    print(json.dumps(result))


if __name__ == "__main__":
    main()

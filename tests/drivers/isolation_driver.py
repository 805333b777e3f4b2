"""A driver script: the programs of ``isolation_programs.py``, all together.

Prints, as JSON, what each program gave for each number, and what examples gave whose
values are known.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import seamless
import seamless.config
from seamless.transformer import CompiledTransformer, Transformation, delayed

# also as a script
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples/nested_pi"))

import nested_pi
from drivers import isolation_programs


def arguments(name: str, number: int, library: str) -> dict[str, Any]:
    """The arguments of a program."""
    if name.startswith("c_library"):
        return {"number": number, "library": library}
    return {"number": number}


def outcomes(nodes: Sequence[Transformation]) -> list[Any]:
    """Start all; their values in order, or why there is none."""
    for node in nodes:
        node.start()
    values: list[Any] = []
    for node in nodes:
        node.compute()
        values.append(str(node.exception) if node.exception else plain(node.run()))
    return values


def plain(value: Any) -> Any:
    """As JSON has it; a compiled transformation gives a number of numpy."""
    return value.item() if hasattr(value, "item") else value


def shipped(number: int) -> Transformation:
    """A program with a module of its own, under a name that all use."""

    def use(number):
        import time

        from .shipped_module import value

        time.sleep(0.02)
        from .shipped_module import uses
        from .shipped_module import value as again

        uses.append(number)
        return [value, again, len(uses)]

    path = Path(tempfile.mkdtemp()) / "shipped_module.py"
    path.write_text(f"value = {10 * number}\nuses = []\n")
    module = types.ModuleType("shipped_module")
    module.__file__ = str(path)
    transformer = delayed(use)
    transformer.modules.shipped_module = module
    return transformer(number)


def shipped_expected(number: int) -> list[int]:
    return [10 * number, 10 * number, 1]


COMPILED_SCHEMA = """
inputs:
  - {name: a, dtype: int32}
outputs:
  - {name: result, dtype: int32}
"""

COMPILED_CODE = """
#include <stdint.h>
static int32_t calls = 0;
int transform(int32_t a, int32_t *result) {
    calls += 1;
    *result = 1000 * calls + a;
    return 0;
}
"""


def compiled(number: int, salt: str = "") -> Transformation:
    """C code with a static variable, compiled by the cluster."""
    transformer = CompiledTransformer("c")
    transformer.schema = COMPILED_SCHEMA
    transformer.code = f"{COMPILED_CODE}/* {salt} */\n"
    return transformer(a=number)


def compiled_expected(number: int) -> int:
    return 1000 + number


def pi_example(seed: int) -> Transformation:
    """One tree of the example: two batches of two samples."""
    return nested_pi.estimate(seed, 2, 2, 5000)


def pi_expected(seed: int) -> list[list[int]]:
    """The same by plain Python, each sample with a generator of its own."""

    def sample(seed: int) -> int:
        draw = random.Random(seed).random
        return sum(draw() ** 2 + draw() ** 2 < 1 for _ in range(5000))

    batches = [100 * seed + n for n in range(2)]
    return [[sample(100 * batch + n) for n in range(2)] for batch in batches]


#: transformation and value of each number
EXAMPLES: dict[str, tuple[Callable[[int], Transformation], Callable[[int], Any]]] = {
    "pi_example": (pi_example, pi_expected),
    "shipped": (shipped, shipped_expected),
    "compiled": (compiled, compiled_expected),
}


def main() -> None:
    counts, library = json.loads(sys.argv[1])
    seamless.config.init(workdir=".")
    calls = [(name, n) for n in range(max(counts.values())) for name in counts]
    calls = [(name, number) for name, number in calls if number < counts[name]]
    nodes = [
        EXAMPLES[name][0](number)
        if name in EXAMPLES
        else delayed(isolation_programs.PROGRAMS[name])(
            **arguments(name, number, library)
        )
        for name, number in calls
    ]
    values: dict[str, list[Any]] = {name: [] for name, _number in calls}
    for (name, _number), value in zip(calls, outcomes(nodes), strict=True):
        values[name].append(value)
    seamless.close()
    print(json.dumps(values))


if __name__ == "__main__":
    main()

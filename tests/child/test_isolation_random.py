"""Random programs that change what is global, several at once, against each alone."""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest
from drivers.isolation_driver import outcomes
from helpers.alone import alone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from seamless.transformer import delayed

from seamless_dask import SeamlessDaskClient

pytestmark = pytest.mark.cluster

#: programs of one example; there are six slots
TOGETHER = 8


def interpret(steps, salt):
    """Execute the steps, return what they find; a call has steps of its own."""
    import decimal
    import os
    import random
    import shutil
    import tempfile
    import time
    import warnings

    import numpy
    from seamless.transformer import delayed, direct

    folder = None
    found = [salt]
    # Nothing is drawn that nobody has seeded.
    random.seed(1)
    numpy.random.seed(1)
    for number, (step, *values) in enumerate(steps):
        if step == "seed":
            random.seed(values[0])
            numpy.random.seed(values[0])
        elif step == "draw":
            found.append([random.random(), random.gauss(0, 1)])
            found.append([float(numpy.random.random()), float(numpy.random.normal())])
        elif step == "chdir" or (step == "write" and folder is None):
            folder = tempfile.mkdtemp()
            os.chdir(folder)
        elif step == "delete" and folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        elif step == "where":
            try:
                here = os.getcwd()
                found.append(folder is None or os.path.samefile(here, folder))
            except FileNotFoundError:
                found.append("deleted")
        elif step == "write":
            try:
                with open(values[0], "w") as file:
                    file.write(values[1])
            except FileNotFoundError:
                found.append("no directory")
        elif step == "read":
            try:
                with open(values[0]) as file:
                    found.append(file.read())
            except FileNotFoundError:
                found.append(None)
        elif step == "setenv":
            os.environ[values[0]] = values[1]
        elif step == "getenv":
            found.append(os.environ.get(values[0]))
        elif step == "umask":
            found.append(os.umask(values[0]))
        elif step == "precision":
            found.append(decimal.getcontext().prec)
            decimal.getcontext().prec = values[0]
        elif step == "divide":
            found.append(str(decimal.Decimal(1) / 7))
        elif step == "filter":
            warnings.filterwarnings(values[0], message="random program")
        elif step == "warn":
            try:
                warnings.warn("random program", stacklevel=1)
                found.append("nothing")
            except UserWarning:
                found.append("error")
        elif step == "sleep":
            time.sleep(values[0] / 1000)
        elif step == "call":
            found.append(direct(interpret)(values[0], f"{salt}/{number}"))
        elif step == "calls":
            calls = [
                delayed(interpret)(value, f"{salt}/{number}/{i}")
                for i, value in enumerate(values[0])
            ]
            for call in calls:
                call.start()
            found.append([call.run() for call in calls])
    return found


NAMES = st.sampled_from(["of_a", "of_b"])
TEXTS = st.sampled_from(["1", "2", "3"])
SIMPLE = st.one_of(
    st.tuples(st.just("seed"), st.integers(0, 3)),
    st.tuples(st.sampled_from(["draw", "draw", "chdir", "delete", "where"])),
    st.tuples(st.just("write"), NAMES, TEXTS),
    st.tuples(st.just("read"), NAMES),
    st.tuples(st.just("setenv"), NAMES, TEXTS),
    st.tuples(st.just("getenv"), NAMES),
    st.tuples(st.just("umask"), st.sampled_from([0o000, 0o022, 0o027, 0o077])),
    st.tuples(st.just("precision"), st.integers(3, 9)),
    st.tuples(st.sampled_from(["divide", "warn"])),
    st.tuples(st.just("filter"), st.sampled_from(["error", "ignore"])),
    st.tuples(st.just("sleep"), st.integers(1, 5)),
)
LEAVES = st.lists(SIMPLE, max_size=8)
CALLERS = st.lists(
    st.one_of(
        SIMPLE,
        SIMPLE,
        st.tuples(st.just("call"), LEAVES),
        st.tuples(st.just("calls"), st.lists(LEAVES, min_size=2, max_size=3)),
    ),
    min_size=3,
    max_size=10,
)
PROGRAMS = st.lists(
    st.one_of(SIMPLE, SIMPLE, SIMPLE, st.tuples(st.just("call"), CALLERS)),
    min_size=5,
    max_size=14,
)


def as_lists(value: Any) -> Any:
    return (
        [as_lists(item) for item in value] if isinstance(value, tuple | list) else value
    )


SALTS = map(str, itertools.count())


# The scheduler draws in its thread while hypothesis does.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
@settings(
    max_examples=8,
    derandomize="CI" in os.environ,
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(PROGRAMS.map(as_lists), min_size=TOGETHER, max_size=TOGETHER))
def test_random_programs_give_what_they_give_alone(
    dummy: SeamlessDaskClient, programs: list[Any]
) -> None:
    """All of an example at once; calls between any two steps."""
    # With a salt none is found among those that have been executed before.
    calls = [{"steps": steps, "salt": next(SALTS)} for steps in programs]
    given_ = outcomes([delayed(interpret)(**call) for call in calls])
    expected = alone([(interpret, call) for call in calls])
    for program, value, known in zip(programs, given_, expected, strict=True):
        assert value == known, program

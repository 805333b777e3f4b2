"""Whatever is killed, cancelled or away, nothing hangs, lies or stays behind.

``python benchmarks/soak.py --faults`` does the same for longer.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any

import pytest
from helpers.paths import BENCHMARKS
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(BENCHMARKS))

import faults
from faults import Happened, Outcome

SEED = 1
#: one round with each kind of fault
SHORT: dict[str, Any] = {"lengths": (18.0, 18.0), "pause": (0.4, 1.2)}


@pytest.mark.cluster
def test_all_faults_on_the_real_stack(capsys: pytest.CaptureFixture[str]) -> None:
    """A fixed plan, which has every kind of fault; it prints what it does."""
    import fault_soak

    (planned,) = itertools.islice(faults.rounds(SEED, **SHORT), 1)
    assert {fault.kind for fault in planned.faults} > set(faults.DECK)
    problems = fault_soak.run(SEED, 18.0, **SHORT)
    out = capsys.readouterr().out
    assert problems == [], out
    assert "nothing is wrong" in out
    assert all(kind in out for kind in faults.DECK)


# -- the plan ----------------------------------------------------------------------


@given(st.integers())
def test_a_seed_gives_one_plan(seed: int) -> None:
    """Again and again, with each outage having its end before the next begins."""
    plan = list(itertools.islice(faults.rounds(seed), 4))
    assert plan == list(itertools.islice(faults.rounds(seed), 4))
    for planned in plan:
        assert list(planned.faults) == sorted(planned.faults)
        away: set[str] = set()
        for fault in planned.faults:
            how, _, service = fault.kind.partition(" the ")
            if how in faults.ENDS:
                assert service not in away
                away.add(service)
            elif how in faults.ENDS.values():
                away.remove(service)
        assert not away
    assert faults.batch(seed, 1, 0, 2) == faults.batch(seed, 1, 0, 2)


def test_each_kind_comes() -> None:
    """In two decks, for any seed."""
    for seed in range(20):
        kinds = [
            fault.kind
            for planned in itertools.islice(faults.rounds(seed), 8)
            for fault in planned.faults
        ]
        assert set(faults.DECK) <= set(kinds)


# -- which errors are expected -----------------------------------------------------


def outcome(**values: Any) -> Outcome:
    return Outcome("tree", 0, begin=100.0, end=200.0, **values)


LOST = (
    "RuntimeError: The Seamless process that ran transformation c was lost 3 times:\n"
)

#: what is right, and what happened
EXPECTED: dict[str, Callable[[], tuple[Outcome, Happened]]] = {
    "the value": lambda: (outcome(value=1), Happened()),
    "cancelled": lambda: (
        outcome(error="TransformationError: Transformation was canceled"),
        Happened(cancels={"c": [150.0]}),
    ),
    "a part was cancelled": lambda: (
        outcome(error="RuntimeError: Transformation was canceled"),
        Happened(cancels={"d": [150.0]}),
    ),
    "killed three times": lambda: (
        outcome(error=LOST),
        Happened(processes=[120.0, 130.0, 140.0]),
    ),
}
WRONG: dict[str, Callable[[], tuple[Outcome, Happened]]] = {
    "another value": lambda: (outcome(value=2), Happened()),
    "no value": lambda: (outcome(), Happened()),
    "nobody cancelled": lambda: (
        outcome(error="Transformation was canceled"),
        Happened(cancels={"other": [150.0]}),
    ),
    "cancelled later": lambda: (
        outcome(error="Transformation was canceled"),
        Happened(cancels={"c": [250.0]}),
    ),
    "cancelled long before": lambda: (
        outcome(error="Transformation was canceled"),
        Happened(cancels={"c": [10.0]}),
    ),
    "killed twice": lambda: (
        outcome(error=LOST),
        Happened(processes=[120.0, 130.0, 240.0]),
    ),
    "workers killed": lambda: (
        outcome(error="Task base-c failed: KilledWorker()"),
        Happened(workers=[110.0] * 10),
    ),
    "anything else": lambda: (
        outcome(error="RuntimeError: Healthcheck failed"),
        Happened(cancels={"c": [150.0]}, processes=[150.0] * 9),
    ),
}


@pytest.mark.parametrize("case", EXPECTED)
def test_expected(case: str) -> None:
    """The right value, or an error that says what was done to the transformation."""
    told, happened = EXPECTED[case]()
    assert faults.wrong(told, 1, {"c", "d"}, happened) is None


@pytest.mark.parametrize("case", WRONG)
def test_wrong(case: str) -> None:
    """All else."""
    told, happened = WRONG[case]()
    assert faults.wrong(told, 1, {"c", "d"}, happened)


def test_what_is_not_stored() -> None:
    """What was announced and is not there, and what is there and is not right."""
    right = {"a": "1", "b": "2", "c": "3"}
    assert faults.not_stored(right, {"a": "1", "b": "2"}, ["a", "b"]) == []
    problems = faults.not_stored(right, {"a": "1", "c": "4"}, ["a", "b"])
    assert len(problems) == 2
    assert "b: its result is announced but not stored" in problems[0]
    assert "c: the result 4 is stored, right is 3" in problems[1]

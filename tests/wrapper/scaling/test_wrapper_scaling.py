"""How many workers are wanted, and when that changes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seamless_dask.wrapper.launch import policy as policy_of
from seamless_dask.wrapper.scaling.policy import ScalingPolicy
from seamless_dask.wrapper.settings.parameters import Parameters


@dataclass(frozen=True)
class Work:
    """A demand as the plugin reports it."""

    ready: int = 0
    held: int = 0
    top_level: int = 0
    permissions: int = 0
    expected_seconds: float = 0.0
    unknown: int = 0


def of(ready: int, seconds_each: float = 60.0, **more: int) -> Work:
    return Work(
        ready=ready, expected_seconds=ready * seconds_each, top_level=ready, **more
    )


def policy(**options) -> ScalingPolicy:
    defaults = {
        "minimum": 0,
        "maximum": 1000,
        "slots_per_worker": 6,
        "target_duration": 600.0,
        "idle_seconds": 30.0,
    }
    return ScalingPolicy(**{**defaults, **options})


@pytest.mark.parametrize(
    ("options", "work", "workers"),
    [
        ({}, Work(), 0),
        ({"minimum": 1}, Work(), 1),
        ({}, of(1, 0.001), 1),
        ({}, of(300), 5),
        ({}, of(300, 0.001), 1),
        ({"maximum": 4}, of(300), 4),
        ({}, of(7, 36_000), 2),  # no more than there is work for
        ({}, Work(held=2), 1),
        ({}, Work(permissions=12, expected_seconds=7200.0), 2),
        ({"exclusive": True}, of(7, 0.001), 7),
        ({"exclusive": True}, Work(held=3, top_level=3), 3),
        # nested work of one exclusive task may use other workers
        (
            {"exclusive": True},
            Work(ready=100, held=1, top_level=1, expected_seconds=6000.0),
            10,
        ),
        ({"processes": 4}, of(300), 8),
        ({"processes": 4, "maximum": 4}, of(300), 4),
        ({"processes": 4, "minimum": 4}, Work(), 4),
    ],
)
def test_the_need(options, work, workers) -> None:
    """The target duration, the number of tasks, the bounds, and whole jobs."""
    assert policy(**options).decide(work, 0, 0.0)[0] == workers


def test_the_reason_can_be_read() -> None:
    """It shows the calculation and the bound that applies."""
    work = of(300, unknown=300)
    assert policy(maximum=4, unit="job").decide(work, 2, 0.0) == (
        4,
        "300 ready tasks, expected 300 min (60 s each, unknown) / 10 min x 6 slots "
        "-> 5 jobs; maximum_jobs is 4; there are 2",
    )
    assert policy(minimum=1).decide(Work(), 1, 0.0) == (
        1,
        "no work -> 0 workers; the minimum is 1, since the cluster is interactive; "
        "there are 1",
    )
    work = of(24, 52.5)
    assert policy(target_duration=10.0).decide(work, 0, 0.0) == (
        4,
        "24 ready tasks, expected 21 min (52.5 s each) / 10 s x 6 slots -> 21 workers; "
        "24 tasks can use 4; there are 0",
    )
    assert (
        policy(target_duration=10.0, maximum=3)
        .decide(work, 0, 0.0)[1]
        .endswith("-> 21 workers; 24 tasks can use 4; maximum_jobs is 3; there are 0")
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"minimum": -1},
        {"maximum": 0},
        {"minimum": 2, "maximum": 1},
        {"slots_per_worker": 0},
        {"target_duration": 0.0},
        {"idle_seconds": math.nan},
    ],
)
def test_nonsense_is_named(wrong) -> None:
    """The error says which number is wrong, and what is allowed."""
    with pytest.raises(
        ValueError, match=rf"(maximum|{list(wrong)[-1]}): got .*allowed"
    ):
        policy(**wrong)


@pytest.mark.parametrize(
    ("parameters", "workers"),
    [
        # 3600 minutes, and 10 min x 24 processes x 3
        ({"cores": 24}, 5),
        ({"cores": 24, "dask_resources": {"S": 12}}, 30),
        ({"cores": 24, "exclusive": True}, 50),
        ({"cores": 24, "processes": 2}, 6),
        ({"pure_dask": True}, 50),
        ({"pure_dask": True, "worker_threads": 30}, 12),
        ({"cores": 24, "target_duration": "1h"}, 1),
        ({"cores": 24, "maximum_jobs": 3}, 3),
    ],
)
def test_slots_and_bounds_follow_the_parameters(parameters, workers) -> None:
    """S scales the target duration: it is how much a worker does at a time."""
    p = policy_of(Parameters(**{"maximum_jobs": 50, **parameters}))
    assert p.decide(of(3600), 0, 0.0)[0] == workers


def test_up_at_once_and_down_after_a_while() -> None:
    """What was needed less than idle_seconds ago is kept."""
    p = policy()
    assert p.decide(of(300), 0, 0.0)[0] == 5
    assert p.decide(of(120), 5, 10.0)[0] == 5
    assert p.decide(of(600), 5, 20.0)[0] == 10
    assert p.decide(of(240), 10, 21.0)[0] == 10
    assert p.decide(of(60), 10, 40.0)[0] == 10
    # for 30 s 4 workers have been enough, but 1 only for 11 s
    workers, reason = p.decide(of(60), 10, 51.0)
    assert workers == 4
    assert reason.endswith("-> 4 workers; there are 10, more were not needed for 30 s")
    assert p.decide(Work(), 4, 69.9)[0] == 4
    assert p.decide(Work(), 4, 70.0)[0] == 1
    assert p.decide(Work(), 1, 99.9)[0] == 0


def test_no_flapping() -> None:
    """A demand that comes and goes within idle_seconds keeps its workers."""
    p = policy()
    answers = [
        p.decide(of(300) if now % 20 < 2 else Work(), 5, float(now))[0]
        for now in range(400)
    ]
    assert set(answers) == {5}


def test_a_late_look_does_not_count_as_a_long_time() -> None:
    """When nobody looked for an hour, a lower need is new all the same."""
    p = policy()
    assert p.decide(of(300), 0, 0.0)[0] == 5
    assert p.decide(Work(), 5, 3600.0)[0] == 5
    assert p.decide(Work(), 5, 3630.0)[0] == 0


NEEDS = st.lists(
    st.tuples(
        st.floats(0.0, 40.0),  # seconds since the look before
        st.integers(0, 50),  # tasks, one worker each
    ),
    min_size=1,
)


@given(NEEDS)
def test_the_answer_is_the_largest_need_that_is_not_long_over(looks) -> None:
    """Compared with a look at the whole history."""
    p = policy(slots_per_worker=1, target_duration=1.0)
    history: list[tuple[float, int]] = []
    now, wanted = 0.0, 0
    for step, tasks in looks:
        now += step
        answer, _ = p.decide(of(tasks), wanted, now)
        history.append((now, tasks))
        # the largest number that was exceeded in no look of the last 30 s; for each
        # number, since when nothing above it was needed
        expected = max(n for _, n in history)
        for number in sorted({n for _, n in history}):
            above = [t for t, n in history if n > number]
            after = [t for t, _ in history if not above or t > above[-1]]
            if not above or (after and now - after[0] >= 30.0):
                expected = number
                break
        if len({t for t, _ in history}) == len(history):  # else "after" is ambiguous
            assert answer == expected
        assert answer >= tasks
        wanted = answer


@given(
    ready=st.integers(0, 10**6),
    held=st.integers(0, 1000),
    permissions=st.integers(0, 1000),
    each=st.floats(0.0, 1e6),
    exclusive=st.booleans(),
    slots=st.integers(1, 100),
    processes=st.integers(1, 8),
    jobs=st.tuples(st.integers(0, 3), st.integers(3, 50)),
)
def test_bounds(
    ready, held, permissions, each, exclusive, slots, processes, jobs
) -> None:
    """Whole jobs, minimum and maximum, and one worker while anything is to be done."""
    work = Work(
        ready=ready,
        held=held,
        top_level=ready + held,
        permissions=permissions,
        expected_seconds=each * (ready + permissions),
    )
    minimum, maximum = (number * processes for number in jobs)
    workers, _ = policy(
        minimum=minimum,
        maximum=maximum,
        slots_per_worker=slots,
        exclusive=exclusive,
        processes=processes,
    ).decide(work, 0, 0.0)
    assert workers % processes == 0
    assert minimum <= workers <= maximum
    if ready or held or permissions:
        assert workers >= processes
    elif not minimum:
        assert workers == 0
    if exclusive:
        assert workers >= min(maximum, ready + held)
    else:
        least = max(bool(held), math.ceil((ready + permissions) / slots))
        assert workers <= max(minimum, math.ceil(least / processes) * processes)

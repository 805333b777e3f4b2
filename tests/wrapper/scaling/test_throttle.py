"""The throttle of a queue, from ``clusters.yaml`` to the workers."""

from __future__ import annotations

import pytest
from helpers.stack import RealStack

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize(
    "extra",
    [
        {"seamless.transformation-throttle": 1},
        {"seamless": {"transformation_throttle": 1}},
    ],
)
def test_a_queue_may_have_a_throttle_of_its_own(extra: dict[str, object]) -> None:
    """seamless-config hands on ``extra_dask_config`` as it is; two processes here."""
    with RealStack(queue={"extra_dask_config": extra}) as stack:
        run = stack.run_workload("tree", n=3, timeout=120)
        assert run.outcome["values_ok"]
        assert stack.scheduler_status()["permissions"]["capacity"] == 2

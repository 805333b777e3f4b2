"""Sections of Dask's configuration that are no mappings are named, all at once."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.written import BATCH, problems


@pytest.mark.parametrize(
    ("extra", "key", "value"),
    [
        ({"jobqueue": 5}, "jobqueue", 5),
        ({"jobqueue": {"slurm": []}}, "jobqueue.slurm", []),
        ({"jobqueue.slurm": None}, "jobqueue.slurm", None),
        ({"distributed": 5}, "distributed", 5),
        ({"distributed": None}, "distributed", None),
        ({"distributed.scheduler": 3}, "distributed.scheduler", 3),
        ({"distributed": {"worker": []}}, "distributed.worker", []),
        ({"distributed.nanny": "a"}, "distributed.nanny", "a"),
        ({"distributed.comm": 3}, "distributed.comm", 3),
        ({"distributed.comm.timeouts": 3}, "distributed.comm.timeouts", 3),
        ({"distributed.admin": True}, "distributed.admin", True),
        ({"distributed.worker.memory": 1}, "distributed.worker.memory", 1),
        ({"logging": 5}, "logging", 5),
        ({"seamless-dask": 5}, "seamless-dask", 5),
    ],
)
def test_sections_of_the_configuration_are_mappings(
    extra: dict[str, Any], key: str, value: Any
) -> None:
    import distributed  # noqa: F401 - it adds defaults

    sentence = f"Dask's configuration {key} = {value!r}: allowed is a mapping"
    assert problems("slurm", {**BATCH, "extra_dask_config": extra}) == [sentence]
    local = problems("", {"extra_dask_config": extra})
    assert local == ([] if key.startswith("jobqueue") else [sentence])


def test_all_sections_that_are_no_mappings_at_once() -> None:
    extra = {"jobqueue": 5, "distributed.scheduler": 3, "logging": []}
    raw = {**BATCH, "cores": 4, "processes": 5, "transformation_throttle": 1}
    found = problems("slurm", {**raw, "extra_dask_config": extra})
    assert [problem.split(" = ")[0].split()[-1] for problem in found] == [
        *("distributed.scheduler", "jobqueue", "logging", "processes")
    ]

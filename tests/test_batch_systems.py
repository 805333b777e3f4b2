"""The wrapper on real batch systems."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from batch_systems import BatchSystem

pytestmark = pytest.mark.cluster


def test_slurm_has_four_nodes(slurm: BatchSystem) -> None:
    """The cluster that the other tests use."""
    assert slurm.run("sinfo", "-h", "-N", "-o", "%N").split() == [
        "n1",
        "n2",
        "n3",
        "n4",
    ]

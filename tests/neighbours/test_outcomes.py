"""What a Transformation learns of its task, on real Transformation objects."""

from __future__ import annotations

from typing import Any

import pytest
from seamless import Checksum
from seamless.transformer import delayed

from seamless_dask.neighbours import transformation as outcomes
from seamless_dask.types import TransformationResult

TF, RESULT = "1" * 64, "2" * 64


@pytest.fixture
def transformation() -> Any:
    def twice(value):
        return 2 * value

    return delayed(twice)(21)


def test_a_result(transformation: Any) -> None:
    assert not outcomes.is_settled(transformation)
    outcomes.apply(transformation, TransformationResult(TF, RESULT))
    assert outcomes.is_settled(transformation)
    assert transformation.exception is None
    assert transformation.result_checksum == Checksum(RESULT)
    assert transformation._transformation_checksum == Checksum(TF)


@pytest.mark.parametrize("tf_checksum", [TF, None])
def test_an_error_stays_until_it_is_cleared(
    transformation: Any, tf_checksum: str | None
) -> None:
    outcomes.apply(transformation, TransformationResult(tf_checksum, None, "so bad\n"))
    assert outcomes.is_settled(transformation)
    assert transformation.exception == "so bad\n"
    assert "exception" in transformation.status.lower()
    transformation.clear_exception()
    assert not outcomes.is_settled(transformation)
    assert transformation.exception is None


def test_a_task_without_result_and_error_is_an_error(transformation: Any) -> None:
    outcomes.apply(transformation, TransformationResult(TF, None))
    assert "unavailable" in transformation.exception


def test_a_cancelled_one_learns_nothing_more(transformation: Any) -> None:
    transformation._mark_cancelled()
    before = transformation.exception
    outcomes.apply(transformation, TransformationResult(TF, RESULT))
    outcomes.fail(transformation, "so bad")
    assert transformation.exception == before
    assert transformation._result_checksum is None


def test_a_written_remote_job_is_no_result(transformation: Any) -> None:
    from seamless_transformer.remote_job import encode_remote_job_written

    marker = encode_remote_job_written("/where/it/is")
    outcomes.apply(transformation, TransformationResult(TF, marker))
    assert "/where/it/is" in transformation.exception
    assert transformation._result_checksum is None

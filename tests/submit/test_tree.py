"""Trees of transformations, evaluated with a client that computes nothing itself.

The client has the documented methods only, and ends each task as a test says.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from seamless import Buffer, Checksum
from seamless.transformer import delayed

from seamless_dask.submit import tree
from seamless_dask.submit.other_clients import adapt
from seamless_dask.types import TransformationSubmission


class Client:
    """Keeps what is submitted, and ends it at once or when it is told to."""

    def __init__(self, end: Callable[[TransformationSubmission, Any], object]) -> None:
        self.submitted: list[TransformationSubmission] = []
        self.released: list[bool] = []
        self._end = end

    def submit_transformation(self, submission: TransformationSubmission) -> Any:
        self.submitted.append(submission)
        thin: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._end(submission, thin)
        return SimpleNamespace(base=thin, thin=thin, fat=None)

    def release_transformation_futures(self, futures: Any, cancel: bool) -> None:
        self.released.append(cancel)
        if cancel:
            futures.thin.cancel()


def with_value(value: int) -> Callable[[TransformationSubmission, Any], object]:
    """End each task with the checksum of a value, whatever it is."""
    result = Checksum(checksum_of(value))

    def end(submission: TransformationSubmission, thin: Any) -> None:
        thin.set_result((submission.tf_checksum, result.hex(), None))

    return end


def checksum_of(value: int) -> str:
    return str(Buffer(value, "mixed").get_checksum().hex())


def chain() -> tuple[Any, Any]:
    """A transformation, and one that has its result as input."""

    def one(value):
        return value + 1

    def two(value):
        return 2 * value

    first = delayed(one)(1)
    return first, delayed(two)(first)


def evaluate(client: Client, transformation: Any) -> None:
    asyncio.run(tree.evaluate(adapt(client), transformation))


def test_each_is_submitted_once_its_inputs_are_known() -> None:
    """A client that cannot defer gets one task after the other."""
    client = Client(with_value(7))
    first, second = chain()
    evaluate(client, second)
    assert [set(s.inputs) for s in client.submitted] == [{"value", "code"}] * 2
    spec = client.submitted[1].inputs["value"]
    assert (spec.kind, spec.checksum) == ("checksum", checksum_of(7))
    for transformation, submission in zip(
        (first, second), client.submitted, strict=True
    ):
        assert transformation.result_checksum == Checksum(checksum_of(7))
        assert transformation.transformation_checksum.hex() == submission.tf_checksum
    assert client.released == [False, False]


def test_what_is_settled_is_not_submitted_again() -> None:
    client = Client(with_value(7))
    _, second = chain()
    evaluate(client, second)
    evaluate(client, second)
    assert len(client.submitted) == 2


def test_a_failed_input_is_named_and_stops_what_needs_it() -> None:
    def end(submission: TransformationSubmission, thin: Any) -> None:
        thin.set_result((submission.tf_checksum, None, "so bad"))

    client = Client(end)
    first, second = chain()
    evaluate(client, second)
    assert len(client.submitted) == 1
    assert "so bad" in first.exception
    assert "'value'" in second.exception and "so bad" in second.exception


def test_a_client_that_raises_fails_the_transformation() -> None:
    def end(submission: TransformationSubmission, thin: Any) -> None:
        thin.set_exception(OSError("no cluster"))

    client = Client(end)
    first, second = chain()
    evaluate(client, second)
    assert "no cluster" in first.exception
    assert client.released == [False]  # nothing is held for a failed one


def test_an_input_without_value_is_an_error_before_anything_is_submitted() -> None:
    def one(value, other):
        return value

    client = Client(with_value(7))
    transformation = delayed(one)(None, 1)
    evaluate(client, transformation)
    assert not client.submitted
    assert "'value'" in transformation.exception
    assert "None" in transformation.exception


def test_cancelled_from_elsewhere_while_it_waits() -> None:
    """The caller gets CancelledError, the transformation knows."""
    client = Client(lambda submission, thin: thin.cancel())
    first, second = chain()
    with pytest.raises(asyncio.CancelledError):
        evaluate(client, second)
    assert first._cancelled


def test_nobody_waits_any_more() -> None:
    """What was submitted is given up, and cancelled."""
    client = Client(lambda submission, thin: None)
    first, second = chain()

    async def give_up() -> None:
        task = asyncio.ensure_future(tree.evaluate(adapt(client), second))
        while not client.submitted:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    assert client.released == [True]
    assert first._dask_futures is None
    assert len(client.submitted) == 1

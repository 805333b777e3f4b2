"""What a job has written reaches those who follow it once, and in order."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import pytest

from seamless_dask.child.output import JobOutput


@contextmanager
def job() -> Iterator[JobOutput]:
    """The output of a job that writes into memory, as Seamless lets it."""
    stream = io.TextIOWrapper(io.BytesIO(), write_through=True)
    with redirect_stdout(stream):
        found = JobOutput("job", streams=False)
        found.begin()
        yield found


def texts(pieces: list[Any]) -> str:
    return "".join(text for _, text, _ in pieces)


@pytest.mark.parametrize("streams", [False, True])
def test_whoever_follows_sees_the_same_messages(streams: bool) -> None:
    """Whether the job is streamed before; a question that only looks sees the text."""
    sent: list[dict[str, Any]] = []

    async def follow(output: JobOutput) -> None:
        async def send(message: dict[str, Any]) -> float:
            sent.append(message)
            output.stop()
            return 0.0

        await output.stream(send)

    with job() as output:
        output.streams = streams
        print("early")
        assert texts(output.recent(stream=False)) == "early\n"
        assert output.recent(stream=True) == []
        assert output.recent(stream=True) == []  # somebody else follows it, too
        asyncio.run(asyncio.wait_for(follow(output), 60))
        assert output.recent(stream=True) == []
        print("late")
        last = output.end()
    assert last is not None
    sent.append(last)
    assert [(texts(each["pieces"]), each["number"]) for each in sent] == [
        ("early\n", 0),
        ("late\n", 1),
    ]
    assert [each["ended"] for each in sent] == [False, True]


def test_what_was_written_is_sent_at_the_end_at_the_latest() -> None:
    with job() as output:
        print("early")
        assert output.recent(stream=True) == []
        last = output.end()
    assert last is not None
    assert (texts(last["pieces"]), last["number"], last["ended"]) == (
        "early\n",
        0,
        True,
    )

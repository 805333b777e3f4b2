"""Handles on tasks: what their callers see, and who keeps a task."""

from __future__ import annotations

import asyncio
import concurrent.futures
from types import SimpleNamespace
from typing import Any

import pytest

from seamless_dask.submit import handles
from seamless_dask.submit.envelopes import Envelope
from seamless_dask.submit.handles import Handle
from seamless_dask.submit.registry import Entry, Registry
from seamless_dask.types import TransformationFutures, TransformationResult

RESULT = TransformationResult("1" * 64, "2" * 64, content=b"7")


class Keeper:
    """Counts handles as a client does, and cancels what nobody wants."""

    def __init__(self) -> None:
        self.registry = Registry(lambda entry: None)

    def entry(self) -> Entry:
        anchor: Any = SimpleNamespace()
        envelope = Envelope({}, False)
        entry = Entry("base-1", "base-1", "1" * 64, lambda: anchor, anchor, envelope)
        self.registry.add(entry)
        return entry

    def hold(self, entry: Entry) -> None:
        self.registry.hold(entry)

    def unhold(self, entry: Entry, *, cancel: bool) -> None:
        if self.registry.unhold(entry, cancel=cancel):
            entry.outcome.cancel()


@pytest.fixture
def keeper() -> Keeper:
    return Keeper()


def test_a_result_is_converted_for_each_handle(keeper: Keeper) -> None:
    entry = keeper.entry()
    base = Handle(keeper, entry, lambda result: result)
    thin = Handle(keeper, entry, TransformationResult.thin)
    assert not base.done()
    entry.outcome.set_result(RESULT)
    assert base.done() and not base.cancelled()
    assert base.result() == RESULT
    assert thin.result() == ("1" * 64, "2" * 64, None)
    assert base.key == thin.key == "base-1"


def test_a_released_handle_cancels_only_what_nobody_else_wants(keeper: Keeper) -> None:
    entry = keeper.entry()
    first, second = (Handle(keeper, entry, lambda result: result) for _ in range(2))
    first.release(cancel=True)
    assert first.cancelled() and first.done()
    assert not second.cancelled() and not entry.outcome.done()
    first.release(cancel=True)  # once more changes nothing
    assert not entry.outcome.done()
    with pytest.raises(concurrent.futures.CancelledError):
        first.result()
    second.release(cancel=True)
    assert entry.outcome.cancelled()


def test_a_task_whose_handles_are_only_released_goes_on(keeper: Keeper) -> None:
    entry = keeper.entry()
    handle = Handle(keeper, entry, lambda result: result)
    handle.release()
    assert not entry.outcome.done() and not handle.cancelled()
    entry.outcome.set_result(RESULT)
    assert handle.result() == RESULT


def test_waiting_for_a_handle(keeper: Keeper) -> None:
    """It ends with the task, with its cancellation, and alone if the waiter is."""
    entry = keeper.entry()
    handle = Handle(keeper, entry, lambda result: result.result_checksum)

    async def wait() -> None:
        waiter = asyncio.ensure_future(handle.wait())
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert not entry.outcome.done()
        loop = asyncio.get_running_loop()
        loop.call_soon(entry.outcome.set_result, RESULT)
        assert await handle.wait() == "2" * 64
        cancelled = keeper.entry()
        other = Handle(keeper, cancelled, lambda result: result)
        loop.run_in_executor(None, cancelled.outcome.cancel)
        with pytest.raises(asyncio.CancelledError):
            await other.wait()

    asyncio.run(wait())


def test_what_is_left_of_futures_when_the_task_has_ended(keeper: Keeper) -> None:
    """The key and the outcome, without the buffer; no task is under way."""
    entry = keeper.entry()
    base = Handle(keeper, entry, lambda result: result)
    thin = Handle(keeper, entry, TransformationResult.thin)
    futures = TransformationFutures(base=base, thin=thin, tf_checksum=None, entry=entry)
    assert handles.under_way(futures)
    left = handles.ended(futures, RESULT)
    assert not handles.under_way(left)
    assert not handles.under_way(None)
    assert left.base.key == "base-1"
    assert left.base.done() and not left.base.cancelled()
    assert left.base.result().content is None
    assert left.thin.result() == RESULT.thin()
    assert left.tf_checksum == "1" * 64

"""What a client remembers of its submissions, compared with a plain model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from helpers.examples import examples
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from scheduler_ext.task_keys import name_and_attempt, task_key_of
from seamless_dask.submit.envelopes import Envelope
from seamless_dask.submit.registry import (
    Entry,
    Registry,
)
from seamless_dask.types import TransformationResult

NAMES = ("base-a", "base-b", "base-c-driver")
numbers = st.integers(0, 20)


def entry_of(name: str, key: str, tf_checksum: str | None) -> Entry:
    anchor: Any = SimpleNamespace()
    envelope = Envelope({}, False)
    return Entry(name, key, tf_checksum, lambda: anchor, anchor, envelope)


class Submissions(RuleBasedStateMachine):
    """Somebody submits, waits, cancels, forgets, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.dropped: list[Entry] = []
        self.registry = Registry(self.dropped.append)
        self.now = 0.0
        #: {name: the entry that a submission would join}
        self.current: dict[str, Entry] = {}
        #: {key that the scheduler may know: when it was dropped, None if it was not}
        self.used: dict[str, float | None] = {}
        #: entries of which somebody has a handle, one for each handle
        self.handles: list[Entry] = []

    @rule(name=st.sampled_from(NAMES), known=st.booleans())
    def submit(self, name: str, known: bool) -> None:
        expected = self.current.get(name)
        foretold = self.registry.key(name)
        entry = self.registry.reuse(name, self.now)
        if expected is None or expected.failed():
            assert entry is None
            key = self.registry.key(name)
            assert key == foretold
            assert name_and_attempt(key)[0] == name
            assert key not in self.used, "a failed task and a new one share a key"
            if expected is not None:
                self._forgotten(expected)
            entry = entry_of(name, key, f"checksum of {name}" if known else None)
            self.registry.add(entry)
            self.current[name] = entry
            self.used[key] = None
        else:
            assert entry is expected
            assert entry.key == foretold
        assert self.registry.of_key(entry.key) is entry
        self.registry.hold(entry)
        self.handles.append(entry)

    @precondition(lambda self: self.handles)
    @rule(number=numbers, how=st.sampled_from(["value", "error", "cancelled"]))
    def end(self, number: int, how: str) -> None:
        entry = self.handles[number % len(self.handles)]
        if entry.outcome.done():
            return
        entry.last_used = self.now
        if how == "cancelled":
            entry.outcome.cancel()
        else:
            error = "it failed" if how == "error" else None
            result = TransformationResult(f"checksum of {entry.name}", "0", error)
            entry.outcome.set_result(result)
            self.registry.learn(entry, f"checksum of {entry.name}")
            if self.current.get(entry.name) is entry:
                assert self.registry.of_checksum(f"checksum of {entry.name}") is entry

    @precondition(lambda self: self.handles)
    @rule(number=numbers, cancel=st.booleans())
    def release(self, number: int, cancel: bool) -> None:
        entry = self.handles.pop(number % len(self.handles))
        last = not any(other is entry for other in self.handles)
        ended = entry.outcome.done()
        abandoned = self.registry.unhold(entry, cancel=cancel)
        assert abandoned == (cancel and last and not ended)
        if abandoned:
            self._forgotten(entry)
            entry.outcome.cancel()

    @rule(name=st.sampled_from(NAMES))
    def cancelled_on_the_scheduler(self, name: str) -> None:
        """As the client does: it forgets the task, and is told which keys are gone."""
        entry = self.current.get(name)
        if entry is None or entry.outcome.done():
            return
        self.registry.forget(entry)
        entry.outcome.cancel()
        self._forgotten(entry)
        self.registry.cancelled(entry.key, self.now)
        assert self.registry.key(name) not in self.used

    @rule(seconds=st.floats(0.0, 10.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        deadline = self.now - 10.0
        self.registry.prune(deadline)
        for entry in list(self.current.values()):
            if entry.outcome.done() and entry.last_used < deadline:
                self._forgotten(entry)
                self.used.pop(entry.key, None)  # long enough ago
        self.used = {
            key: dropped
            for key, dropped in self.used.items()
            if dropped is None or dropped >= deadline
        }

    def _forgotten(self, entry: Entry) -> None:
        """Its key may be used again some time after that."""
        assert any(dropped is entry for dropped in self.dropped)
        if self.current.get(entry.name) is entry:
            del self.current[entry.name]
        if entry.failed():
            self.used[entry.key] = self.now
        else:  # who submits it again has the same result, or joins it
            del self.used[entry.key]

    def teardown(self) -> None:
        assert len(self.registry) == len(self.current)
        for name, entry in self.current.items():
            assert self.registry.of_key(entry.key) is entry
            if not entry.failed():
                assert self.registry.key(name) == entry.key
        for entry in self.current.values():
            if not entry.outcome.done():
                entry.outcome.cancel()
        self.registry.prune(float("inf"))
        assert self.registry.idle
        assert {id(entry) for entry in self.current.values()} <= {
            id(entry) for entry in self.dropped
        }


Submissions.TestCase.settings = settings(max_examples=examples(100))
TestSubmissions = Submissions.TestCase


@pytest.mark.parametrize("name", ["base-a", "base-a-r", "base-r2-driver"])
@pytest.mark.parametrize("attempt", [0, 1, 12])
def test_keys_of_attempts_can_be_read(name: str, attempt: int) -> None:
    assert name_and_attempt(task_key_of(name, attempt)) == (name, attempt)


def test_only_what_is_under_way_has_an_active_envelope() -> None:
    registry = Registry(lambda entry: None)
    entry = entry_of("base-a", "base-a", "a")
    registry.add(entry)
    assert registry.active_envelopes("a") == [entry.envelope]
    assert registry.active_envelopes("b") == []
    entry.outcome.set_result(TransformationResult("a", "0"))
    assert registry.active_envelopes("a") == []

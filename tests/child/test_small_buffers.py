"""Small buffers that travel with messages: nothing is lost, nothing grows for ever."""

from __future__ import annotations

import pickle

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from seamless import Buffer, Checksum

from seamless_dask.child.small_buffers import (
    OVERHEAD,
    ResultChecksum,
    SmallBuffers,
    checksums_of_request,
)

names = st.sampled_from([f"{i:064x}" for i in range(12)])


class Conversation(RuleBasedStateMachine):
    """A process and its parent, where requests overtake each other."""

    def __init__(self) -> None:
        super().__init__()
        self.small = SmallBuffers(capacity=50 + 5 * OVERHEAD)
        #: what the process has made and may need to send
        self.made: dict[str, bytes] = {}
        #: what has arrived at the parent
        self.parent: dict[str, bytes] = {}
        #: requests that were sent and have not been answered
        self.flying: list[dict[str, bytes]] = []

    @rule(name=names, size=st.integers(1, 20))
    def make(self, name: str, size: int) -> None:
        content = self.made.get(name, b"x" * size)
        self.made[name] = content
        self.small.made(name, content)

    @rule(name=names)
    def receive(self, name: str) -> None:
        """An input comes with a job."""
        content = self.made.setdefault(name, b"y" * 5)
        self.parent[name] = content
        self.small[name] = content

    @rule(wanted=st.sets(names, max_size=4))
    def request(self, wanted: set[str]) -> None:
        sent = self.small.for_request(wanted)
        # The parent can work with what it has and what came along.
        for name in wanted & set(self.made):
            assert name in sent or name in self.parent
        self.parent.update(sent)
        self.flying.append(sent)

    @rule(index=st.integers(0, 5))
    def answer(self, index: int) -> None:
        if self.flying:
            self.small.confirm(self.flying.pop(index % len(self.flying)))

    @rule()
    def finish(self) -> None:
        """A job ends: afterwards the parent has everything."""
        self.parent.update(self.small.for_result())
        assert set(self.made) <= set(self.parent)

    @invariant()
    def bounded_and_right(self) -> None:
        held = self.small._contents.values()
        size = sum(len(content) + OVERHEAD for content in held)
        assert self.small._size == size <= 50 + 5 * OVERHEAD
        for name, content in self.made.items():
            assert self.small.get(name) in (content, None)
            # what the parent lacks is never dropped
            assert name in self.parent or self.small.get(name) == content


TestConversation = Conversation.TestCase


@given(st.dictionaries(names, st.binary(max_size=9), max_size=3))
def test_result_travels_with_buffers(buffers: dict[str, bytes]) -> None:
    """As a checksum that anybody can use, with the buffers for those who know."""
    result = ResultChecksum("a" * 64, buffers)
    copy = pickle.loads(pickle.dumps(result))
    assert isinstance(copy, Checksum)
    assert copy.hex() == "a" * 64
    assert copy.buffers == buffers


def test_checksums_of_a_request() -> None:
    """Pins, the transformation itself, and checksums in dunders."""
    pin = Buffer(b"pin").get_checksum()
    request = {
        "tf_checksum": Checksum("1" * 64),
        "transformation_dict": {
            "__language__": "python",
            "__env__": "2" * 64,
            "__output__": ("result", "mixed", None),
            "x": ("mixed", None, pin),
            "code": ("python", "transformer", "3" * 64),
        },
    }
    found = checksums_of_request(request)
    assert found == {"1" * 64, "2" * 64, "3" * 64, pin.hex()}
    del request["transformation_dict"]
    assert checksums_of_request(request) == {"1" * 64}


def test_what_came_from_the_parent_goes_back_only_if_it_is_made_here() -> None:
    """It may be a scratch value, which the parent must not store."""
    small = SmallBuffers()
    small["a"] = b"value"
    assert small.get("a") == b"value"
    assert small.for_request(["a"]) == {}
    assert small.for_result() == {}
    small.made("a", b"value")
    assert small.for_request(["a"]) == {"a": b"value"}
    assert small.for_result() == {"a": b"value"}

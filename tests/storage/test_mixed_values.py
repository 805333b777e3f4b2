"""What Seamless changes in values that it stores, as docs/limits.md tells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from seamless import Buffer


def stored(value: Any) -> Any:
    """The value as it comes back."""
    return Buffer(value, "mixed").get_value("mixed")


def test_an_array_of_texts() -> None:
    texts = np.array(["a", "\u00e9"])
    assert stored(texts) == "a"
    for inside in ([texts], {"texts": texts}):
        with pytest.raises(AssertionError):
            stored(inside)
    assert stored(texts.tolist()) == ["a", "\u00e9"]


def test_bytes_that_end_in_zeros() -> None:
    for back in (stored(b"ab\0\0"), stored({"x": b"ab\0\0"})["x"]):
        assert isinstance(back, np.ndarray) and back.shape == ()
        assert back.tobytes() == bytes(back) == b"ab\0\0"
        assert back.item() == b"ab"


def test_a_masked_array() -> None:
    masked = np.ma.array([1, 2, 3], mask=[False, True, False])
    back = stored(masked)
    assert type(back) is np.ndarray and back.tolist() == [1, 2, 3]
    data, mask = stored([masked.data, np.ma.getmaskarray(masked)])
    assert np.ma.array(data, mask=mask).tolist() == [1, None, 3]


def test_other_types() -> None:
    array = np.array([1, 2]).view(np.recarray)
    assert type(stored(array)) is np.ndarray
    assert stored((1, 2)) == [1, 2]
    assert stored({1: 2}) == {"1": 2}
    assert type(stored(np.int32(3))) is int


@pytest.mark.parametrize(
    "value",
    [
        np.array([1j]),
        np.array(["2020-01-01"], "M8[D]"),
        np.array([(1, 2)], [("a", "i1"), ("b", "i4")]),
        np.array([1, 2], ">i4"),
        np.array(["a"], object),
    ],
)
def test_what_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        stored(value)

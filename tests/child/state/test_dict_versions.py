"""Dictionaries are unchanged until an entry is added, replaced or removed."""

from __future__ import annotations

import sys
from types import ModuleType

import hypothesis.strategies as st
import pytest
from hypothesis import given

from seamless_dask.child.state import dict_versions
from seamless_dask.child.state.dict_versions import ARE_TOLD, DictVersions

KEYS = st.sampled_from("abc")
STEPS = st.one_of(
    st.tuples(st.just("set"), KEYS, st.integers(0, 2)),
    st.tuples(st.just("pop"), KEYS, st.none()),
    st.tuples(st.just("update"), KEYS, st.integers(0, 2)),
    st.tuples(st.just("clear"), KEYS, st.none()),
    st.tuples(st.just("get"), KEYS, st.none()),
)


def do(names: dict[str, object], step: str, key: str, value: object) -> None:
    if step == "set":
        names[key] = value
    elif step == "update":
        names.update({key: value})
    elif step == "pop":
        names.pop(key, None)
    elif step == "clear":
        names.clear()
    else:
        names.get(key)


@pytest.mark.parametrize("told", sorted({False, ARE_TOLD}))
@given(steps=st.lists(STEPS, max_size=6))
def test_what_differs_is_never_taken_for_unchanged(told, steps) -> None:
    """Something else that was put back may be; that costs a look, not more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dict_versions, "ARE_TOLD", told)
        module = ModuleType("some")
        names = vars(module)
        names["a"] = 0
        before = dict(names)
        versions = DictVersions([{}, names])
        for step in steps:
            do(names, *step)
        if names != before:
            assert versions.changed() == [1]
            assert not versions.are_unchanged()
        versions.remember()
        assert versions.changed() == []
        assert versions.are_unchanged()


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="nobody counts any more")
def test_versions_of_cpython_tell_of_classes_too() -> None:
    class Some:
        value = 1

    versions = DictVersions([vars(Some)])
    assert Some.value == Some().value == 1
    assert versions.are_unchanged()
    Some.value = 2
    assert not versions.are_unchanged()

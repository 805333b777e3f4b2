"""Keys of Dask tasks: the same work is one task, different needs are different ones."""

from __future__ import annotations

from typing import Any

import pytest
from dask.utils import key_split
from distributed.utils import key_split_group
from hypothesis import given
from hypothesis import strategies as st

from scheduler_ext import task_keys
from scheduler_ext.task_keys import (
    base_key,
    buffer_key,
    checksum_of,
    code_of,
    code_of_prefix,
    deferred_key,
    fat_key,
    is_transformation,
    name_and_attempt,
    prefix_of,
    task_key_of,
)
from seamless_dask.submit.identity import (
    deferred_base_key,
    is_driver,
    required_resources,
)

CHECKSUM = "a" * 64
OTHER = "b" * 64
PINS = {
    "__language__": "python",
    "__output__": ("result", "mixed", None),
    "__meta__": {"local": False},
    "code": ("python", "transformer", CHECKSUM),
    "x": ("mixed", None, None),
}
amounts = st.floats(min_value=0.01, max_value=1e6)
resources = st.dictionaries(st.text(min_size=1, max_size=5), amounts, max_size=4)
checksums = st.text("0123456789abcdef", min_size=64, max_size=64)
attempts = st.integers(min_value=0, max_value=10**6)


@given(resources, resources)
def test_key_tells_resources_apart(one: dict, other: dict) -> None:
    """Equal resources, whatever their order, give one key; others another."""
    same = dict(reversed(list(one.items())))
    assert base_key(CHECKSUM, one) == base_key(CHECKSUM, same)
    assert (base_key(CHECKSUM, one) == base_key(CHECKSUM, other)) == (one == other)


@given(
    checksums,
    st.none() | checksums,
    resources,
    st.booleans(),
    st.booleans(),
    attempts,
)
def test_what_builds_keys_and_what_parses_them_agree(
    checksum: str,
    code: str | None,
    needs: dict,
    driver: bool,
    scratch: bool,
    attempt: int,
) -> None:
    """Checksum, code and attempt come back, whatever else a key says."""
    name = base_key(checksum, needs, code=code, driver=driver, scratch=scratch)
    key = task_key_of(name, attempt)
    assert is_transformation(key)
    assert task_keys.is_driver(key) == driver
    assert checksum_of(key) == checksum
    assert code_of(key) == code
    assert name_and_attempt(key) == (name, attempt)
    for other in (fat_key(key), buffer_key(checksum)):
        assert not is_transformation(other)


@given(
    resources,
    st.none() | checksums,
    resources,
    st.booleans(),
    st.booleans(),
    attempts,
)
def test_key_of_unknown_checksum_names_none(
    definition: dict,
    code: str | None,
    needs: dict,
    driver: bool,
    scratch: bool,
    attempt: int,
) -> None:
    """Its digest is not taken for the checksum of a transformation."""
    name = deferred_key(definition, needs, code=code, driver=driver, scratch=scratch)
    key = task_key_of(name, attempt)
    assert is_transformation(key)
    assert task_keys.is_driver(key) == driver
    assert checksum_of(key) is None
    assert code_of(key) == code
    assert name_and_attempt(key) == (name, attempt)


@given(checksums, checksums, checksums, st.booleans(), attempts)
def test_dask_sees_one_function_per_code(
    code: str, one: str, other: str, driver: bool, attempt: int
) -> None:
    """Both kinds of key, and all variants of one code, have the same Dask prefix."""
    keys = [
        base_key(one, {}, code=code),
        base_key(other, {"GPU": 1}, code=code, driver=driver),
        task_key_of(deferred_key({"x": one}, {}, code=code, scratch=driver), attempt),
    ]
    assert {key_split(key) for key in keys} == {prefix_of(code)}
    assert {key_split_group(key) for key in keys} == {prefix_of(code)}
    assert code_of_prefix(prefix_of(code)) == code


@pytest.mark.parametrize("code", ["", "x", "A" * 64, "a" * 63, f"{'a' * 64}\n"])
def test_what_is_no_checksum_is_not_taken_for_one(code: str) -> None:
    """A key is valid whatever a transformation says of its code."""
    assert base_key(CHECKSUM, {}, code=code) == f"base-{CHECKSUM}"
    assert code_of(f"base_{code}-{CHECKSUM}") is None
    assert code_of_prefix(prefix_of(code)) is code_of_prefix(f"base_{code}") is None


@pytest.mark.parametrize("key", [("base-", 1), 7, b"base-", "x", "base-x"])
def test_other_keys_have_no_code(key: Any) -> None:
    """Dask keys can be many things."""
    assert code_of(key) is None


def test_prefixes_that_the_neighbours_test_for() -> None:
    """``base_<code>-<digest>``, and ``base-`` while the code is to be computed."""
    key = base_key(CHECKSUM, {}, code=OTHER)
    assert key == f"base_{OTHER}-{CHECKSUM}"
    deferred = deferred_base_key(PINS, {"x": "base-1"}, {})
    assert deferred.startswith(f"base_{CHECKSUM}-")
    assert deferred_base_key(PINS, {"code": "base-1"}, {}).startswith("base-")


def test_driver_does_not_share_a_task_with_the_same_plain_transformation() -> None:
    """A driver runs outside the gate; whoever is not a driver must not wait for it."""
    assert base_key(CHECKSUM, {}, driver=True) != base_key(CHECKSUM, {})


def test_keys_say_the_same_in_every_version() -> None:
    """Clients of one cluster share tasks only if they spell the keys in one way."""
    assert base_key(CHECKSUM, {"GPU": 2}, code=OTHER, driver=True, scratch=True) == (
        f"base_{OTHER}-{CHECKSUM}-c1a98416add2652b-driver-scratch"
    )
    assert deferred_key({"x": 1}, {}, code=OTHER) == (
        f"base_{OTHER}-"
        "613fe5aa65343dbb1b9abe6abac6773f5c91bd60d3f2ffb7e2eae69e1db8b227-deferred"
    )


def test_deferred_key_depends_on_definition_and_inputs_only() -> None:
    """What is no part of the identity of a transformation does not change its key."""
    key = deferred_base_key(PINS, {"x": "base-1"}, {})
    assert key == deferred_base_key(
        {**PINS, "__meta__": {"local": None}}, {"x": "base-1"}, {}
    )
    assert key == deferred_base_key(
        {**PINS, "x": ("mixed", None, OTHER)}, {"x": "base-1"}, {}
    )
    assert key != deferred_base_key(PINS, {"x": "base-2"}, {})
    assert key != deferred_base_key(
        {**PINS, "code": ("python", "transformer", OTHER)}, {"x": "base-1"}, {}
    )


def test_required_resources_come_from_meta() -> None:
    """The dunder that travels along overrides the dict, as Seamless merges meta."""
    assert required_resources({}, {}) == {}
    found = required_resources(
        {"__meta__": {"resources": {"GPU": 2}}},
        {"__meta__": {"resources": {"GPU": 1}}},
    )
    assert found == {"GPU": 1.0}


def test_bad_resources_are_all_named() -> None:
    """One error with every entry that is wrong."""
    meta = {"resources": {"GPU": "many", "FPGA": -1, 3: 1, "ok": 1}}
    with pytest.raises(ValueError) as caught:
        required_resources({}, {"__meta__": meta})
    text = str(caught.value)
    assert all(part in text for part in ("'GPU'", "'many'", "'FPGA'", "-1", "3"))
    assert "'ok'" not in text
    with pytest.raises(ValueError, match="mapping"):
        required_resources({}, {"__meta__": {"resources": 3}})


def test_driver_flag() -> None:
    """Set on the transformation or inherited through the dunder."""
    assert not is_driver({}, None)
    assert is_driver({"__meta__": {"driver": True}}, {})
    assert is_driver({}, {"__meta__": {"driver": True}})

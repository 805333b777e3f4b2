"""What transformations mean, on the real stack: each case is a driver of its own."""

from __future__ import annotations

import re
from typing import Any

import pytest
from helpers.paths import DRIVERS
from helpers.stack import RealStack

from seamless_dask.errors import EnvelopeMismatch
from seamless_dask.storage.deep_results import (
    META_KEY,
    member_checksums,
    waits_for_members,
)
from seamless_dask.submit.envelopes import Envelope, check

pytestmark = pytest.mark.cluster

ASKS = {META_KEY: True}
#: the last line of an error
POINTER = r"\[transformation \w+ failed; for more: python -m .* why [0-9a-f]{12}\]"
SCRIPT = str(DRIVERS / "semantics.py")


@pytest.fixture(scope="module", autouse=True)
def services(real_stack: RealStack) -> None:
    """Have the cluster running before the first case."""
    real_stack.run_workload("independent", n=1, salt="start", timeout=90)


def see(stack: RealStack, case: str, *arguments: int) -> dict[str, Any]:
    return stack.run(SCRIPT, case, *arguments, timeout=60).value


@pytest.mark.parametrize(
    ("n", "executions"), [(50, 1), (50_000, 2)], ids=["small", "large"]
)
def test_scratch_results_are_not_stored_and_can_be_used(
    real_stack: RealStack, n: int, executions: int
) -> None:
    """Used from a worker's memory; then, unless small and in the driver, recomputed."""
    seen = see(real_stack, "scratch", n)
    total = sum(range(n))
    assert seen["first"] == seen["again"] == seen["in the driver"] == total
    assert seen["executions"] == 1
    assert seen["executions again"] == executions
    assert seen["checksum"] in real_stack.stored().results.values()
    assert not real_stack.has_buffer(seen["checksum"])


def test_scratch_results_of_nested_transformations(real_stack: RealStack) -> None:
    """Their value, and their use as input, within a transformation."""
    seen = see(real_stack, "scratch_nested")
    for size, n in (("small", 100), ("large", 100_000)):
        value, total, checksum = seen[size]
        assert value == total == sum(range(n))
        assert checksum in real_stack.stored().results.values()
        assert not real_stack.has_buffer(checksum)


def test_recomputing_may_have_nested_work(real_stack: RealStack) -> None:
    """More inputs to compute again than there are slots, each with nested work."""
    seen = see(real_stack, "scratch_with_nested_work")
    assert seen == {"first": [60_000], "again": [60_000]}


def test_inputs_are_recomputed_only_if_allowed(real_stack: RealStack) -> None:
    """An input given by checksum: its own transformation may not be known."""
    seen = see(real_stack, "input_fingertip")
    assert "nowhere to be found" in seen["refused"]["exception"]
    assert seen["allowed"]["value"] == sum(range(20_000))
    assert seen["executions"] == 2


def test_require_value(real_stack: RealStack) -> None:
    """The value of a scratch result is in the process that required it."""
    assert see(real_stack, "require_value") == {"value": list(range(10))}


def test_members_of_a_deep_result_are_there_when_it_is_announced(
    real_stack: RealStack,
) -> None:
    """300 buffers of 5 kB, looked for on the hashserver's disk right away."""
    assert see(real_stack, "deep", 300, 5000) == {"members": 300, "missing": []}


def test_a_remote_job_is_written_and_not_run(real_stack: RealStack) -> None:
    """The exception is that of seamless-transformer, at the top and nested."""
    seen = see(real_stack, "remote_job")
    text = "seamless_transformer.remote_job.RemoteJobWritten: Remote job written to"
    assert seen["top"] == {"exception": f"{text} 'DIRECTORY/top'\n"}
    assert seen["nested"]["value"] == f"{text} 'DIRECTORY/nested'\n"
    assert {"number", "transform.sh"} <= set(seen["files"])
    assert "RESULT" not in seen["files"]
    assert seen["written"]


def test_exceptions_are_the_users_own_traceback(real_stack: RealStack) -> None:
    """It begins in the user's code and says nothing of how that came to run.

    The last line says where to ask for more.
    """
    seen = {}
    for case, outcome in see(real_stack, "exceptions").items():
        found = re.fullmatch(rf"(.*) {POINTER}\n", outcome["exception"], re.DOTALL)
        assert found, outcome["exception"]
        seen[case] = f"{found[1]}\n"
    assert seen["top"].endswith("    raise KeyError(f\"no {x}\")\nKeyError: 'no 1'\n")
    assert "in deeper\n" in seen["top"]
    assert "integer division or modulo by zero" in seen["nested"]
    assert "return 1 // x" in seen["nested"]
    for case, text in (("dependency", "no 2"), ("settled dependency", "no 1")):
        assert seen[case].startswith("Dependency 'x' has an exception:\nTraceback")
        assert seen[case].endswith(f"KeyError: '{text}'\n")
    for text in seen.values():
        assert "distributed" not in text
        assert "seamless_dask" not in text


def test_trivial_values(real_stack: RealStack) -> None:
    """The empty buffer, ``{}`` and ``[]``, which no server stores."""
    seen = see(real_stack, "trivial")
    assert {case: s.pop("result") for case, s in seen.items()} == {
        "b''": "",
        "{}": {},
        "[]": [],
    }
    for value, uses in seen.items():
        assert uses == {
            "dependency": value,
            "input": value,
            "settled dependency": value,
            "nested": [True, value],
        }


def test_a_strict_submission_insists_on_its_envelope(real_stack: RealStack) -> None:
    """Only while another one is under way; others join it."""
    seen = see(real_stack, "strict")
    assert "with a different dunder envelope" in seen["other"]["exception"]
    assert seen["values"] == [1, 1, 1]
    assert seen["later"]["value"] == 1


def test_the_work_of_a_driver_is_its_own(real_stack: RealStack) -> None:
    """Forty nested tasks on six slots at once: no gate; a twin of one is another."""
    granted = real_stack.scheduler_status()["permissions"]["granted_total"]
    seen = see(real_stack, "driver")
    assert seen == {"value": sum(range(40)), "twin": 0, "keys": ["", "-driver"]}
    after = real_stack.scheduler_status()["permissions"]["granted_total"]
    assert after == granted


def test_envelopes() -> None:
    """Equal by content; scratch is part of it."""
    own = Envelope({"__meta__": {"a": 1}}, scratch=False)
    check("0" * 64, own, [Envelope({"__meta__": {"a": 1}}, scratch=False)])
    for other in (Envelope({}, scratch=False), Envelope(own.tf_dunder, scratch=True)):
        with pytest.raises(EnvelopeMismatch, match="0" * 64):
            check("0" * 64, own, [own, other])


@pytest.mark.parametrize(
    ("queue", "meta", "wanted"), [("1", {}, True), ("0", {}, False), ("0", ASKS, True)]
)
def test_who_waits_for_members(
    monkeypatch: pytest.MonkeyPatch, queue: str, meta: dict[str, Any], wanted: bool
) -> None:
    """Workers of an exclusive queue, and users who ask for it."""
    monkeypatch.setenv("SEAMLESS_DASK_QUEUE_EXCLUSIVE", queue)
    assert waits_for_members({}, {"__meta__": meta}) is wanted


def test_members_of_a_deep_structure() -> None:
    """Dicts and lists of any depth; the same member once."""
    a, b = "a" * 64, "b" * 64
    assert member_checksums({"x": a, "y": [b, {"z": a}], "n": {}, "l": []}) == {a, b}

"""What seamless-transformer offers, as users use it, on the real stack.

Each test is a driver script of its own: a function of ``features.py``. The cluster has
two Seamless processes with three slots each.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from drivers import features
from helpers.polling import wait_until
from helpers.stack import DriverResult, RealStack

pytestmark = pytest.mark.cluster

SCRIPT = Path(features.__file__)
#: seconds until a driver counts as hanging
GUARD = 90
#: with tests of their own below
SPECIAL = {
    "bash_in_bash",
    "bash_tree",
    "command_in_python",
    "compiled",
    "optional",
    "scratch",
    "stages",
}


def drive(stack: RealStack, name: str, arguments: str = "{}") -> DriverResult:
    salt = name + re.sub(r"\W", "", arguments)
    return stack.run(SCRIPT, name, arguments, "--salt", salt, timeout=GUARD)


def permissions(stack: RealStack) -> dict[str, Any]:
    """The counters of the permission manager, once no lease is left."""

    def settled() -> dict[str, Any] | None:
        state: dict[str, Any] = stack.scheduler_status()["permissions"]
        return state if state["admitted"] == state["waiting"] == 0 else None

    return wait_until(settled, "all leases end", 30)


@pytest.fixture(scope="module", autouse=True)
def services(real_stack: RealStack) -> None:
    """Have the cluster running before its counters are read."""
    real_stack.run_workload("independent", n=1, salt="start", timeout=GUARD)


@pytest.mark.parametrize("name", [n for n in features.FEATURES if n not in SPECIAL])
def test_feature(real_stack: RealStack, name: str) -> None:
    """It does what its driver script says, nothing is refused, nothing stays held."""
    before = permissions(real_stack)
    drive(real_stack, name)
    assert permissions(real_stack)["refused_total"] == before["refused_total"]


def test_work_for_which_the_cluster_is_optional(real_stack: RealStack) -> None:
    """What finds no room on the cluster runs in the driver: refused, and computed."""
    drive(real_stack, "optional")
    permissions(real_stack)


def test_compiled_transformers(real_stack: RealStack) -> None:
    """C code; needs a compiler and two packages that seamless-transformer does not."""
    for package in ("seamless_signature", "cffi"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"compiled transformers need the package {package}")
    if shutil.which("cc") is None:
        pytest.skip("compiled transformers need a C compiler")
    drive(real_stack, "compiled")


def test_scratch_values_are_stored_nowhere(real_stack: RealStack) -> None:
    """And yet the driver and other transformations get them."""
    checksum = drive(real_stack, "scratch").value
    assert checksum in real_stack.stored().results.values()
    assert not real_stack.has_buffer(checksum)


@pytest.mark.parametrize(
    ("name", "arguments", "nested"),
    [
        ("bash_in_bash", '{"n": 1}', 1),
        ("bash_in_bash", '{"n": 6}', 6),
        ("bash_in_bash", '{"n": 14}', 14),
        ("bash_tree", "{}", 12),
        ("command_in_python", "{}", 8),
    ],
)
def test_commands_inside_transformations(
    real_stack: RealStack, name: str, arguments: str, nested: int
) -> None:
    """``seamless-run`` in as many transformations as there are slots, and in more.

    Each asks for a lease, is refused none, and stores what it computes.
    """
    before, rows = permissions(real_stack), real_stack.stored().results
    drive(real_stack, name, arguments)
    after = permissions(real_stack)
    assert after["granted_total"] - before["granted_total"] == nested
    assert after["refused_total"] == before["refused_total"]
    outer = {"bash_tree": 6}.get(name, nested)
    stored = real_stack.stored().results.keys() - rows
    assert len(stored) == outer + nested, [real_stack.buffer(c) for c in stored]


def test_stages(real_stack: RealStack) -> None:
    """The last test: from here on there are two clusters."""
    drive(real_stack, "stages")

"""The workloads themselves, in local processes: no service, no Dask."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.stack import WORKLOADS

SMALL: list[tuple[str, dict[str, Any]]] = [
    ("independent", {"n": 10}),
    ("run_while_iterating", {"n": 5}),
    ("tree", {"n": 2}),
    ("fan", {"n": 2, "leaves": 4, "how": "start"}),
    ("computing", {"n": 4, "milliseconds": 5}),
    ("fan", {"n": 2, "leaves": 4, "how": "parallel"}),
    ("fan", {"n": 2, "leaves": 4, "how": "sequential"}),
    ("recursion", {"n": 3, "depth": 4}),
    ("chain", {"n": 5}),
    ("big", {"n": 2, "megabytes": 2}),
    ("pi", {"trials": 6, "driver": True}),
    ("pi", {"trials": 6, "driver": False}),
    ("random_trees", {"n": 2, "max_nodes": 15}),
]


@pytest.mark.cluster
@pytest.mark.parametrize(("name", "arguments"), SMALL)
def test_values_are_right(name: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    """Plain Python and Seamless without Dask agree, so a difference is ours."""
    result = subprocess.run(
        [sys.executable, WORKLOADS, name, json.dumps(arguments), "--pool", "2"],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    outcome = json.loads(result.stdout.splitlines()[-1])
    assert outcome["values_ok"], outcome

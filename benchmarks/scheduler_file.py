"""What ``dask scheduler --scheduler-file`` tells."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any


def wait_for_facts(file: Path, timeout: float) -> dict[str, Any]:
    """Return what a scheduler writes to its file when it has started.

    Parameters
    ----------
    file
        Written by Dask in place: it may exist and be empty.
    timeout
        Seconds.

    Raises
    ------
    TimeoutError
        If it is not written in time.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            facts: dict[str, Any] = json.loads(file.read_text())
            return facts
        time.sleep(0.05)
    raise TimeoutError(f"no Dask scheduler has written {file} within {timeout:g} s")

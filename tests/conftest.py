"""Fixtures for all tests; see ``stack.py`` for the real stack."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

if TYPE_CHECKING:
    from stack import RealStack


@pytest.fixture(scope="module")
def real_stack(request: pytest.FixtureRequest) -> Iterator[RealStack]:
    """A real stack for one module; its end fails if a process is left.

    Parametrize indirectly to choose: ``{"remote": "jobserver", "workers": 4}``.
    """
    from stack import RealStack

    with RealStack(**getattr(request, "param", {})) as stack:
        yield stack

"""Fixtures for tests of the wrapper."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def own_sigint() -> Iterator[None]:
    """Puts the handler of SIGINT back that importing dask_jobqueue replaces."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)

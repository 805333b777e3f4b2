"""Where things are in a clone."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
DRIVERS = TESTS / "drivers"
ROOT = TESTS.parent
BENCHMARKS = ROOT / "benchmarks"

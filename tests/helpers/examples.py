"""How many examples the tests with hypothesis try: a fifth with ``EXAMPLES=few``."""

from __future__ import annotations

import os


def examples(number: int) -> int:
    """Return how many examples to try of so many."""
    return max(5, number // 5) if os.environ.get("EXAMPLES") == "few" else number

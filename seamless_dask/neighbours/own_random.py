"""Keeps libraries from using the random generator of user code.

Code that seeds the module ``random`` and draws from it expects the same numbers every
time. Dask's threads in a driver script draw from it as well: when they estimate the size
of a message, choose a worker, or retry after an error. So do the threads that keep
connections open. Here these modules get a generator of their own.
"""

from __future__ import annotations

import random
import sys
from typing import Any

from .replacing import replace
from .table_dask import DRAWING


def install() -> None:
    """Give loaded modules of these libraries their own generator; idempotent."""
    generator = random.Random()
    for _, name in DRAWING:
        module: Any = sys.modules.get(name)
        if getattr(module, "random", None) is random:
            replace(module, "random", generator)

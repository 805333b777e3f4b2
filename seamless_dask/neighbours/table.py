"""The table of all private names of other packages that we replace, set or read.

``tests/neighbours/test_neighbours_source.py`` finds names that are missing here.
"""

from __future__ import annotations

from . import table_dask, table_python, table_seamless
from .names import Name

NAMES: tuple[Name, ...] = (
    *table_seamless.NAMES,
    *table_dask.NAMES,
    *table_python.NAMES,
)

#: {(module, name in it): entry}
BY_NAME: dict[tuple[str, str], Name] = {
    (entry.module, entry.name): entry for entry in NAMES
}

"""``python -m seamless_dask.status``: see :mod:`seamless_dask.status`."""

from __future__ import annotations

import sys

from . import main

sys.exit(main())

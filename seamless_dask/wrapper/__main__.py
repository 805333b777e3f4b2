"""``python -m seamless_dask.wrapper``."""

import sys

from . import main

sys.exit(main())

"""The command ``seamless-dask-wrapper``: a Dask cluster with a supervisor.

`supervisor` holds the life cycle, `launch` starts the cluster; `settings` checks the
input, `jobs` talks to a batch system, `scaling` controls the number of workers.
"""

from __future__ import annotations

from .cli import main

__all__ = ["main"]

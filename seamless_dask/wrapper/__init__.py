"""The command ``seamless-dask-wrapper``: a Dask cluster with a supervisor.

`supervisor` holds the life cycle, `launch` starts the cluster; `settings` is what comes
in, `jobs` what a batch system is told and answers, `scaling` how many workers there are.
"""

from __future__ import annotations

from .cli import main

__all__ = ["main"]

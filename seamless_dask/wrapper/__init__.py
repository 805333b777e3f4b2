"""The command ``seamless-dask-wrapper``: a Dask cluster with a supervisor.

`supervisor` holds the life cycle; `status_file` and `parameters` what callers write and
read; `cluster_string`, `launch`, `batch` and `dask_config` what is started and how.
"""

from __future__ import annotations

from .cli import main

__all__ = ["main"]

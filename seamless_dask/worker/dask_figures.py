"""Forgets what Dask sums up in a worker for each code of a transformation.

Dask sums up times for each prefix of a task for ever, and there is a prefix for each code
(see `scheduler_ext.task_keys`): for each script of bash, for example.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Worker

#: entries of a table, after which those of all prefixes are forgotten
MOST = 1_000


def forget_figures(worker: Worker) -> None:
    """Forget the sums for prefixes if there are too many; cheap otherwise.

    The scheduler has got them, except for times of states that tasks are in now, which
    are kept.
    """
    counter = worker.state.task_counter
    elapsed: Any = counter.cumulative_elapsed()  # Dask's own table
    for table in (worker.digests_total, worker.digests_max, elapsed):
        if len(table) > MOST:
            present = counter.current_count()
            for name in [each for each in table if isinstance(each, tuple)]:
                if name not in present:
                    del table[name]

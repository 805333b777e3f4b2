"""Processes that the code of a job forks: they are no Seamless processes.

Only the thread that forks is there in the new process. So nobody reads the pipe to the
Dask worker, and the pipe itself is the parent's: a call of a transformation would wait for
ever. It gets an error that says what to do.
"""

from __future__ import annotations

import os
from typing import Any, NoReturn

from .job_context import belong_to
from .turns import TurnKeeper


class ForkedJobError(RuntimeError):
    """A process that a transformation has forked calls a transformation."""

    def __init__(self, parent: int) -> None:
        super().__init__(
            f"This process (pid {os.getpid()}) was forked by the code of a "
            f"transformation (pid {parent}) and cannot call transformations. Call them "
            "in the transformation itself, where seamless.transformer.parallel has many "
            "of them computed at a time, or let the forked process return what to call"
        )


def install(worker: Any, keeper: TurnKeeper) -> None:
    """Have processes that are forked from this one know it.

    Parameters
    ----------
    worker
        The module `seamless_transformer.worker`.
    keeper
        Lets one job at a time execute. Forked processes are none of its business.
    """
    from seamless_transformer.transformation_class import Transformation

    parent = os.getpid()

    def refuse(*_args: Any, **_kwargs: Any) -> NoReturn:
        raise ForkedJobError(parent)

    def forked() -> None:
        keeper.forget_all()
        belong_to(None)
        worker._require_child_channel = refuse
        Transformation._compute = refuse

    os.register_at_fork(after_in_child=forked)

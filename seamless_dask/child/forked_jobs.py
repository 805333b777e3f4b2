"""Processes that the code of a job forks: they are no Seamless processes.

Only the forking thread exists in the new process. So no thread reads the pipe to the
Dask worker, and the pipe itself belongs to the parent: a call of a transformation would
wait for ever. It raises an error instead, which says what to do.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any, NoReturn

from ..neighbours.replacing import replace
from .job_identity import belong_to, current_job
from .turn_keeper import TurnKeeper


class ForkedJobError(RuntimeError):
    """A process that a transformation has forked calls a transformation."""

    def __init__(self, parent: int) -> None:
        super().__init__(
            f"This process (pid {os.getpid()}) was forked by the code of a "
            f"transformation (pid {parent}) and cannot call transformations. Call them "
            "in the transformation itself, where seamless.transformer.parallel has many "
            "of them computed at a time, or let the forked process return what to call"
        )


def end(error: BaseException | None, result: Any) -> NoReturn:
    """End a forked process after its code has ended, as Python would.

    Parameters
    ----------
    error
        The exception that the code has raised; None if it is not known.
    result
        The result of the code; a `str` is the text of an error.
    """
    code = 0
    if isinstance(error, SystemExit):
        code = (
            error.code if isinstance(error.code, int) else int(error.code is not None)
        )
        if code == 1 and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
    elif error is not None:
        traceback.print_exception(error)
        code = 1
    elif isinstance(result, str):
        print(result, file=sys.stderr)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):  # None, closed, or no reader
            code = code or 1
    os._exit(code & 0xFF)


def install(worker: Any, keeper: TurnKeeper) -> None:
    """Prepare for processes that are forked from this one.

    Parameters
    ----------
    worker
        The module `seamless_transformer.worker`.
    keeper
        Lets one job at a time execute; it is reset in forked processes.
    """
    from seamless_transformer.transformation_class import Transformation

    parent = os.getpid()

    def refuse(*_args: Any, **_kwargs: Any) -> NoReturn:
        raise ForkedJobError(parent)

    def forked() -> None:
        job = current_job()
        if job is not None and job.output is not None:
            job.output.forked()
        keeper.forget_all()
        belong_to(None)
        replace(worker, "_require_child_channel", refuse)
        replace(Transformation, "_compute", refuse)

    os.register_at_fork(after_in_child=forked)

"""Puts replaced functions back as soon as the code of a job has ended.

The serialization of its result, the text of its error and the end of the job need
functions that the job may have replaced or removed. So these are put back first, before
the rest of the process is reset: see `seamless_dask.child.state.namespaces`.

The event loop of the process needs some of them while the code runs. If the loop fails
because of a replaced function, they are put back at once. Then the job fails, because
its result would not be the one that its code gives alone.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from ..neighbours.replacing import current, replace
from .job_identity import current_job

#: bound here, as a job may replace the name
_EXCEPTION = Exception


class CodeEnd:
    """Calls a function at the end of the code of each job.

    Parameters
    ----------
    put_back
        The function. It must not use the functions that it puts back.
    """

    def __init__(self, put_back: Callable[[], object]) -> None:
        self.put_back = put_back
        #: of each thread: whether the code that it executes next is that of a job
        self._here = threading.local()

    def expect(self) -> None:
        """Note that the calling thread is about to execute a job.

        Transformations that it or other threads execute within the job are not jobs:
        they are nested transformations for which there was no room elsewhere.
        """
        self._here.of_job = True

    def install(self) -> None:
        """Make Seamless call `put_back` when the code of a job ends, in this process."""
        from seamless_transformer import run

        execute, here = current(run, "exec_code"), self._here

        @functools.wraps(execute)
        def exec_code(*arguments: Any, **options: Any) -> Any:
            of_job = getattr(here, "of_job", False)
            here.of_job = False
            job = current_job() if of_job else None
            try:
                return execute(*arguments, **options)
            finally:
                if job is not None:
                    job.code_ended = monotonic()  # first: `put_back` may run finalisers
                    self.put_back()

        replace(run, "exec_code", exec_code)

    def guard(
        self,
        loop: asyncio.AbstractEventLoop,
        replaced: Callable[[], list[str]],
        blame: Callable[[str], bool],
    ) -> None:
        """Keep an event loop running when a job has replaced functions that it needs.

        Parameters
        ----------
        loop
            The event loop of this process.
        replaced
            Returns the names of the functions that are replaced now.
        blame
            Called with the error text for the executing job; returns whether there is
            such a job.
        """
        once: Callable[[], None] = current(loop, "_run_once")

        def run_once() -> None:
            try:
                once()
            except _EXCEPTION as error:
                names = replaced()
                self.put_back()
                if not names or not blame(
                    f"The code has replaced {', '.join(names)}, without which its "
                    f"Seamless process cannot work ({type(error).__name__}: {error}). "
                    "Replace it in the modules that are to use another one, not in "
                    "the one that defines it\n"
                ):
                    raise

        replace(loop, "_run_once", run_once)

"""Attributes each nested call to the job of the Seamless process that makes it.

Every nested call must be attributed to its job. If the wrong job's slot is lent, the
pool can deadlock. In seamless-transformer

- thread-local variables identify the job. But calls may come from other threads: from
  the event loop that serves the job's thread, from threads that its code has started,
  from threads that compute nested transformations in the same process;
- if another job of the same process has made the same call already, a job sends no
  request: it waits for the other job's answer.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ..neighbours.replacing import replace

if TYPE_CHECKING:
    from .turn_keeper import TurnKeeper
    from .turns import JobTurn


class JobLocal:
    """Like `threading.local`, but inherited by the asyncio tasks that a job starts.

    See `inherit_in_threads` for its threads.
    """

    def __init__(self) -> None:
        object.__setattr__(self, "_variables", {})

    def __getattr__(self, name: str) -> Any:
        variable = self._variables.get(name)
        value = None if variable is None else variable.get()
        if value is None:
            raise AttributeError(name)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        variable = self._variables.get(name)
        if variable is None:
            variable = self._variables.setdefault(name, ContextVar(name, default=None))
        variable.set(value)

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)

    def values(self) -> dict[str, Any]:
        """Return the values that the calling job has set."""
        values = {name: v.get() for name, v in self._variables.items()}
        return {name: value for name, value in values.items() if value is not None}


#: the job to which the calling thread or task belongs
_CURRENT = JobLocal()


def current_job() -> JobTurn | None:
    """Return the job of the calling thread or task; None if none is known."""
    return getattr(_CURRENT, "job", None)


def belong_to(job: JobTurn | None) -> None:
    """Attribute the calling thread, and threads it starts, to a job; None: to none."""
    _CURRENT.job = job


class _NothingUnderWay(dict[Any, Any]):
    """The table of calls that other jobs may join; stays empty."""

    def get(self, key: Any, default: Any = None) -> Any:
        return default

    def pop(self, key: Any, default: Any = None) -> Any:
        return default

    def __setitem__(self, key: Any, value: Any) -> None:
        """Do nothing: each job sends its request, and the Dask worker joins them."""


def let_each_job_ask() -> None:
    """Make each job send its own request, even if another has made the same call."""
    from seamless_transformer.transformation_cache import get_transformation_cache

    replace(get_transformation_cache(), "_active_submissions", _NothingUnderWay())


#: names of threads that run no code of users, or that are counted elsewhere
OWN_THREADS = ("seamless-", "Seamless")


def inherit_in_threads(variables: Sequence[JobLocal], keeper: TurnKeeper) -> None:
    """Let threads start with the values that these variables have in their creator.

    From version 3.14 on, Python can do so with all context variables. Only these few
    are inherited, which the code of users does not use.

    Parameters
    ----------
    variables
        The variables to inherit.
    keeper
        Is told of the threads that jobs start, because they execute, too.
    """
    start = threading.Thread.start

    @functools.wraps(start)
    def start_with_values(thread: threading.Thread) -> None:
        inherited = [(v, v.values()) for v in (_CURRENT, *variables)]
        if not any(values for _, values in inherited):
            start(thread)
            return
        job = None if thread.name.startswith(OWN_THREADS) else current_job()
        run = thread.run

        def run_with_values() -> None:
            del thread.run  # breaks a reference cycle with the thread
            for variable, values in inherited:
                for name, value in values.items():
                    setattr(variable, name, value)
            if job is None:
                run()
                return
            keeper.started()
            try:
                run()
            finally:
                keeper.ended(job, thread)

        thread.run = run_with_values  # type: ignore[method-assign]
        if job is not None:
            keeper.starting(job, thread)
        try:
            start(thread)
        except BaseException:
            if job is not None:
                keeper.ended(job, thread)
            raise

    replace(threading.Thread, "start", start_with_values)

"""Saves and puts back the state that the code of a transformation may change.

A Seamless process executes the code of one transformation at a time, one after the
other. A stored result must be the one that the code gives alone, in a fresh process, so
between two jobs the global state goes back to what it was at the beginning. If a job is
suspended while another one executes, its own state is saved for it.

The parts are listed in ``docs/isolation.md``. The state of a thread (numpy's error state,
the context of decimal, trace functions) is not among them: each job has a new thread.

On a busy machine with two cores, after a job that has changed little, `save` and
`reset` take a quarter of a millisecond each, `restore` a third, and making an instance
five.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .additions import Additions, module_parts
from .interpreter import interpreter_parts
from .locks import Locks
from .modules import Modules
from .namespaces import Namespaces
from .native_code import NativeCode
from .numbers import number_parts
from .own_modules import OwnModules
from .packages import package_parts
from .part import CannotPutBack, Part
from .registrations import observe
from .system import system_parts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saved:
    """The state of a suspended job."""

    names: list[dict[str, Any]]
    #: one value for each other part
    values: tuple[Any, ...]


class ProcessState:
    """The state of the process that makes an instance, and its baseline.

    A process that is forked from this one must make its own instance.

    The methods are called by one thread at a time, while no code of a job executes.

    Parameters
    ----------
    descriptors
        Descriptors that the process needs, for instance pipes to its parent. If a job
        closes one of them, the process must be replaced.
    temporary
        Folders of temporary files: code in them does not belong to the installation.
    """

    def __init__(
        self, descriptors: Iterable[int] = (), temporary: Iterable[str] = ()
    ) -> None:
        observe()
        self._native_code = NativeCode()
        modules = Modules(temporary)
        additions = Additions(modules)
        self._names = Namespaces(additions)
        self._own_modules = OwnModules()
        self._locks = Locks()
        self._others: tuple[Part, ...] = (
            self._own_modules,
            self._locks,
            *system_parts(descriptors),
            *interpreter_parts(additions),
            *module_parts(modules, additions),
            *number_parts(),
            *package_parts(),
        )

    @property
    def parts(self) -> tuple[Part, ...]:
        """All kinds of state, in the order in which they are put back."""
        return self._names, *self._others

    def save(self) -> Saved:
        """Return the state of the job that is being suspended.

        Raises
        ------
        CannotPutBack
            If something cannot be saved, so that the job cannot go on in its state. The
            message names it.
        """
        lost: list[str] = []
        names = attempt(self._names, self._names.save, lost)
        changed = names is not None and self._names.are_changed(names)
        if changed:
            attempt(self._names, self._names.reset, lost)
        values = tuple([attempt(part, part.save, lost) for part in self._others])
        if changed:
            attempt(self._names, lambda: self._names.restore(names), lost)
        if lost:
            raise CannotPutBack("; ".join(lost))
        return Saved(names, values)

    def restore(self, saved: Saved) -> None:
        """Put back the state of a job that goes on.

        Raises
        ------
        CannotPutBack
            If something could not be put back; raised after everything else was. The
            message names it.
        """
        lost: list[str] = []
        attempt(self._names, self._names.reset, lost)
        for part, value in zip(self._others, saved.values, strict=True):
            attempt(part, functools.partial(part.restore, value), lost)
        attempt(self._names, lambda: self._names.restore(saved.names), lost)
        if lost:
            raise CannotPutBack("; ".join(lost))

    def put_names_back(self) -> None:
        """Put back, at the end of a job's code, what the end of the job needs.

        These are names, and locks that the calling thread, that of the job, still holds.
        Threads of the job may still change them, so `reset` puts them back again; it
        also reports problems. Calls no function that the job can have replaced.
        """
        problems: list[str] = []
        attempt(self._names, self._names.put_back, problems)
        attempt(self._own_modules, self._own_modules.put_back, problems)
        attempt(self._locks, self._locks.release, problems)
        if problems:
            logger.info("At the end of the code of a job: %s", "; ".join(problems))

    def replaced(self) -> list[str]:
        """Return the names of the builtin functions that a job has replaced."""
        return self._names.replaced()

    def reset(self) -> list[str]:
        """Go back to the baseline, after a job.

        Returns
        -------
        list of str
            Why this process is not like a fresh one and must be replaced.
        """
        reasons: list[str] = []
        attempt(self._names, self._names.reset, reasons)
        reasons += [
            f"code from outside the installation is loaded: {path}"
            for path in self.foreign_code()
        ]
        for part in self._others:
            reasons += attempt(part, part.reset, reasons) or ()
        return reasons

    def foreign_code(self) -> list[str]:
        """Return the paths of shared objects that do not belong to the installation.

        They were loaded after this instance was made, and may have static state.
        """
        return self._native_code.foreign()


def attempt(part: Part, method: Callable[[], Any], problems: list[str]) -> Any:
    """Call a method of a part; return its result, or None if it raises an exception.

    Parameters
    ----------
    part
        Named in the problem.
    method
        The method. It may run code of the job, and raise any exception.
    problems
        The exception is added here.
    """
    try:
        return method()
    except CannotPutBack as error:
        problems.append(f"{part.title}: {error}")
    except BaseException as error:  # noqa: BLE001 - SystemExit, too
        problems.append(f"{part.title}: {error!r}")
    return None

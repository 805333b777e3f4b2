"""Checks whether configured directories and files exist or can be created."""

from __future__ import annotations

import errno
import os
import tempfile

import dask.config

from .config_checks import effective
from .dask_config import local_tmpdir
from .parameters import Parameters

#: Errors of the system when there is no room: a cluster starts nevertheless.
_FULL = (errno.ENOSPC, errno.EDQUOT)


def directory_problems(
    parameters: Parameters, system: str, *, make: bool = True
) -> list[str]:
    """Problems with directories and files on this machine.

    Parameters
    ----------
    parameters
        Parameters of which each is valid by itself.
    system
        The batch system, "" without one.
    make
        Whether to create the directories, or only to check whether that would work.
    """
    problems = []
    if not system:
        directory = local_tmpdir(parameters)
        reason = _unusable(directory, make)
        if reason:
            problems.append(f"tmpdir = {directory!r}: {reason}")
    else:
        key = f"jobqueue.{system}.log-directory"
        value = effective(parameters, key)
        # others are refused by `config_problems`
        if isinstance(value, (str, os.PathLike)) and _is_line(value):
            # perhaps only compute nodes can write into it
            reason = cannot_be_made(os.path.expanduser(os.fspath(value)), make)
            if reason:
                problems.append(f"Dask's configuration {key} = {value!r}: {reason}")
    return problems + _preload_problems(parameters, system)


def _preload_problems(parameters: Parameters, system: str) -> list[str]:
    """Files with code that the scheduler, and workers on this machine, are to load."""
    problems = []
    for who in ("scheduler", *(() if system else ("nanny", "worker"))):
        key = f"distributed.{who}.preload"
        value = effective(parameters, key)
        # others than texts are refused by `config_problems`
        for item in value if isinstance(value, (list, tuple)) else [value]:
            file = str(item)
            if file.endswith(".py") and "://" not in file and not os.path.isfile(file):
                problems.append(
                    f"Dask's configuration {key} = {file!r}: there is no such file"
                )
    return problems


def _is_line(value: str | os.PathLike[str]) -> bool:
    return bool(str(value).strip()) and str(value).isprintable()


def scratch_directory() -> str:
    """The parent of the scheduler's own directory: that of Dask's configuration if usable."""
    chosen = dask.config.get("temporary-directory", None)
    # tmpdir may exist on compute nodes only
    if isinstance(chosen, (str, os.PathLike)) and os.path.isdir(chosen):
        if not _unusable(os.fspath(chosen), make=True):
            return os.fspath(chosen)
    return tempfile.gettempdir()


def cannot_be_made(directory: str, make: bool) -> str:
    """Why a directory cannot be created; "" if it exists or can be created."""
    existing = directory
    while not make and not os.path.lexists(existing):
        existing = os.path.dirname(existing) or "."
    try:
        os.makedirs(existing, exist_ok=True)
        if existing != directory and not os.access(existing, os.W_OK | os.X_OK):
            return f"cannot be made ({existing} is not writable)"
        if existing != directory and not _takes_directories(existing):
            return f"cannot be made ({existing} takes no directories)"
    except OSError as error:
        return f"cannot be made ({error.strerror})"
    return ""


def _takes_directories(directory: str) -> bool:
    """False for /proc and /sys, where root only seems to be able to write."""
    return os.path.realpath(directory).split(os.sep)[1] not in ("proc", "sys")


def _unusable(directory: str, make: bool) -> str:
    """Why a directory cannot be written to; "" if that is or would be possible."""
    reason = cannot_be_made(directory, make)
    if reason or not os.path.isdir(directory):
        return reason
    if not os.access(directory, os.W_OK | os.X_OK):
        return "is not writable"
    if make:
        try:
            os.rmdir(tempfile.mkdtemp(dir=directory))
        except OSError as error:
            if error.errno not in _FULL:
                return f"is not writable ({error.strerror})"
    return ""

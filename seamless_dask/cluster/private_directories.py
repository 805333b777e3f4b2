"""Directories for workers that other users of the machine cannot tamper with.

Dask keeps the files of all its servers in ``dask-scratch-space`` below the directory for
temporary files, and puts that on ``sys.path``. Below ``/tmp`` another user can make that
directory first, writable for all, and put code into it that Dask servers then run.
"""

from __future__ import annotations

import os
import stat
import tempfile

#: Dask makes no directory of its own below one whose path contains this name.
NAME = "dask-scratch-space"


class NotPrivate(RuntimeError):
    """A directory belongs to another user, who may change its contents."""


def make(parent: str) -> str:
    """Return a directory below `parent` that only this user can access.

    It is always the same directory, so that Dask can remove files that killed processes
    have left there. If another user has taken its name, a new directory is made.
    """
    path = os.path.join(parent, f"{NAME}-{os.getuid()}")
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not _closed_to_others(path):
            return tempfile.mkdtemp(prefix=f"{NAME}-", dir=parent)
    return path


def _closed_to_others(path: str) -> bool:
    """Deny other users access if the directory is ours; return whether it is."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # a file, a link, or not readable for us
        return False
    try:
        if os.fstat(descriptor).st_uid != os.getuid():
            return False
        os.fchmod(descriptor, 0o700)
        return True
    finally:
        os.close(descriptor)


def protect(directory: str) -> None:
    """Make sure that other users cannot replace the directory of a worker.

    Parameters
    ----------
    directory
        The directory, which this process has made.

    Raises
    ------
    NotPrivate
        If they can, because its parent directory belongs to one of them.
    """
    around = os.path.dirname(os.path.abspath(directory))
    us = os.stat(directory).st_uid  # not always our user id, on network file systems
    found = os.stat(around)
    for owner in (os.lstat(around).st_uid, found.st_uid):  # it may be a link
        if owner != us:
            raise NotPrivate(
                f"The directory {around} for files of Dask workers belongs to another "
                f"user (id {owner}), who could change what they run. Remove it, or set "
                "tmpdir to a directory of your own."
            )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        os.chmod(around, stat.S_IMODE(found.st_mode) & 0o755)

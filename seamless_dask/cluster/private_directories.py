"""Directories for workers that other users of the machine cannot tamper with.

Dask keeps the files of all its servers in ``dask-scratch-space`` below the directory for
temporary files, and puts that on ``sys.path``. Below ``/tmp`` anybody can make it first,
open to all, and then have those who use it run what he puts there.
"""

from __future__ import annotations

import os
import stat
import tempfile

#: Dask makes no directory of its own below one whose name has this in it.
NAME = "dask-scratch-space"


class NotPrivate(RuntimeError):
    """A directory belongs to somebody else, who may change what is in it."""


def make(parent: str) -> str:
    """Return a directory below `parent` that only this user can look into.

    It is always the same one, so that Dask can remove what processes that were killed
    have left there; but if somebody else has taken its name, it is a new one.
    """
    path = os.path.join(parent, f"{NAME}-{os.getuid()}")
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not _closed_to_others(path):
            return tempfile.mkdtemp(prefix=f"{NAME}-", dir=parent)
    return path


def _closed_to_others(path: str) -> bool:
    """Close a directory to others if it is ours; say whether it is."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # a file, a link, or not for us
        return False
    try:
        if os.fstat(descriptor).st_uid != os.getuid():
            return False
        os.fchmod(descriptor, 0o700)
        return True
    finally:
        os.close(descriptor)


def protect(directory: str) -> None:
    """See to it that others cannot replace the directory of a worker.

    Parameters
    ----------
    directory
        Made by this process.

    Raises
    ------
    NotPrivate
        If they can, since the one around it is theirs.
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

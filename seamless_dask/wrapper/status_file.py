"""The status file, through which the caller and the wrapper communicate.

The caller starts the wrapper first and then writes the file, with the status
``"starting"`` and the parameters. The wrapper shows that it is alive by touching the
file, and turns the status into ``"running"`` or ``"failed"``, or deletes the file at
the end. It never creates the file: a file that was removed stays removed, and a file
that names another process is left alone. A file that cannot be read or written may be
so for a moment only, on a network file system for instance: that is an `OSError`, and
the caller tries again.

Fields that the wrapper writes, next to ``status``: ``port`` and ``dashboard_port`` of
the scheduler, ``error`` (why the start failed, or why it ended badly), ``jobs`` (ids of
the batch jobs that it has), ``submission_error`` (why there are not more of them; absent
when all is well), ``pid`` if there was none,
``wrapper_pid`` if ``pid`` belongs to another process, and ``start_time``, when the
wrapper's process started (seconds since the epoch), which tells it from a later process
with the same pid. These three are written as soon as the file was seen, so that the
guard of a wrapper that is killed knows whose file it is. All other fields are kept.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from .exit_codes import StatusFileLost, StatusFileMissing, StatusFileUnusable
from .settings import json_text

logger = logging.getLogger(__name__)

WAIT_SECONDS = 20.0
POLL_SECONDS = 0.1
#: How long a file may be unreadable: the caller may be writing it in place.
UNREADABLE_SECONDS = 2.0
#: Errors of the system when there is no room for another file, or for more data.
_FULL = (errno.ENOSPC, errno.EDQUOT)


class StatusFile:
    """A status file that was seen with the status ``"starting"``."""

    def __init__(self, path: Path, fields: dict[str, Any]):
        self.path = path
        #: Fields as last read or written.
        self.fields = fields
        #: The process id that the caller wrote into the file; None until there is one.
        self._owner = fields.get("pid")
        #: Since when it has no content that can be understood; None if it has.
        self._garbled_since: float | None = None

    @classmethod
    def wait(
        cls,
        path: Path,
        seconds: float = WAIT_SECONDS,
        pause: Callable[[float], None] = time.sleep,
    ) -> StatusFile:
        """Wait for the caller to write the file.

        `pause` sleeps between two checks; it may raise to give up waiting.
        """
        deadline = time.monotonic() + seconds
        unreadable_since: float | None = None
        reason = "it does not exist"
        while True:
            try:
                fields = _read(path)
                unreadable_since = None
                status = fields.get("status", "starting")
                if status == "starting":
                    _close_to_others(path)
                    return cls(path, fields)
                # left over from an earlier run, its owner is about to replace it
                reason = f'its status is {json.dumps(status)}, not "starting"'
            except FileNotFoundError:
                unreadable_since = None
                reason = "it does not exist"
            except (OSError, StatusFileUnusable) as error:
                unreadable_since = unreadable_since or time.monotonic()
                if time.monotonic() - unreadable_since >= UNREADABLE_SECONDS:
                    raise _unusable(path, error) from None
            if time.monotonic() >= deadline:
                raise StatusFileMissing(
                    f"Waited {seconds:g} s for the status file {path}: {reason}."
                )
            pause(POLL_SECONDS)

    @property
    def parameters(self) -> dict[str, Any]:
        """The raw parameters."""
        fields = self.fields  # another thread may read the file again
        if "parameters" not in fields:
            raise StatusFileUnusable(
                f'The status file {self.path} has no field "parameters".'
            )
        parameters = fields["parameters"]
        if not isinstance(parameters, dict):
            raise StatusFileUnusable(
                f'The field "parameters" of the status file {self.path} must be an '
                f"object, but is {type(parameters).__name__}."
            )
        return parameters

    def foreign_pid(self) -> int | None:
        """The process id in the file, if it is not that of this process."""
        return self._owner if self._owner not in (None, os.getpid()) else None

    def check(self) -> None:
        """Read the file again.

        Raises
        ------
        StatusFileLost
            If it is no longer ours.
        StatusFileUnusable
            If it has no valid content at the moment: it may be being written.
        OSError
            If it cannot be read at the moment.
        """
        try:
            fields = _read(self.path)
        except FileNotFoundError:
            raise _removed(self.path) from None
        except StatusFileUnusable as error:
            now = time.monotonic()
            self._garbled_since = self._garbled_since or now
            if now - self._garbled_since < UNREADABLE_SECONDS:
                raise
            raise StatusFileLost(f"Somebody else changed it: {error}") from None
        self._garbled_since = None
        # ours as well if a write had an effect although it failed, as NFS may do
        if fields.get("pid") not in (self._owner, os.getpid()):
            raise StatusFileLost(
                f"The status file {self.path} now belongs to process "
                f"{fields.get('pid')}."
            )
        self.fields = fields
        self._owner = fields.get("pid")

    def touch(self) -> None:
        """Show that this process is alive."""
        self.check()
        with contextlib.suppress(FileNotFoundError):  # the next check will notice
            os.utime(self.path)

    def claim(self) -> None:
        """Say which process the file belongs to from now on."""
        self._write()

    def running(self, *, port: int, dashboard_port: int) -> None:
        """Tell the caller that the cluster accepts connections."""
        self._write(status="running", port=port, dashboard_port=dashboard_port)

    def news(self, *, jobs: list[str], submission_error: str) -> None:
        """Write which batch jobs there are, and why there are not more."""
        self._write(jobs=jobs, submission_error=submission_error or None)

    def failed(self, message: str) -> None:
        """Tell the caller that there will be no cluster, and why."""
        self._write(status="failed", error=message)

    def remove(self) -> None:
        """Delete the file, unless it is no longer ours."""
        self.check()
        self.path.unlink(missing_ok=True)

    def _write(self, **changes: Any) -> None:
        self.check()
        fields = {"pid": os.getpid(), **self.fields}
        if fields["pid"] != os.getpid():
            fields["wrapper_pid"] = os.getpid()
        else:
            fields.pop("wrapper_pid", None)  # of an earlier process
        fields["start_time"] = start_time()
        fields.update(changes)
        for name, value in changes.items():
            if value is None:
                del fields[name]
        _replace(self.path, fields)
        self.fields = fields
        self._owner = fields["pid"]


@functools.cache
def start_time() -> float:
    """When this process started, in seconds since the epoch.

    Always the same number: the system computes it from the clock, which may be set.
    """
    return psutil.Process().create_time()


def declare_dead(path: Path, pid: int, start_time: float, message: str) -> None:
    """Say in the status file of a process that it died; called by another one.

    Does nothing if the file is gone or names another process, or if the process itself
    wrote a final status. Tries for some seconds before it raises `StatusFileUnusable` or
    `OSError`.
    """
    deadline = time.monotonic() + UNREADABLE_SECONDS
    while True:
        try:
            _declare_dead(path, pid, start_time, message)
            return
        except (OSError, StatusFileUnusable):
            if time.monotonic() >= deadline:
                raise
        time.sleep(POLL_SECONDS)


def _declare_dead(path: Path, pid: int, start_time: float, message: str) -> None:
    try:
        fields = _read(path)
    except FileNotFoundError:
        return
    owner = fields.get("wrapper_pid", fields.get("pid"))
    # absent if it could not claim the file
    started = fields.get("start_time", start_time)
    if owner != pid or started != start_time:
        return
    if fields.get("status") in ("starting", "running"):
        fields.update(status="failed", error=message)
        with contextlib.suppress(StatusFileLost):
            _replace(path, fields)


def _replace(path: Path, fields: dict[str, Any]) -> None:
    """Replace an existing file atomically; raise `StatusFileLost` if there is none."""
    try:
        _replace_by_another(path, fields)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        _overwrite(path, fields)


def _overwrite(path: Path, fields: dict[str, Any]) -> None:
    """Write a file in place, if there is no room for another one.

    The space that it has already is mostly enough. All or nothing is written.
    """
    content = json.dumps(fields).encode()
    try:
        # for reading as well: where the file system cannot allocate space, such as on NFS
        # before version 4.2, the C library does so by reading and writing
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise _removed(path) from None
    try:
        size = os.fstat(descriptor).st_size
        try:
            os.posix_fallocate(descriptor, 0, len(content))
        except OSError:
            os.ftruncate(descriptor, size)
            raise
        # in one step, because others may be reading; blanks at the end do no harm
        os.pwrite(descriptor, content.ljust(size), 0)
    finally:
        os.close(descriptor)


def _replace_by_another(path: Path, fields: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600
    )
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            json.dump(fields, handle)
        try:
            path.stat()  # not `exists`, for which other errors may mean the same
        except FileNotFoundError:  # removed since we read it
            raise _removed(path) from None
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _close_to_others(path: Path) -> None:
    """Make the file private: it may contain secrets, such as lines of the job script."""
    try:
        path.chmod(0o600)
    except OSError as error:
        logger.warning("Others may read or change the status file: %s", error)


def _unusable(path: Path, error: OSError | StatusFileUnusable) -> StatusFileUnusable:
    if isinstance(error, StatusFileUnusable):
        return error
    return StatusFileUnusable(f"The status file {path} cannot be read: {error}.")


def _removed(path: Path) -> StatusFileLost:
    return StatusFileLost(f"The status file {path} was removed by somebody else.")


def _read(path: Path) -> dict[str, Any]:
    try:
        fields = json_text.parse(path.read_bytes())
    except ValueError as error:
        raise StatusFileUnusable(
            f"The status file {path} is not valid JSON: {error}."
        ) from None
    if not isinstance(fields, dict):
        raise StatusFileUnusable(
            f"The status file {path} must hold a JSON object, but holds "
            f"{type(fields).__name__}."
        )
    return fields

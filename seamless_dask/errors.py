"""Reasons why a transformation has no result, and why a process cannot start.

Code that executes, submits or computes transformations catches `TransformationError`
and passes its text on to the caller of the transformation.
"""

from __future__ import annotations

from typing import Any


class TransformationError(RuntimeError):
    """A transformation has no result; the text says why."""


class JobFailed(TransformationError):
    """A transformation has failed; the text is its traceback, or names the cause.

    Parameters
    ----------
    text
        The traceback or the cause, for the caller.
    report
        The `seamless_dask.storage.job_report.JobReport` of its Seamless process; None
        if the transformation did not finish there.
    """

    def __init__(self, text: str, report: Any = None) -> None:
        super().__init__(text)
        self.report = report


class DependencyFailed(TransformationError):
    """A transformation that this one depends on has no result."""


class Unavailable(TransformationError):
    """A transformation cannot be submitted."""


class EnvelopeMismatch(TransformationError):
    """A transformation is already running with another envelope."""


class LeaseRefused(TransformationError):
    """The permission manager refused a nested transformation; the text says why."""


class RecordModeMismatch(TransformationError):
    """A client does not have the record mode of its cluster.

    Parameters
    ----------
    client, cluster
        The two record modes.
    """

    def __init__(self, *, client: bool, cluster: bool) -> None:
        super().__init__(
            f"Record mode mismatch: this client has record={client}, but the Dask "
            f"cluster was started with record={cluster}. Restart the daskserver after "
            "changing record mode."
        )


class UploadError(TransformationError):
    """A buffer could not be written to any hashserver."""


class StorageError(TransformationError):
    """A result could not be written to the database."""


class ServiceUnavailable(TransformationError):
    """A service was away for longer than `seamless_dask.storage.outages.PATIENCE`.

    Or it answered only with server errors for so long. The text names the service.
    """


class NeighbourChanged(RuntimeError):
    """An installed package does not fit this version of seamless-dask.

    It is not installed, its version is out of range, or it lacks a name that we replace
    or read. The text names the package and the problem, and says what to install or
    which command shows that.
    """

"""Reasons why a transformation has no result, and why a process cannot start.

Those who execute, submit or compute transformations catch `TransformationError`: its
text is what the caller of the transformation is told.
"""

from __future__ import annotations

from typing import Any


class TransformationError(RuntimeError):
    """A transformation has no result; the text says why."""


class JobFailed(TransformationError):
    """It has failed; the text is its traceback, or names the cause.

    Parameters
    ----------
    text
        For the caller.
    report
        How it went in its process, a `seamless_dask.storage.job_report.JobReport`; None
        if it did not come to an end there.
    """

    def __init__(self, text: str, report: Any = None) -> None:
        super().__init__(text)
        self.report = report


class DependencyFailed(TransformationError):
    """A transformation that this one depends on has no result."""


class Unavailable(TransformationError):
    """It cannot be submitted."""


class EnvelopeMismatch(TransformationError):
    """It is under way with another envelope."""


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

    Or it answered with nothing but errors of its own. The text names it.
    """


class NeighbourChanged(RuntimeError):
    """A package that is installed here is not as this version knows it.

    Its version is out of range, or a name that we replace or read is missing. The text
    names package, version and name, and says what to install.
    """

"""Writes results and execution records to the Seamless database."""

from __future__ import annotations

import logging
from typing import Any

from aiohttp import ClientError
from seamless import Checksum

from ..errors import ServiceUnavailable, StorageError
from .job_report import JobReport
from .outages import DATABASE

logger = logging.getLogger(__name__)

#: execution mode of transformations on a cluster, in execution records
EXECUTION = "remote"
#: exceptions of a write that fails for reasons outside of the program
STORAGE_ERRORS = (ServiceUnavailable, ClientError, OSError)


def times_of(report: JobReport) -> dict[str, float]:
    """Return the fields of an execution record that hold times, in seconds."""
    return {
        "wall_time_seconds": round(report.wall, 6),
        "cpu_user_seconds": round(report.cpu_user, 6),
        "cpu_system_seconds": round(report.cpu_system, 6),
    }


async def known_result(tf_checksum: str) -> str | None:
    """Return the checksum of a transformation's result if the database has it.

    Raises
    ------
    ServiceUnavailable
        If the database stays unreachable.
    """
    from seamless_remote import database_remote

    if not database_remote.has_read_server():
        return None
    transformation = Checksum(tf_checksum)
    result = await DATABASE.call(
        lambda: database_remote.get_transformation_result(transformation)
    )
    return None if result is None else Checksum(result).hex()


async def store_result(tf_checksum: str, result_checksum: str) -> None:
    """Write a result; return once it is stored.

    Parameters
    ----------
    tf_checksum, result_checksum
        64 hexadecimal digits.

    Raises
    ------
    StorageError
        If it could not be written.
    """
    from seamless_remote import database_remote

    if not database_remote.has_write_server():
        return
    transformation, result = Checksum(tf_checksum), Checksum(result_checksum)
    try:
        await DATABASE.call(
            lambda: database_remote.set_transformation_result(transformation, result)
        )
    except STORAGE_ERRORS as error:
        raise StorageError(
            f"The result of transformation {tf_checksum} could not be written to the "
            f"database: {error}"
        ) from error


def minimal_record(
    tf_checksum: str, result_checksum: str, report: JobReport
) -> dict[str, Any]:
    """Return the record of an execution when record mode is off.

    Parameters
    ----------
    tf_checksum, result_checksum
        64 hexadecimal digits.
    report
        The measurements of the Seamless process.
    """
    from seamless_transformer.record_assembly import build_minimal_execution_record

    record: dict[str, Any] = build_minimal_execution_record(
        tf_checksum=Checksum(tf_checksum),
        result_checksum=Checksum(result_checksum),
        execution=EXECUTION,
        runtime_metadata={"memory_peak_bytes": report.memory_peak},
        **times_of(report),
    )
    if report.begun > 1:
        record["retry_count"] = report.begun - 1
    return record


async def store_record(
    tf_checksum: str, result_checksum: str, record: dict[str, Any], *, required: bool
) -> bool:
    """Write an execution record; an existing record is not replaced.

    Parameters
    ----------
    tf_checksum, result_checksum
        64 hexadecimal digits.
    record
        Of this transformation and result.
    required
        Whether a record that cannot be written is an error; otherwise it is logged.

    Returns
    -------
    bool
        Whether the database has a record for this result.

    Raises
    ------
    StorageError
        If it is required and could not be written.
    """
    from seamless_remote import database_remote

    if not required and not database_remote.has_write_server():
        return False
    transformation, result = Checksum(tf_checksum), Checksum(result_checksum)
    try:
        written = await DATABASE.call(
            lambda: database_remote.set_execution_record(transformation, result, record)
        )
    except STORAGE_ERRORS as error:
        if required:
            raise StorageError(
                f"The execution record of transformation {tf_checksum} could not be "
                f"written to the database: {error}"
            ) from error
        logger.warning(
            "No execution record for transformation %s: %s", tf_checksum, error
        )
        return False
    if not written:
        logger.info("Transformation %s has a record already", tf_checksum)
    return True


class ResultWriter:
    """Writes results together with their minimal records, to one database.

    If a database gets the record of an unknown transformation, it adds the result by
    itself (seamless-database since 2.1), so that one request is enough for both. This is
    checked the first time; with a database that does not, two requests are sent.
    """

    def __init__(self) -> None:
        #: whether the database adds the result; None: not known yet
        self._adds_result: bool | None = None

    async def store(
        self, tf_checksum: str, result_checksum: str, record: dict[str, Any]
    ) -> None:
        """Write a result with its minimal record; return once the result is stored.

        Parameters
        ----------
        tf_checksum, result_checksum
            64 hexadecimal digits.
        record
            Of this transformation and result; if it cannot be written, that is logged.

        Raises
        ------
        StorageError
            If the result could not be written.
        ServiceUnavailable
            If the database stays unreachable.
        """
        from seamless_remote import database_remote

        if not database_remote.has_write_server():
            return
        if self._adds_result is False:
            await store_result(tf_checksum, result_checksum)
            await store_record(tf_checksum, result_checksum, record, required=False)
            return
        stored = await store_record(
            tf_checksum, result_checksum, record, required=False
        )
        if stored and self._adds_result is None:
            found = await known_result(tf_checksum)
            self._adds_result = stored = found == result_checksum
        if not stored:
            await store_result(tf_checksum, result_checksum)

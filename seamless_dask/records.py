"""Writes results and execution records to the Seamless database."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, field
from typing import Any

from seamless import Checksum

from .patience import DATABASE

logger = logging.getLogger(__name__)


class StorageError(RuntimeError):
    """A result could not be written to the database."""


@dataclass
class Stopwatch:
    """Wall and CPU time of an execution, in seconds."""

    wall: float = field(default_factory=time.perf_counter)
    cpu: os.times_result = field(default_factory=os.times)

    def elapsed(self) -> dict[str, float]:
        """Return the fields of an execution record that hold times."""
        cpu = os.times()
        return {
            "wall_time_seconds": round(time.perf_counter() - self.wall, 6),
            "cpu_user_seconds": round(cpu.user - self.cpu.user, 6),
            "cpu_system_seconds": round(cpu.system - self.cpu.system, 6),
        }


async def known_result(tf_checksum: str) -> str | None:
    """Return the checksum of a transformation's result if the database has it.

    Raises
    ------
    ServiceUnavailable
        If the database stays away.
    """
    from seamless_remote import database_remote

    if not database_remote.has_read_server():
        return None
    transformation = Checksum(tf_checksum)
    result = await DATABASE.call(
        lambda: database_remote.get_transformation_result(transformation)
    )
    return None if result is None else Checksum(result).hex()


async def store_result(
    tf_checksum: str,
    result_checksum: str,
    *,
    transformation_dict: dict[str, Any],
    tf_dunder: dict[str, Any],
    elapsed: dict[str, float],
) -> None:
    """Write a result and its minimal execution record; return once both are there.

    Parameters
    ----------
    tf_checksum, result_checksum
        64 hexadecimal digits.
    transformation_dict, tf_dunder
        The transformation, to tell probes (which get no record) from the rest.
    elapsed
        See `Stopwatch.elapsed`.

    Raises
    ------
    StorageError
        If the result could not be written. A record that could not be written is
        only logged.
    """
    from seamless_remote import database_remote
    from seamless_transformer.probe_index import is_record_probe
    from seamless_transformer.record_assembly import build_minimal_execution_record
    from seamless_transformer.record_utils import _memory_peak_bytes

    if not database_remote.has_write_server():
        return
    transformation, result = Checksum(tf_checksum), Checksum(result_checksum)
    try:
        await DATABASE.call(
            lambda: database_remote.set_transformation_result(transformation, result)
        )
    except Exception as exc:
        raise StorageError(
            f"The result of transformation {tf_checksum} could not be written to the "
            f"database: {exc}"
        ) from exc
    if is_record_probe(transformation_dict, tf_dunder):
        return
    record = build_minimal_execution_record(
        tf_checksum=transformation,
        result_checksum=result,
        execution="remote",
        runtime_metadata={"memory_peak_bytes": _memory_peak_bytes()},
        **elapsed,
    )
    try:
        await DATABASE.call(
            lambda: database_remote.set_execution_record(transformation, result, record)
        )
    except Exception as exc:  # noqa: BLE001 - the result is stored; a record is extra
        logger.warning(
            "No execution record for transformation %s: %r", tf_checksum, exc
        )

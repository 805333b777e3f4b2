"""Transformations that may run on the cluster or in this process: ``local = None``."""

from __future__ import annotations

import asyncio
import logging
import traceback
from typing import TYPE_CHECKING, Any

from seamless import Checksum
from seamless_transformer.transformation_cache import (
    TransformationCancelledError,
    get_transformation_cache,
)

from ..cluster import scheduler
from ..types import TransformationResult, TransformationSubmission

if TYPE_CHECKING:
    from .submitter import Submitter

logger = logging.getLogger(__name__)

#: seconds between the attempts to get a lease: more than one epoch of 10 s in all
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)


def is_optional(transformation: Any) -> bool:
    """Whether a transformation may run in this process as well."""
    meta = transformation._meta
    return "local" in meta and meta["local"] is None


async def has_room(
    client: Submitter, submission: TransformationSubmission
) -> str | None:
    """Ask, several times, whether the cluster has room for a transformation.

    Until then it counts as demand, so that the cluster may grow for it.

    Returns
    -------
    str or None
        The id of a lease that reserves the room. None: the transformation is to run
        here, which the scheduler is told.
    """
    key, resources = client.task_of(submission)
    for pause in (*PAUSES, None):
        lease = await scheduler.has_room(client.client, key, resources)
        if lease is not None:
            return lease
        if pause is not None:
            await asyncio.sleep(pause)
    scheduler.fell_back(client.client, key)
    return None


async def run_here(submission: TransformationSubmission) -> TransformationResult:
    """Run a transformation in this process.

    Parameters
    ----------
    submission
        Its inputs are known.

    Raises
    ------
    TransformationCancelledError
        If it was cancelled.
    """
    logger.info("The cluster has no room: %s runs here", submission.tf_checksum)
    tf_checksum = Checksum(submission.tf_checksum)
    try:
        result = await get_transformation_cache().run(
            submission.transformation_dict,
            tf_checksum=tf_checksum,
            tf_dunder=submission.tf_dunder,
            scratch=submission.scratch,
            require_value=False,
            force_local=True,
        )
    except TransformationCancelledError:
        raise
    except Exception as error:  # noqa: BLE001 - the code of a transformation failed
        text = "".join(traceback.format_exception_only(error))
        return TransformationResult(tf_checksum.hex(), None, text)
    return TransformationResult(tf_checksum.hex(), Checksum(result).hex())

"""Deep results: their buffer lists checksums of other buffers, the members."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from seamless import Checksum
from seamless_transformer.transformation_utils import (
    is_deep_celltype,
    merge_transformation_meta,
)

from ..cluster.environment import EXCLUSIVE_ENV
from .cache import BufferStore
from .uploads import Uploads

#: with which a user asks to wait for members: ``meta = {"upload_members": True}``
META_KEY = "upload_members"
#: number of members to wait for at the same time
CONCURRENCY = 100


async def ensure_members_uploaded(
    transformation_dict: dict[str, Any],
    tf_dunder: dict[str, Any],
    result_checksum: str,
    buffers: BufferStore,
    uploads: Uploads,
) -> None:
    """Return once the hashserver has each member of a deep result.

    Members are always uploaded in the background. This function waits for them if the
    worker may end as soon as the result is announced (its queue is exclusive), or if the
    user asks for it. The result's buffer must be on the hashserver already.

    Parameters
    ----------
    transformation_dict, tf_dunder
        The transformation.
    result_checksum
        64 hexadecimal digits.
    buffers, uploads
        The buffers of this process, and those on their way to the hashserver.

    Raises
    ------
    UploadError
        If a member is neither here nor on the hashserver.
    ServiceUnavailable
        If the hashserver stays unreachable.
    """
    if not is_deep_celltype(_output_celltype(transformation_dict)):
        return
    if not waits_for_members(transformation_dict, tf_dunder):
        return
    buffer = await buffers.resolve(result_checksum)
    members = member_checksums(await buffer.get_value_async("plain"))
    semaphore = asyncio.Semaphore(CONCURRENCY)

    async def wait(checksum: str) -> None:
        async with semaphore:
            await uploads.ensure(checksum, buffers.at_hand(checksum))

    await asyncio.gather(*(wait(checksum) for checksum in members))


def _output_celltype(transformation_dict: dict[str, Any]) -> str:
    return transformation_dict["__output__"][1]


def waits_for_members(
    transformation_dict: dict[str, Any], tf_dunder: dict[str, Any]
) -> bool:
    """Whether a deep result is announced only when its members are uploaded."""
    if os.environ.get(EXCLUSIVE_ENV) == "1":
        return True
    meta = merge_transformation_meta(transformation_dict, tf_dunder)
    return bool(meta.get(META_KEY))


def member_checksums(structure: Any) -> set[str]:
    """Return the distinct checksums in a deep structure of dicts and lists."""
    if isinstance(structure, dict):
        return set().union(*map(member_checksums, structure.values()))
    if isinstance(structure, list):
        return set().union(*map(member_checksums, structure))
    return {Checksum(structure).hex()}

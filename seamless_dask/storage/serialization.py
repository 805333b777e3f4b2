"""Moves `seamless.Buffer` between Dask processes without copying its bytes.

Dask's own serialization hands the frames of a message to the socket as they are; a
pickled Buffer would be copied into the pickle on one side and out of it on the other.
"""

from __future__ import annotations

from typing import Any

from distributed.protocol.serialize import dask_deserialize, dask_serialize
from seamless import Buffer, Checksum


def register() -> None:
    """Register the functions below with Dask, in this process; idempotent."""
    dask_serialize.register(Buffer, serialize_buffer)
    dask_deserialize.register(Buffer, deserialize_buffer)


def serialize_buffer(buffer: Buffer) -> tuple[dict[str, Any], list[memoryview]]:
    """Return header and frames: the frame is a view of the buffer's own bytes."""
    header = {"checksum": buffer.get_checksum().hex()}
    return header, [memoryview(buffer.content)]


def deserialize_buffer(header: dict[str, Any], frames: list[Any]) -> Buffer:
    """Rebuild the Buffer; the checksum travels along and is not computed again."""
    content = frames[0] if len(frames) == 1 else b"".join(frames)
    return Buffer(bytes(content), checksum=Checksum(header["checksum"]))

"""Writes buffers to the hashserver.

This differs from seamless-remote in two ways. If the hashserver answers that another
client is writing the buffer, seamless-remote treats that as success, although the buffer
may not be stored yet when a result that needs it is announced. And seamless-remote gives
aiohttp the whole buffer at once. The part that does not fit into the socket is then
copied twice, into fresh memory: for 10 MB that takes longer than sending it, so large
buffers are sent in pieces here.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

from seamless import Buffer, Checksum

from .shared_memory import LARGE, pieces

logger = logging.getLogger(__name__)

#: HTTP status if another client is still writing the buffer
ACCEPTED = 202


async def write(checksum: Checksum, buffer: Buffer) -> bool:
    """Write a buffer as `seamless_remote.buffer_remote.write_buffer` does.

    Parameters
    ----------
    checksum
        Of the buffer.
    buffer
        Of any size.

    Returns
    -------
    bool
        Whether there is a hashserver that takes it.
    """
    from aiohttp import ClientConnectionError
    from seamless_remote import buffer_remote
    from seamless_remote.client import _retry_operation

    @_retry_operation
    async def put(client: Any) -> bool:
        url = client._require_url()
        options = {"timeout": client._request_timeout()}
        session = client._get_session()
        async with session.put(
            f"{url}/{checksum.hex()}",
            data=buffer.content if len(buffer) < LARGE else _in_pieces(buffer),
            headers={"Content-Length": str(len(buffer))},
            **options,
        ) as response:
            await check(response)
            if response.status != ACCEPTED:
                return True
        # Another client is writing it: this request is answered after that has ended.
        async with session.get(
            f"{url}/buffer-length", json=[checksum.hex()], **options
        ) as response:
            await check(response)
            (length,) = await response.json()
            return bool(length)

    async def check(response: Any) -> None:
        if response.status >= 400:
            text = await response.text()
            raise ClientConnectionError(f"Error {response.status}: {text}")

    clients = buffer_remote._write_server_clients
    for client in clients:
        while not await put(client):
            logger.info("The other writer of buffer %s gave up", checksum.hex())
    return bool(clients)


async def _in_pieces(buffer: Buffer) -> AsyncIterator[bytes | memoryview]:
    for piece in pieces(buffer):
        yield piece

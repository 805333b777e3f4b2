"""Avoids requests and connections of seamless-remote that are not needed.

Its background writer promises each buffer to the hashserver before it writes it, because
readers may ask for the buffer before it is there; it makes one promise at a time, and waits for
the answer before it writes. A hundred buffers cost a hundred round trips. Here a promise goes
together with the write. For a small buffer it takes as long as the write itself, so it has no
benefit.

If Seamless finds a result in the memory of a process, it promises its buffer as well,
although nothing writes the buffer then. While the hashserver is away this promise fails,
and the transformation that asked fails with it.

seamless-remote does not read the answer to a write. If the answer has not arrived in full
by then, aiohttp closes the connection: most writes need a new one, and the port of the old
one stays taken for a minute.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from seamless import Checksum
from seamless.caching import buffer_writer

from .replacing import extend, replace

logger = logging.getLogger(__name__)

#: bytes up to which a buffer is written without a promise
SMALL = 64 * 1024

_Promise = Callable[[Checksum], Awaitable[None]]
_Writing = Callable[[Any], Awaitable[None]]


def install() -> None:
    """Make these changes in this process; idempotent."""
    from seamless_remote import buffer_remote
    from seamless_remote.client import Client

    promise = buffer_remote.promise
    if replace(buffer_remote, "promise", _no_promise) is promise:
        extend(buffer_writer, "_process_entry", functools.partial(_promised, promise))
    extend(Client, "_get_session", _that_read_answers)


async def _no_promise(checksum: Checksum) -> None:
    """What is about to be written is promised together with the write."""


def _promised(promise: _Promise, original: _Writing) -> _Writing:
    @functools.wraps(original)
    async def process_entry(entry: Any) -> None:
        if len(entry.buffer.content) <= SMALL:
            await original(entry)
            return
        await asyncio.gather(original(entry), _tried(promise(entry.checksum)))

    return process_entry


async def _tried(promise: Awaitable[None]) -> None:
    try:
        await promise
    except Exception as error:  # noqa: BLE001 - the write itself reports what is wrong
        logger.debug("A buffer was not promised: %r", error)


def _that_read_answers(
    original: Callable[[Any], aiohttp.ClientSession],
) -> Callable[[Any], aiohttp.ClientSession]:
    reading = aiohttp.TraceConfig()
    reading.on_request_end.append(_read_answer)
    reading.freeze()

    @functools.wraps(original)
    def get_session(self: Any) -> aiohttp.ClientSession:
        session = original(self)
        if reading not in session.trace_configs:
            session.trace_configs.append(reading)
        return session

    return get_session


async def _read_answer(
    session: aiohttp.ClientSession,
    context: object,
    ended: aiohttp.TraceRequestEndParams,
) -> None:
    if ended.method == "PUT":
        await ended.response.read()

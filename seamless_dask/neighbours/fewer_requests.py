"""Spares requests and connections that seamless-remote would waste.

Its background writer promises each buffer to the hashserver before it writes it, since
readers may come earlier than the buffer, and it does so one at a time. A promise of a
small buffer takes as long as the buffer itself, which is there no later without it.

Where Seamless finds a result in the memory of a process, it promises its buffer, too,
although nobody writes it then. That fails while the hashserver is away, and with it
the transformation that asked.

It does not read the answer to what it writes. If that has not come in full by then,
aiohttp closes the connection: most writes need a new one, and the port of the old one
stays taken for a minute.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from seamless import Checksum
from seamless.caching import buffer_writer

from .replacing import extend

#: bytes up to which a buffer that is being written is not worth a promise
SMALL = 64 * 1024

_Promise = Callable[[Checksum], Awaitable[None]]


def install() -> None:
    """Have this process send less; idempotent."""
    from seamless_remote import buffer_remote
    from seamless_remote.client import Client

    extend(buffer_remote, "promise", _of_large_writes)
    extend(Client, "_get_session", _that_read_answers)


def _of_large_writes(original: _Promise) -> _Promise:
    @functools.wraps(original)
    async def promise(checksum: Checksum) -> None:
        entry = buffer_writer._entries.get(Checksum(checksum))
        if entry is not None and len(entry.buffer.content) > SMALL:
            await original(checksum)

    return promise


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

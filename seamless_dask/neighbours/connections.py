"""Keeps connections to services open while requests use them.

seamless-remote gives each thread a session with at most 100 connections. The rest of its
code is made for few requests at a time. With thousands of requests,

- a request that waited for one of the connections for 10 s failed, as if the service
  did not answer;
- after every failure, and whenever any thread was done, all sessions of all threads were
  closed, together with the requests of others: these failed ("Connector is closed"), or
  were cancelled without any request to cancel them;
- each later request checked the health of the service first, over the same connections.

Here a request waits for a connection without a time limit, sessions are closed when no
request uses them any more, and a single health check, over a connection of its own, serves
all requests that need one.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from seamless.caching import buffer_writer

from ..per_loop import PerLoop
from .replacing import extend, replace

logger = logging.getLogger(__name__)

#: seconds between two checks whether a session is still in use
LOOK = 0.5

#: transformations that an event loop prepares and looks up at a time; others wait before
#: they need time of the loop or a connection
AT_A_TIME = 64

#: sessions that are closed as soon as they are not in use any more, or when another one
#: is closed after their loop has ended
_to_be_closed: set[aiohttp.ClientSession] = set()

_Writing = Callable[[Any], Awaitable[None]]

#: health checks under way on an event loop: {client: its task}
_questions: PerLoop[dict[Any, asyncio.Task[None]]] = PerLoop(lambda _: {})

#: on the event loops of Dask clients, which they keep once they were waited for
_places = PerLoop(lambda _: asyncio.Semaphore(AT_A_TIME))


def place() -> asyncio.Semaphore:
    """Return the semaphore to hold (``async with``) while preparing a transformation.

    Its holder must do nothing that takes long, and nothing that needs the semaphore again.
    Waiters get it in order of arrival.
    """
    return _places.of(asyncio.get_running_loop())


def install() -> None:
    """Change how this process connects to services; idempotent."""
    from seamless_remote import client

    if client.Client.healthcheck is _healthcheck:
        return
    atexit.register(_close_now, os.getpid())
    extend(client, "_build_request_timeout", _patient)
    extend(client, "_close_session", _unless_used)
    replace(client.Client, "healthcheck", _healthcheck)
    replace(client.Client, "restart", _restart)
    extend(client.Client, "_get_session", _without_dead_threads)
    extend(buffer_writer, "_process_entry", _to_the_end)


def _patient(
    original: Callable[..., aiohttp.ClientTimeout],
) -> Callable[..., aiohttp.ClientTimeout]:
    """Remove the time limit for waiting until a connection is free."""

    def build_request_timeout(*, healthcheck: bool = False) -> aiohttp.ClientTimeout:
        timeout = original(healthcheck=healthcheck)
        if healthcheck:
            return timeout
        return aiohttp.ClientTimeout(
            total=timeout.total,
            sock_connect=timeout.sock_connect,
            sock_read=timeout.sock_read,
        )

    return build_request_timeout


def _restart(self: Any) -> None:
    """Make the next request check the health of the service; others go on.

    A connection that has failed is not used again in any case.
    """
    self._initialized = False


async def _healthcheck(self: Any) -> None:
    """Verify that the server answers; callers at the same time share one check."""
    if self.url is None:
        return
    loop = asyncio.get_running_loop()
    questions = _questions.of(loop)
    question = questions.get(self)
    if question is None:
        question = loop.create_task(_ask(self))
        questions[self] = question
        question.add_done_callback(lambda _: questions.pop(self, None))
        question.add_done_callback(_retrieve)
    await asyncio.shield(question)


def _retrieve(question: asyncio.Task[None]) -> None:
    """Keep asyncio from reporting an exception that no caller awaits any more."""
    if not question.cancelled():
        question.exception()


async def _ask(client: Any) -> None:
    from seamless_remote.client import (
        ClientRestartRequiredError,
        _is_resource_busy_error,
    )

    path = client._require_url() + "/healthcheck"
    what = f"Healthcheck failed for {client.url}"
    try:
        async with (
            aiohttp.ClientSession(timeout=client._healthcheck_timeout()) as session,
            session.get(path) as response,
        ):
            status, text = response.status, await response.text()
    except Exception as error:
        reason = str(error) or type(error).__name__
        if _is_resource_busy_error(error):
            raise ClientRestartRequiredError(f"{what}: {reason}") from error
        raise RuntimeError(f"{what}: {reason}") from error
    if not 200 <= status < 300:
        raise RuntimeError(f"{what}: HTTP {status} {text}")


def _in_use(session: aiohttp.ClientSession) -> bool:
    """Whether requests of a session are under way, or wait for a connection."""
    connector: Any = session.connector
    if connector is None or session.closed:
        return False
    return bool(connector._acquired) or any(connector._waiters.values())


def _unless_used(
    original: Callable[[aiohttp.ClientSession], None],
) -> Callable[[aiohttp.ClientSession], None]:
    """Close a session that is in use later; it gets no new requests."""

    process = os.getpid()

    def close_session(session: aiohttp.ClientSession) -> None:
        for other in tuple(_to_be_closed):
            if other._loop.is_closed():
                _to_be_closed.discard(other)
                original(other)
        loop = session._loop
        # A forked process does not run the loops of its parent.
        if _in_use(session) and loop.is_running() and os.getpid() == process:
            _to_be_closed.add(session)
            loop.call_soon_threadsafe(close_when_unused, session, loop)
        else:
            original(session)

    def close_when_unused(
        session: aiohttp.ClientSession, loop: asyncio.AbstractEventLoop
    ) -> None:
        if _in_use(session):
            loop.call_later(LOOK, close_when_unused, session, loop)
        else:
            _to_be_closed.discard(session)
            original(session)

    return close_session


def _close_now(process: int) -> None:
    """Close, at the exit of the interpreter, the sessions that are still to be closed."""
    if os.getpid() != process:  # a forked process: its parent still uses the sessions
        return
    from seamless_remote import client

    for session in tuple(_to_be_closed):
        loop = session._loop
        if loop.is_closed():
            client._close_session(session)
        elif loop.is_running():
            closing = asyncio.run_coroutine_threadsafe(session.close(), loop)
            try:
                closing.result(LOOK)
            except concurrent.futures.TimeoutError:
                logger.debug("A session could not be closed in time")


def _without_dead_threads(
    original: Callable[[Any], aiohttp.ClientSession],
) -> Callable[[Any], aiohttp.ClientSession]:
    """Close the sessions of threads that have ended when a new thread needs one."""

    def get_session(self: Any) -> aiohttp.ClientSession:
        if threading.current_thread() not in self._sessions:
            for thread in tuple(self._sessions):
                if not thread.is_alive():
                    self._close_sessions_for_thread(thread)
        return original(self)

    return get_session


def _to_the_end(original: _Writing) -> _Writing:
    """Raise an error in callers that wait for Seamless' background writer if it gave up."""

    async def process_entry(entry: Any) -> None:
        try:
            await original(entry)
        finally:
            if not entry.future.done():
                entry.future.set_exception(
                    ConnectionAbortedError("writing was cancelled")
                )

    return process_entry

"""Waits for services that are away: a hashserver or database that is restarted.

seamless-remote tries a request five times without a pause and then raises, so a
restart that takes a second would fail whatever is running. Here a request waits, up to
`PATIENCE`, until the service answers its health check again. While it is away, one
probe per event loop asks, however many requests wait, and the log has one warning.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import logging
import re
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from ..errors import ServiceUnavailable
from ..neighbours.replacing import extend
from ..neighbours.services import databases, hashservers

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: seconds that a service may be away before the requests to it fail
PATIENCE = 60.0
#: seconds between two health checks of a service that is away: the first, the most
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0

#: how seamless-remote words an answer with an HTTP status of 400 and more; the groups
#: are the status and the text that the server has sent
_ANSWER = re.compile(
    r"\b(?:Error|HTTP) ([45]\d\d)\b(?: from \S+:)?:?\s*(.*)", re.DOTALL
)
#: characters of such an answer that errors and the log show
EXCERPT = 200
#: how the RuntimeErrors begin that seamless-remote and aiohttp raise without a connection
_NO_CONNECTION = ("Healthcheck failed", "Session is closed", "Connector is closed")


class Service:
    """A kind of server that Seamless needs, and whether it answers.

    Parameters
    ----------
    name
        Its name in errors and the log.
    clients
        Returns the clients of seamless-remote for it, as configured at the moment.
    """

    def __init__(self, name: str, clients: Callable[[], Sequence[Any]]) -> None:
        self.name = name
        self._clients = clients
        self._lock = threading.Lock()
        #: `time.monotonic` of the first and the last failure of the present outage
        self._away_since: float | None = None
        self._failed_last = 0.0
        self._probes: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, asyncio.Task[None]
        ] = weakref.WeakKeyDictionary()

    def __str__(self) -> str:
        urls = {client.url or client.directory for client in self._clients()}
        return f"{self.name} at {', '.join(sorted(filter(None, urls)))}"

    async def call(self, request: Callable[[], Awaitable[T]]) -> T:
        """Return what `request` returns; wait while the service is away.

        Parameters
        ----------
        request
            Sends one request; called again after an outage.

        Raises
        ------
        ServiceUnavailable
            When the service has been away for `PATIENCE` seconds; later calls then fail
            at once.
        Exception
            Any exception of `request` that is not due to an outage.
        """
        pause = FIRST_PAUSE
        while True:
            try:
                result = await _asked_for(request)
            except Exception as error:  # any exception may tell of an outage
                if not is_outage(error):
                    raise
                waited = self._note_failure(error)
                if waited >= PATIENCE:
                    self._end_probe()
                    raise ServiceUnavailable(
                        f"The {self} {_what_it_did(error)} for {waited:.0f} s: "
                        f"{_reason(error)}"
                    ) from error
            else:
                self._note_success()
                return result
            # Pause even if the health check would succeed: the request has just failed.
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            await self._recovery(PATIENCE - waited)

    async def check(self) -> None:
        """Ask once whether the service answers.

        Raises
        ------
        Exception
            One that `is_outage` recognises, if the service does not answer.
        """
        for client in self._clients():
            await client.healthcheck()

    async def _recovery(self, seconds: float) -> None:
        """Wait until the health checks succeed, for at most `seconds`."""
        loop = asyncio.get_running_loop()
        probe = self._probes.get(loop)
        if probe is None or probe.done():
            probe = self._probes[loop] = loop.create_task(self._probe())
        await asyncio.wait([probe], timeout=max(0.0, seconds))

    def _end_probe(self) -> None:
        """Cancel the probe on the running event loop, which may end now."""
        probe = self._probes.get(asyncio.get_running_loop())
        if probe is not None:
            probe.cancel()

    async def _probe(self) -> None:
        deadline = time.monotonic() + PATIENCE
        pause = FIRST_PAUSE
        while time.monotonic() < deadline:
            try:
                await self.check()
            except Exception as error:  # noqa: BLE001 - the probe only waits
                if not is_outage(error):
                    # The next request reports the error to its caller.
                    logger.debug("Health check of the %s: %r", self, error)
                    return
                self._note_failure(error)
            else:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _note_failure(self, error: Exception) -> float:
        """Return the seconds since the service went away."""
        now = time.monotonic()
        with self._lock:
            silent = now - self._failed_last
            self._failed_last = now
            # After a longer silence, the outage may have ended unnoticed.
            if self._away_since is not None and silent < PATIENCE:
                return now - self._away_since
            self._away_since = now
        logger.warning(
            "The %s %s, waiting up to %.0f s for it: %s",
            self,
            "answers with errors" if _answer(error) else "does not answer",
            PATIENCE,
            _reason(error),
        )
        return 0.0

    def _note_success(self) -> None:
        if self._away_since is None:
            return
        with self._lock:
            since, self._away_since = self._away_since, None
        if since is not None:
            logger.info("The %s is back after %.1f s", self, time.monotonic() - since)


async def _asked_for(request: Callable[[], Awaitable[T]]) -> T:
    """Return what a request returns; it is cancelled only if the caller is.

    A request that waits for a connection is cancelled when other code closes it.

    Raises
    ------
    ConnectionAbortedError
        If the request was cancelled, but not the caller.
    """
    task = asyncio.current_task()
    if task is None or not hasattr(task, "cancelling"):  # before Python 3.11
        return await request()
    before = task.cancelling()
    try:
        return await request()
    except asyncio.CancelledError:
        if task.cancelling() > before:
            raise
        raise ConnectionAbortedError("the connection was closed here") from None


def is_outage(error: BaseException) -> bool:
    """Whether an exception of a request means that the service is away."""
    from aiohttp import ClientError
    from seamless_remote.client import ClientRestartRequiredError

    answer = _answer(error)
    if answer is not None:
        return answer[0].startswith("5")
    if isinstance(error, FileNotFoundError):
        return False
    if isinstance(error, ClientError | OSError | asyncio.TimeoutError):
        return True
    if isinstance(error, ClientRestartRequiredError):
        return True
    return isinstance(error, RuntimeError) and str(error).startswith(_NO_CONNECTION)


def _answer(error: BaseException) -> tuple[str, str] | None:
    """Return the status and the text of the server's answer, if there was one."""
    found = _ANSWER.search(str(error))
    return None if found is None else (found[1], found[2])


def _what_it_did(error: BaseException) -> str:
    return "answered with errors" if _answer(error) else "did not answer"


def _reason(error: BaseException) -> str:
    answer = _answer(error)
    if answer is None:
        return str(error) or type(error).__name__
    status, text = answer
    words = " ".join(text.split())  # often a page of HTML, or a traceback
    if len(words) > EXCERPT:
        words = f"{words[:EXCERPT]} [...]"
    return f"HTTP status {status}, {words or 'without a text'}"


DATABASE = Service("database", databases)
HASHSERVER = Service("hashserver", hashservers)


#: requests that Seamless itself sends: for the values of results, and for
#: transformations that run in the process of a driver script
_ASKED_BY_SEAMLESS = {
    "buffer_remote": (HASHSERVER, ["get_buffer"]),
    "database_remote": (
        DATABASE,
        [
            "get_transformation_result",
            "get_rev_transformations",
            "set_transformation_result",
            "set_execution_record",
        ],
    ),
}


def install() -> None:
    """Make requests of Seamless itself wait, too, in this process; idempotent."""
    for name, (service, functions) in _ASKED_BY_SEAMLESS.items():
        module = importlib.import_module(f"seamless_remote.{name}")
        for function in functions:
            extend(module, function, functools.partial(_patient, service))


def _patient(
    service: Service, request: Callable[..., Awaitable[T]]
) -> Callable[..., Awaitable[T]]:
    @functools.wraps(request)
    async def patient(*arguments: Any, **options: Any) -> T:
        return await service.call(lambda: request(*arguments, **options))

    return patient

"""State for programs: read-only JSON on the scheduler's HTTP server.

``seamless/state.json``: see :meth:`.operations.Operations.state`.
``seamless/why/<checksum>.json``, also with a name: see
:meth:`.operations.Operations.why`; status 404 if nothing is known of the transformation.
``seamless/failures.json``: see :meth:`.failures.Failures.answer`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

from distributed.scheduler import Scheduler
from tornado import web

from .. import messages
from ..fields import InvalidMessage
from .operations import Operations


class _Json(web.RequestHandler):
    """Answers GET and HEAD; other methods are refused with status 405."""

    def initialize(self, operations: Operations) -> None:
        self.operations = operations

    def head(self, *path: str) -> None:
        self.get(*path)  # tornado leaves the body away

    def answer(self, content: dict[str, Any], status: int = 200) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        self.write(json.dumps(content, allow_nan=False))


class StateHandler(_Json):
    def get(self) -> None:
        self.answer(self.operations.state())


class FailuresHandler(_Json):
    def get(self) -> None:
        self.answer(self.operations.failures.answer())


class WhyHandler(_Json):
    def get(self, what: str) -> None:
        try:
            reply = self.operations.why(*messages.parse_why(messages.why(what)))
        except InvalidMessage as problem:
            self.answer({"errors": list(problem.errors)}, 400)
            return
        self.answer(reply, 200 if reply["found"] else 404)


def add(operations: Operations) -> Callable[[], None]:
    """Add the routes to the scheduler's HTTP server; returns a function to remove them."""
    scheduler = operations.scheduler
    pages = dashboard_of(scheduler)
    prefix = "" if pages is None else pages.prefix.rstrip("/")
    arguments = {"operations": operations}
    application = web.Application(
        [
            (prefix + r"/seamless/state\.json", StateHandler, arguments),
            (prefix + r"/seamless/failures\.json", FailuresHandler, arguments),
            (prefix + r"/seamless/why/([^/]*)\.json", WhyHandler, arguments),
        ]
    )
    scheduler.http_application.add_application(application)

    def remove() -> None:
        scheduler.http_application.applications.remove(application)

    return remove


def dashboard_of(scheduler: Scheduler) -> Any:
    """The Bokeh application with Dask's pages, None if the scheduler shows none."""
    for application in scheduler.http_application.applications:
        if hasattr(application, "app_paths"):
            return cast(Any, application)
    return None

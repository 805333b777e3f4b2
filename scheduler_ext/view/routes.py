"""Read-only JSON and HTML on the scheduler's HTTP server, for programs and people.

``seamless/state.json``: see :meth:`.operations.Operations.state`.
``seamless/why/<checksum>.json``, also with a name: see
:meth:`.operations.Operations.why`; status 404 if nothing is known of the transformation.
``seamless/failures.json``: see :meth:`.failures.Failures.answer`.
``seamless/report.json``: see :meth:`.operations.Operations.report`.
The last three without ``.json`` are pages in HTML.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

from distributed.scheduler import Scheduler
from tornado import web

from .. import messages
from ..fields import InvalidMessage
from . import documents, report_page
from .operations import Operations


class _Handler(web.RequestHandler):
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

    def show(self, page: str, status: int = 200) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        # it needs nothing else, and contains texts of users
        self.set_header(
            "Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"
        )
        self.write(page)


class StateHandler(_Handler):
    def get(self) -> None:
        self.answer(self.operations.state())


class FailuresHandler(_Handler):
    def get(self, suffix: str | None) -> None:
        answer = self.operations.failures.answer()
        if suffix:
            self.answer(answer)
        else:
            self.show(documents.failures(answer))


class ReportHandler(_Handler):
    def get(self, suffix: str | None) -> None:
        answer = self.operations.report()
        if suffix:
            self.answer(answer)
        else:
            self.show(report_page.report(answer))


class WhyHandler(_Handler):
    def get(self, what: str) -> None:
        as_json = what.endswith(".json")
        what = what.removesuffix(".json")
        try:
            reply = self.operations.why(*messages.parse_why(messages.why(what)))
        except InvalidMessage as problem:
            if as_json:
                self.answer({"errors": list(problem.errors)}, 400)
            else:
                self.show(documents.unclear(what, problem.errors), 400)
            return
        status = 200 if reply["found"] else 404
        if as_json:
            self.answer(reply, status)
        else:
            self.show(documents.why(reply, what), status)


def add(operations: Operations) -> Callable[[], None]:
    """Add the routes to the scheduler's HTTP server; returns a function to remove them."""
    scheduler = operations.scheduler
    pages = dashboard_of(scheduler)
    prefix = "" if pages is None else pages.prefix.rstrip("/")
    arguments = {"operations": operations}
    application = web.Application(
        [
            (prefix + r"/seamless/state\.json", StateHandler, arguments),
            (prefix + r"/seamless/failures(\.json)?", FailuresHandler, arguments),
            (prefix + r"/seamless/report(\.json)?", ReportHandler, arguments),
            (prefix + r"/seamless/why/([^/]*)", WhyHandler, arguments),
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

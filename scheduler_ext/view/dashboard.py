"""The operators' page ``/seamless`` on Dask's dashboard.

Dask's pages are one application of Bokeh, which takes no further page once it runs.
So our page is another application on the same port, with a link in the menu that all
pages share.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from time import localtime
from typing import Any

from bokeh.core.properties import without_property_validation
from bokeh.document import Document
from bokeh.layouts import column, row
from bokeh.models import ColumnDataSource, DataRange1d, NumeralTickFormatter
from bokeh.models.widgets import Div
from bokeh.plotting import figure
from distributed.dashboard.components import DashboardComponent, add_periodic_callback
from distributed.dashboard.components.scheduler import BOKEH_THEME, env
from distributed.dashboard.core import BokehApplication
from distributed.dashboard.scheduler import template_variables
from distributed.metrics import monotonic
from distributed.utils import log_errors
from tornado.ioloop import IOLoop

from . import figures
from .figures import Choice, Figures
from .history import INTERVAL, MAX_SAMPLES, Sample
from .operations import Operations
from .page_tables import PAGE, STYLE, Groups, Table, set_if_new, title
from .summary import Card, Fact

#: Time that the curves show, in seconds
SPAN = 300
#: (text, path below the page, explanation) of the links in the head
LINKS = (
    (
        "where the time went",
        "report",
        "By name: how long, what was waited for, CPU, memory",
    ),
    ("failures", "failures", "The last 100 failures with their errors"),
    ("JSON", "state.json", "The whole status for programs"),
)
BLUE, SKY, ORANGE, GREEN, RED, GREY = (
    "#0072b2",
    "#56b4e9",
    "#d98500",
    "#009e73",
    "#c0392b",
    "#666666",
)

#: Charts beside each other where there is room, otherwise below each other
_CHARTS = """
:host { display: grid !important; grid-template-columns: 1fr; }
@media (min-width: 1100px) { :host { grid-template-columns: repeat(3, 1fr); } }
"""


class Curves:
    """The curves of the samples over time; a browser is sent only new samples."""

    #: columns, named like the fields of a sample
    FIELDS = (
        "capacity",
        "slots_in_use",
        "lent",
        "requests_waiting",
        "transformations_waiting",
        "transformations_with_workers",
    )

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._seen = 0
        self._last: Sample | None = None
        names = ["time", *self.FIELDS, "ended", "refused"]
        self.source = ColumnDataSource({name: [] for name in names}, name="history")
        self.root = row(
            self._figure(
                "Slots",
                "slots",
                ("capacity", "capacity", GREY, "dashed"),
                ("slots_in_use", "in use", BLUE, "solid"),
                ("lent", "waiting for calls", SKY, "solid"),
                ("requests_waiting", "calls without slot", ORANGE, "solid"),
            ),
            self._figure(
                "Unfinished transformations",
                "transformations",
                ("transformations_with_workers", "running", BLUE, "solid"),
                ("transformations_waiting", "waiting", ORANGE, "solid"),
            ),
            self._figure(
                "Throughput",
                "per second [1/s]",
                ("ended", "transformations ended", GREEN, "solid"),
                ("refused", "slots refused", RED, "solid"),
            ),
            sizing_mode="stretch_width",
            stylesheets=[_CHARTS],
        )

    def _figure(self, title: str, unit: str, *lines: tuple[str, str, str, str]) -> Any:
        plot: Any = figure(
            title=title,
            height=230,
            sizing_mode="stretch_width",
            tools="",
            toolbar_location=None,
            x_axis_type="datetime",
            x_axis_label="time of the scheduler",
            y_axis_label=unit,
            x_range=DataRange1d(
                follow="end", follow_interval=SPAN * 1000, range_padding=0
            ),
            y_range=DataRange1d(start=0, min_interval=4, range_padding=0.1),
        )
        for name, legend, color, dash in lines:
            plot.step(
                "time",
                name,
                source=self.source,
                mode="after",
                legend_label=legend,
                line_color=color,
                line_dash=dash,
                line_width=2,
            )
        plot.yaxis.formatter = NumeralTickFormatter(format="0,0.[0]")
        # above the curves, because inside it would hide them
        plot.add_layout(plot.legend[0], "above")
        plot.legend.orientation = "horizontal"
        plot.legend.label_text_font_size = "11px"
        plot.legend.padding = 0
        plot.legend.margin = 0
        plot.legend.border_line_color = None
        plot.legend.background_fill_alpha = 0
        plot.axis.minor_tick_line_color = None
        plot.title.text_font_size = "14px"
        plot.axis.axis_label_text_font_style = "normal"
        plot.xgrid.visible = False
        return plot

    def update(self) -> None:
        """Send the samples taken since the last call."""
        history = self._operations.history
        new = history.since(self._seen)
        if not new:
            return
        self._seen = history.added
        # Bokeh shows UTC; people expect the local time of the scheduler
        offset = localtime(new[-1].time).tm_gmtoff
        columns: dict[str, Any] = {
            name: [getattr(sample, name) for sample in new] for name in self.FIELDS
        }
        columns["time"] = [1000 * (sample.time + offset) for sample in new]
        before = [self._last or new[0], *new[:-1]]
        self._last = new[-1]
        pairs = list(zip(before, new, strict=True))
        columns["ended"] = [_rate(a, b, "ended_total") for a, b in pairs]
        columns["refused"] = [_rate(a, b, "refused_total") for a, b in pairs]
        self.source.stream(columns, rollover=MAX_SAMPLES)


def _rate(before: Sample, after: Sample, counter: str) -> float:
    seconds = after.time - before.time
    if seconds <= 0:
        return 0.0
    return (getattr(after, counter) - getattr(before, counter)) / seconds


class Page(DashboardComponent):
    """The page in one browser."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._detached = False
        #: problems that need attention
        self.alarms: list[str] = []
        self._head = Div(name="head", sizing_mode="stretch_width", stylesheets=[STYLE])
        self._cards = Div(
            name="cards", sizing_mode="stretch_width", stylesheets=[STYLE]
        )
        self._curves = Curves(shown.operations)
        self._workers = Table(
            "workers",
            figures.WORKER_FIELDS,
            (16, 11, 6, 9, 8, 9, 8, 11, 12, 10),
            tuple(figures.WORKER_FIELDS)[1:],
        )
        # one below the other: a name and its callers need the width
        self._waiting = Groups()
        self._running = Table(
            "running", figures.RUNNING_FIELDS, (33, 10, 10, 11, 9, 27)
        )
        self._failures = Table("failures", figures.FAILURE_FIELDS, (10, 36, 10, 44))
        self._decisions = Table("decisions", figures.DECISION_FIELDS, (12, 10, 78))
        self.source = self._curves.source
        self.root: Any = column(
            self._head,
            self._cards,
            self._curves.root,
            self._waiting.root,
            self._running.root,
            self._workers.root,
            self._failures.root,
            self._decisions.root,
            sizing_mode="stretch_width",
            margin=10,
        )

    @without_property_validation
    @log_errors
    def update(self, messages: Any = None) -> None:
        """Show the figures of this moment; called once a second."""
        if self._detached:
            return
        if not self._shown.operations.attached:
            self._detached = True
            self._say(
                [], "", ["Detached: the scheduler has no Seamless plugin any more."]
            )
            return
        now = self._shown.figures()
        self._say(now.facts, now.standing, now.problems)
        set_if_new(self._cards, "text", _cards(now.cards))
        self._curves.update()
        self._workers.update(now.workers_title, now.workers)
        self._waiting.update(now.waiting_title, now.waiting)
        self._running.update(now.running_title, now.running)
        self._failures.update(now.failures_title, now.failures)
        self._decisions.update(now.decisions_title, now.decisions)

    def _say(self, facts: Sequence[Fact], standing: str, alarms: list[str]) -> None:
        """Show the head: facts, a sentence about the cluster, and its problems."""
        self.alarms = alarms
        parts = [
            f'<div class="fact"{title(fact.help)}><span>{html.escape(fact.label)}</span>'
            f"{html.escape(fact.value)}</div>"
            for fact in facts
        ]
        links = " · ".join(
            f'<a href="{PAGE}/{path}"{title(text)}>{name}</a>'
            for name, path, text in LINKS
        )
        text = (
            f'<div class="facts">{"".join(parts)}<div class="links">{links}</div></div>'
            f'<div class="standing">{html.escape(standing)}</div>'
        )
        text += "".join(
            f'<div class="alarm">{html.escape(line)}</div>' for line in alarms
        )
        set_if_new(self._head, "text", text)


class Shown:
    """The figures, computed once however many browsers show them."""

    def __init__(self, operations: Operations) -> None:
        self.operations = operations
        self._choice = Choice()
        self._figures: Figures | None = None
        self._computed = 0.0

    def figures(self) -> Figures:
        """The figures, at most about a second old."""
        now = monotonic()
        if self._figures is None or now - self._computed > INTERVAL / 2:
            self._figures = figures.figures(self.operations, self._choice)
            self._computed = now
        return self._figures


def _cards(cards: list[Card]) -> str:
    return '<div class="cards">{}</div>'.format(
        "".join(
            f'<div class="card{" alarming" if card.alarming else ""}"'
            f"{title(card.help)}>"
            f'<div class="title">{html.escape(card.title)}</div>'
            f'<div class="value">{html.escape(card.value)}</div>'
            f'<div class="note">{html.escape(card.note)}</div></div>'
            for card in cards
        )
    )


def add(operations: Operations, dask_pages: Any) -> Callable[[], None]:
    """Add the page and its link; returns a function to remove them."""
    scheduler = operations.scheduler
    shown = Shown(operations)
    variables = template_variables(scheduler)

    @log_errors
    def document(scheduler: Any, extra: dict[str, Any], doc: Document) -> None:
        page = Page(shown)
        page.update()
        add_periodic_callback(doc, page, int(INTERVAL * 1000))
        doc.title = "Dask: Seamless"
        doc.add_root(page.root)
        doc.template = env.get_template("simple.html")
        doc.template_variables.update(extra)
        doc.theme = BOKEH_THEME

    application = BokehApplication(
        {f"/{PAGE}": document},
        scheduler,
        prefix=dask_pages.prefix,
        template_variables=variables,
    )
    applications = scheduler.http_application.applications
    scheduler.http_application.add_application(application)
    application.initialize(IOLoop.current())
    application.start()
    variables["pages"].append(PAGE)  # one list for all pages of this scheduler

    def remove() -> None:
        variables["pages"].remove(PAGE)
        applications.remove(application)
        # without waiting: a newer Bokeh would wait for the loop that we are on
        application.stop(wait=False)

    return remove

"""The operators' page ``/seamless`` on Dask's dashboard.

Dask's pages are one application of Bokeh's, which takes no further page once it runs.
So ours is another application beside it, on the same port, with a link in the menu
that all pages share.
"""

from __future__ import annotations

import html
from time import localtime
from typing import Any

from bokeh.core.properties import without_property_validation
from bokeh.document import Document
from bokeh.layouts import column, row
from bokeh.models import ColumnDataSource, DataRange1d, NumeralTickFormatter
from bokeh.models.widgets import DataTable, Div, HTMLTemplateFormatter, TableColumn
from bokeh.plotting import figure
from distributed.dashboard.components import DashboardComponent, add_periodic_callback
from distributed.dashboard.components.scheduler import BOKEH_THEME, env
from distributed.dashboard.core import BokehApplication
from distributed.dashboard.scheduler import template_variables
from distributed.metrics import monotonic
from distributed.utils import log_errors
from tornado.ioloop import IOLoop

from . import figures
from .figures import Card, Columns, Figures
from .history import MAX_SAMPLES, Sample
from .operations import INTERVAL, Operations, Undo

#: Name in the menu, and path
PAGE = "seamless"
#: Time that the curves show, in seconds
SPAN = 300
#: Rows of a table that are visible without scrolling
ROWS_VISIBLE = 8
ROW_HEIGHT = 25

BLUE, SKY, ORANGE, GREEN, RED, GREY = (
    "#0072b2",
    "#56b4e9",
    "#d98500",
    "#009e73",
    "#c0392b",
    "#666666",
)

_STYLE = """
.cards { display: flex; flex-wrap: wrap; gap: 10px; font-family: sans-serif; }
.card { border: 1px solid #ddd; border-left: 4px solid #0072b2; border-radius: 3px;
  padding: 6px 14px 8px 12px; min-width: 120px; max-width: 280px; }
.card.alarming { border-left-color: #c0392b; }
.title { color: #555; font-size: 12px; }
.value { color: #111; font-size: 22px; font-weight: 600; }
.note { color: #555; font-size: 12px; }
.heading { color: #222; font: 600 14px sans-serif; margin-top: 8px; }
.alarm { color: #fff; background: #c0392b; font: 600 13px sans-serif;
  padding: 6px 12px; border-radius: 3px; margin-bottom: 4px; }
"""

#: Long texts in full where the pointer is; both places escape what they show
_TEXT = HTMLTemplateFormatter(template='<span title="<%- value %>"><%- value %></span>')


class Curves:
    """What the samples say, over time; new samples are all that a browser is sent."""

    #: {column: what the sample has}
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
                "Tokens",
                "tokens",
                ("capacity", "capacity", GREY, "dashed"),
                ("slots_in_use", "in use", BLUE, "solid"),
                ("lent", "lent", SKY, "solid"),
                ("requests_waiting", "requests waiting", ORANGE, "solid"),
            ),
            self._figure(
                "Unfinished transformations",
                "transformations",
                ("transformations_with_workers", "with a worker", BLUE, "solid"),
                ("transformations_waiting", "waiting", ORANGE, "solid"),
            ),
            self._figure(
                "Throughput",
                "per second [1/s]",
                ("ended", "transformations ended", GREEN, "solid"),
                ("refused", "requests refused", RED, "solid"),
            ),
            sizing_mode="stretch_width",
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
        plot.legend.location = "top_left"
        plot.legend.label_text_font_size = "11px"
        plot.legend.padding = 4
        plot.legend.spacing = 0
        plot.legend.background_fill_alpha = 0.7
        plot.title.text_font_size = "14px"
        plot.axis.axis_label_text_font_style = "normal"
        plot.xgrid.visible = False
        return plot

    def update(self) -> None:
        """Send what was sampled since the last time."""
        history = self._operations.history
        new = history.since(self._seen)
        if not new:
            return
        self._seen = history.added
        # Bokeh shows times as they are in UTC; people read the scheduler's clock
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


class Table:
    """A table under its heading, as high as its rows need; without rows just that."""

    def __init__(self, name: str, fields: dict[str, str], widths: dict[str, int]):
        self.source = ColumnDataSource({field: [] for field in fields}, name=name)
        self._heading = Div(sizing_mode="stretch_width", stylesheets=[_STYLE])
        self._table = DataTable(
            source=self.source,
            columns=[
                TableColumn(
                    field=field,
                    title=title,
                    width=widths.get(field, 80),
                    sortable=False,
                    formatter=_TEXT,
                )
                for field, title in fields.items()
            ],
            index_position=None,
            reorderable=False,
            row_height=ROW_HEIGHT,
            height=ROW_HEIGHT,
            sizing_mode="stretch_width",
            visible=False,
        )
        self.root = column(self._heading, self._table, sizing_mode="stretch_width")

    def update(self, heading: str, columns: Columns) -> None:
        """Show these rows."""
        _set(
            self._heading, "text", f'<div class="heading">{html.escape(heading)}</div>'
        )
        if columns == self.source.data:
            return
        rows = len(next(iter(columns.values())))
        self.source.data = columns
        _set(self._table, "visible", rows > 0)
        _set(self._table, "height", ROW_HEIGHT * (1 + min(rows, ROWS_VISIBLE)) + 8)


class Page(DashboardComponent):
    """The page in one browser."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._detached = False
        self._alarm = Div(
            visible=False, sizing_mode="stretch_width", stylesheets=[_STYLE]
        )
        self._cards = Div(
            name="cards", sizing_mode="stretch_width", stylesheets=[_STYLE]
        )
        self._curves = Curves(shown.operations)
        text = {"reason": 420, "name": 130}
        self._workers = Table("workers", figures.WORKER_FIELDS, {"name": 180})
        self._waiting = Table("waiting", figures.WAITING_FIELDS, text)
        self._running = Table("running", figures.RUNNING_FIELDS, text)
        self._decisions = Table("decisions", figures.DECISION_FIELDS, text)
        self.source = self._curves.source
        self.root: Any = column(
            self._alarm,
            self._cards,
            self._curves.root,
            self._workers.root,
            row(self._waiting.root, self._running.root, sizing_mode="stretch_width"),
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
            self._warn(["Detached: the scheduler has no Seamless plugin any more."])
            return
        now = self._shown.figures()
        self._warn(now.problems)
        _set(self._cards, "text", _cards(now.cards))
        self._curves.update()
        self._workers.update(now.workers_title, now.workers)
        self._waiting.update(now.waiting_title, now.waiting)
        self._running.update(now.running_title, now.running)
        self._decisions.update(now.decisions_title, now.decisions)

    def _warn(self, warnings: list[str]) -> None:
        lines = (f'<div class="alarm">{html.escape(line)}</div>' for line in warnings)
        _set(self._alarm, "text", "".join(lines))
        _set(self._alarm, "visible", bool(warnings))


class Shown:
    """The figures, computed once however many browsers show them."""

    def __init__(self, operations: Operations) -> None:
        self.operations = operations
        self._figures: Figures | None = None
        self._computed = 0.0

    def figures(self) -> Figures:
        """The figures, at most about a second old."""
        now = monotonic()
        if self._figures is None or now - self._computed > INTERVAL / 2:
            self._figures = figures.figures(self.operations)
            self._computed = now
        return self._figures


def _cards(cards: list[Card]) -> str:
    return '<div class="cards">{}</div>'.format(
        "".join(
            f'<div class="card{" alarming" if card.alarming else ""}">'
            f'<div class="title">{html.escape(card.title)}</div>'
            f'<div class="value">{html.escape(card.value)}</div>'
            f'<div class="note">{html.escape(card.note)}</div></div>'
            for card in cards
        )
    )


def _set(model: Any, name: str, value: Any) -> None:
    """Assign what has changed, so that nothing else is sent."""
    if getattr(model, name) != value:
        setattr(model, name, value)


def add(operations: Operations, dask_pages: Any) -> Undo:
    """Add the page and its link; returns what removes them."""
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
        application.stop()

    return remove

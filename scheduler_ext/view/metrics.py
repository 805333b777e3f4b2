"""Figures for Prometheus, beside Dask's own on the scheduler's ``/metrics``.

Dask keeps one set of collectors for all schedulers of a process, and tells each
collector by ``server`` which scheduler is asked. Ours joins that set: it is registered
once while any scheduler has the plugin, and shows the figures of the asked scheduler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import prometheus_client
from distributed.http.prometheus import PrometheusCollector
from distributed.http.scheduler.prometheus import core
from distributed.metrics import time
from distributed.scheduler import Scheduler
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from ..permission.event_log import WaitTimes
from .explain import totals
from .operations import Operations
from .workers import usage

Family = GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily
Labelled = TypeVar("Labelled", GaugeMetricFamily, CounterMetricFamily)

#: {scheduler: the operations that are shown for it}
_shown: dict[Scheduler, Operations] = {}


class SeamlessCollector(PrometheusCollector, Collector):
    """Created by Dask when its ``/metrics`` is asked for the first time."""

    server: Scheduler

    def collect(self) -> Iterator[Family]:
        """The figures of the scheduler that is asked; none without the plugin."""
        operations = _shown.get(self.server)
        if operations is not None:
            yield from _slots(operations)
            yield from _transformations(operations)
            yield from _durations(operations)
            yield from _scaling(operations)


def add(operations: Operations) -> Callable[[], None]:
    """Show a scheduler's figures on its ``/metrics``; returns a function to undo it."""
    if not _shown:
        core.COLLECTORS.append(SeamlessCollector)
        present = _present()
        if present:
            _set_present(*present, SeamlessCollector(operations.scheduler))
    _shown[operations.scheduler] = operations

    def remove() -> None:
        del _shown[operations.scheduler]
        if not _shown:
            core.COLLECTORS.remove(SeamlessCollector)
            _set_present(
                *(c for c in _present() if not isinstance(c, SeamlessCollector))
            )

    return remove


def _present() -> tuple[Collector, ...]:
    """The collectors that Dask uses; none before its metrics were asked for."""
    handler: Any = core.PrometheusHandler
    return tuple(handler._collectors or ())


def _set_present(*collectors: Collector) -> None:
    """Let Dask use these collectors: its own, with or without ours."""
    before = _present()
    handler: Any = core.PrometheusHandler
    handler._collectors = collectors or None
    for collector in before:
        if collector not in collectors:
            prometheus_client.REGISTRY.unregister(collector)
    for collector in collectors:
        if collector not in before:
            prometheus_client.REGISTRY.register(collector)


def _slots(operations: Operations) -> Iterator[Family]:
    machine = operations.machine
    statistics = machine.statistics()
    yield GaugeMetricFamily(
        "seamless_slot_capacity",
        "Slots of all workers: processes times throttle.",
        statistics.capacity,
    )
    yield GaugeMetricFamily(
        "seamless_slots_in_use",
        "Slots of transformations that execute, or are on their way to a worker.",
        statistics.slots_in_use,
    )
    yield GaugeMetricFamily(
        "seamless_slots_lent",
        "Transformations on workers that wait for others, and so take no slot.",
        statistics.lent,
    )
    yield CounterMetricFamily(
        "seamless_fallbacks",
        "Transformations that ran in a driver script since the cluster had no room.",
        statistics.fallbacks_total,
    )
    yield GaugeMetricFamily(
        "seamless_transformations_executing",
        "Transformations that execute.",
        statistics.executing,
    )
    yield GaugeMetricFamily(
        "seamless_transformations_storing",
        "Transformations whose results are being stored, which takes no slot.",
        statistics.storing,
    )
    yield GaugeMetricFamily(
        "seamless_tasks_held",
        "Tasks that the scheduler holds back until a slot is free.",
        statistics.held,
    )
    yield GaugeMetricFamily(
        "seamless_requests_waiting",
        "Requests of nested transformations that wait for a slot.",
        statistics.waiting,
    )
    yield _histogram(
        "seamless_request_wait_seconds",
        "Time from the request of a slot until it was granted.",
        machine.wait_times,
    )
    yield CounterMetricFamily(
        "seamless_requests_granted",
        "Requests that were granted.",
        statistics.granted_total,
    )
    yield _labelled(
        CounterMetricFamily,
        "seamless_requests_refused",
        "Requests that were refused, by kind of reason.",
        "kind",
        statistics.refused_total,
    )
    yield CounterMetricFamily(
        "seamless_leases_expired",
        "Leases that were taken back because nobody used them.",
        statistics.expired_total,
    )
    yield GaugeMetricFamily(
        "seamless_workers",
        "Workers with Seamless processes.",
        statistics.workers,
    )


def _transformations(operations: Operations) -> Iterator[Family]:
    journal = operations.journal
    waiting, with_workers = totals(operations.subject)
    yield _labelled(
        GaugeMetricFamily,
        "seamless_transformations",
        "Unfinished transformations: waiting, or given to a worker.",
        "state",
        {"waiting": waiting, "with_worker": with_workers},
    )
    yield GaugeMetricFamily(
        "seamless_transformations_announced",
        "Transformations that driver scripts keep back until others have ended.",
        operations.announced,
    )
    stall = operations.watchdog.state()
    yield GaugeMetricFamily(
        "seamless_standstill_seconds",
        "Time for which the cluster has stood still; 0 while things go on.",
        0.0 if stall is None else max(0.0, time() - stall["since"]),
    )
    endings = journal.endings
    yield _labelled(
        CounterMetricFamily,
        "seamless_transformations_ended",
        "Transformations that ended, by kind of ending.",
        "ending",
        endings,
    )
    yield _labelled(
        CounterMetricFamily,
        "seamless_failures",
        "Transformations that failed, by name of the function; the names that come "
        "after the first ones are counted together.",
        "function",
        operations.failures.by_name,
    )
    names = GaugeMetricFamily(
        "seamless_function",
        "Always 1: names of the functions, to join with Dask's figures by prefix.",
        labels=["task_prefix_name", "function"],
    )
    for prefix in operations.scheduler.task_prefixes:
        name = operations.functions.name_of(prefix)
        if name is not None:
            names.add_metric([prefix, name], 1)
    yield names
    yield CounterMetricFamily(
        "seamless_transformations_begun_again",
        "How often the code of a transformation began another time on its worker: its "
        "process was lost, or was needed by another one.",
        journal.begun_again,
    )
    yield _histogram(
        "seamless_resume_wait_seconds",
        "Time for which transformations waited for their process after their calls "
        "had ended, if they had to wait.",
        journal.resume_waits,
    )
    yield GaugeMetricFamily(
        "seamless_processes",
        "Seamless processes of all workers now.",
        sum(usage(ws).processes or 0 for ws in operations.scheduler.workers.values()),
    )
    yield CounterMetricFamily(
        "seamless_results_stored",
        "Results that workers computed and stored in the database.",
        endings["stored"],
    )
    yield _labelled(
        CounterMetricFamily,
        "seamless_cache_hits",
        "Results found in the database by workers: of a task, or before a nested "
        "transformation became one. Hits of drivers and in processes are not known.",
        "level",
        {"task": endings["cached"], "nested": journal.nested_cache_hits},
    )


def _durations(operations: Operations) -> Iterator[Family]:
    """For at most 50 names; the others are counted together."""
    families = (
        HistogramMetricFamily(
            "seamless_transformation_seconds",
            "Time that the code of transformations ran, their calls included.",
            labels=["function"],
        ),
        HistogramMetricFamily(
            "seamless_transformation_wait_seconds",
            "Time for which transformations waited for inputs, workers and slots.",
            labels=["function"],
        ),
    )
    for name, each in operations.durations.histograms().items():
        for family, waits in zip(families, (each.durations, each.waits), strict=True):
            family.add_metric([name], _buckets(waits), waits.sum)
    yield from families


def _scaling(operations: Operations) -> Iterator[Family]:
    scaling = operations.scaling.snapshot()
    if scaling["wanted"] is not None:
        yield GaugeMetricFamily(
            "seamless_workers_wanted",
            "Workers that the last scaling decision asks for.",
            scaling["wanted"],
        )
    yield _labelled(
        GaugeMetricFamily,
        "seamless_jobs",
        "Jobs of the batch system, by state.",
        "state",
        scaling["jobs"],
    )
    yield _labelled(
        CounterMetricFamily,
        "seamless_scaling_decisions",
        "Decisions that changed the number of workers, by direction.",
        "direction",
        scaling["decisions_total"],
    )
    yield GaugeMetricFamily(
        "seamless_excluded_nodes",
        "Nodes that get no jobs because jobs failed there.",
        len(scaling["excluded_nodes"]),
    )


def _histogram(name: str, text: str, waits: WaitTimes) -> HistogramMetricFamily:
    return HistogramMetricFamily(
        name,
        text,
        buckets=_buckets(waits),
        sum_value=waits.sum,
    )


def _buckets(waits: WaitTimes) -> list[tuple[str, float]]:
    return [
        ("+Inf" if bound == float("inf") else str(bound), float(number))
        for bound, number in waits.cumulative()
    ]


def _labelled(
    kind: type[Labelled], name: str, text: str, label: str, values: Mapping[str, float]
) -> Labelled:
    """A family with one label; a counter gets the suffix ``_total``."""
    family = kind(name, text, labels=[label])
    for which, value in values.items():
        family.add_metric([which], value)
    return family

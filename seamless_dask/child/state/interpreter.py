"""The parts of the state of a process that are settings of Python and its library."""

from __future__ import annotations

import asyncio
import csv
import gc
import locale
import logging
import multiprocessing.context
import operator
import socket
import sys
import threading
import tracemalloc
import warnings
from typing import Any

from .additions import Additions
from .part import Attributes, Part, Remembered, Setting, same_items
from .registrations import Registrations


class Warnings(Remembered):
    title = "`warnings`: filters, and the warnings already shown"

    def __init__(self) -> None:
        self._filters: Any = warnings.filters
        self._once: Any = vars(warnings).get("onceregistry", {})
        super().__init__()

    def save(self) -> tuple[list[Any], dict[Any, Any]]:
        return list(self._filters), dict(self._once)

    def restore(self, saved: tuple[list[Any], dict[Any, Any]]) -> None:
        filters, once = saved
        if not same_items(self._filters, filters):
            self._filters[:] = filters
        if self._once != once:
            self._once.clear()
            self._once.update(once)
        self._forget_locations()

    @staticmethod
    def _forget_locations() -> None:
        """Make modules forget which of their warnings have been shown."""
        changed = getattr(warnings, "_filters_mutated", None)
        if changed is not None:
            changed()
        else:  # from Python 3.14 on
            with warnings._lock:  # type: ignore[attr-defined]
                warnings._filters_mutated_lock_held()  # type: ignore[attr-defined]


class Loggers(Part):
    """All loggers; those that are newer than a saved state go back to the defaults."""

    title = "`logging`: levels, handlers, filters, `disable`, level names"

    def __init__(self, additions: Additions) -> None:
        self._additions = additions
        #: names of levels that packages have added since
        self._added: dict[str, int] = {}
        self._baseline = self.save()

    @staticmethod
    def _loggers() -> list[logging.Logger]:
        loggers = list(logging.root.manager.loggerDict.values())
        return [logging.root, *(x for x in loggers if isinstance(x, logging.Logger))]

    _state = staticmethod(
        operator.attrgetter("level", "propagate", "disabled", "handlers", "filters")
    )

    def save(self) -> tuple[Any, ...]:
        loggers = {}
        for logger in self._loggers():
            level, propagate, disabled, handlers, filters = self._state(logger)
            loggers[logger] = level, propagate, disabled, [*handlers], [*filters]
        details = {
            handler: (handler.level, handler.formatter, [*handler.filters])
            for state in loggers.values()
            for handler in state[3]
        }
        manager = logging.root.manager
        general = manager.disable, manager.loggerClass, manager.logRecordFactory
        levels = dict(logging._levelToName), dict(logging._nameToLevel)
        return loggers, details, general, levels

    def restore(self, saved: tuple[Any, ...]) -> None:
        loggers, handlers, general, levels = saved
        manager = logging.root.manager
        changed = False
        for logger in self._loggers():
            state = self._state(logger)
            wanted = loggers.get(logger) or self._new(logger)
            if state != wanted:
                changed = True
                logger.level, logger.propagate, logger.disabled = wanted[:3]
                logger.handlers[:], logger.filters[:] = wanted[3:]
        for handler, (level, formatter, filters) in handlers.items():
            handler.level, handler.formatter = level, formatter
            if handler.filters != filters:
                handler.filters[:] = filters
        if general != (manager.disable, manager.loggerClass, manager.logRecordFactory):
            changed = True
            manager.disable, manager.loggerClass, manager.logRecordFactory = general
        if changed:
            manager._clear_cache()  # type: ignore[attr-defined]
        if levels != (logging._levelToName, logging._nameToLevel):
            numbers = {level: name for name, level in self._added.items()}
            self._replace(logging._levelToName, {**numbers, **levels[0]})
            self._replace(logging._nameToLevel, {**self._added, **levels[1]})

    @staticmethod
    def _replace(entries: dict[Any, Any], wanted: dict[Any, Any]) -> None:
        entries.clear()
        entries.update(wanted)

    @staticmethod
    def _new(logger: logging.Logger) -> tuple[Any, ...]:
        """Return the state that a logger has before it is changed."""
        # not isinstance(), which may call code of a job
        silent = [
            h for h in logger.handlers if issubclass(type(h), logging.NullHandler)
        ]
        return logging.NOTSET, True, False, silent, []

    def reset(self) -> list[str]:
        levels = self._baseline[3]
        if levels != (logging._levelToName, logging._nameToLevel):
            for name, level in logging._nameToLevel.items():
                if name not in levels[1] and self._additions.is_one(name, level):
                    self._added[name] = levels[1][name] = level
                    levels[0].setdefault(level, name)
        self.restore(self._baseline)
        return []


class Collection(Remembered):
    title = "Garbage collection: enabled, thresholds, debugging, callbacks"

    def save(self) -> tuple[Any, ...]:
        return gc.isenabled(), gc.get_threshold(), gc.get_debug(), list(gc.callbacks)

    def restore(self, saved: tuple[Any, ...]) -> None:
        enabled, thresholds, debug, callbacks = saved
        if gc.isenabled() != enabled:
            (gc.enable if enabled else gc.disable)()
        if gc.get_threshold() != thresholds:
            gc.set_threshold(*thresholds)
        if gc.get_debug() != debug:
            gc.set_debug(debug)
        if not same_items(gc.callbacks, callbacks):
            gc.callbacks[:] = callbacks


class EventLoopPolicy(Remembered):
    title = "Event loop policy of asyncio"

    def save(self) -> Any:
        return vars(asyncio.events).get("_event_loop_policy")

    def restore(self, saved: Any) -> None:
        policy = self.save()
        # Reading the policy creates one of the default kind.
        if saved is None and type(policy).__module__.startswith("asyncio."):
            return
        if policy is not saved:
            vars(asyncio.events)["_event_loop_policy"] = saved


def _get_locale() -> str:
    return locale.setlocale(locale.LC_ALL)


def _set_locale(name: str) -> None:
    locale.setlocale(locale.LC_ALL, name)


def _get_stack_size() -> int:
    size = threading.stack_size()  # which sets it to 0
    if size:
        threading.stack_size(size)
    return size


def _get_tracing() -> int:
    return tracemalloc.get_traceback_limit() if tracemalloc.is_tracing() else 0


def _set_tracing(frames: int) -> None:
    tracemalloc.stop()
    if frames:
        tracemalloc.start(frames)


def interpreter_parts(additions: Additions) -> list[Part]:
    """Return these parts, in the order in which they are put back."""
    parts: list[Part] = [
        Registrations(),
        Setting("Locale, each category", _get_locale, _set_locale),
        Warnings(),
        Loggers(additions),
        Collection(),
        Setting("`tracemalloc`: whether it traces", _get_tracing, _set_tracing),
        Setting("Recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
        Setting("Switch interval", sys.getswitchinterval, sys.setswitchinterval),
        Setting("Stack size of new threads", _get_stack_size, threading.stack_size),
        Setting(
            "Default timeout of sockets",
            socket.getdefaulttimeout,
            socket.setdefaulttimeout,
        ),
        Setting("Field size limit of csv", csv.field_size_limit, csv.field_size_limit),
        EventLoopPolicy(),
        Attributes(
            "Start method of multiprocessing",
            (multiprocessing.context._default_context, "_actual_context"),
        ),
    ]
    if hasattr(sys, "get_int_max_str_digits"):
        parts.append(
            Setting(
                "Digits that `int` converts",
                sys.get_int_max_str_digits,
                sys.set_int_max_str_digits,
            )
        )
    return parts

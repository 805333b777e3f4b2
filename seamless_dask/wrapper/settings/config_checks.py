"""Checks the keys of Dask's configuration that the wrapper reads, like parameters."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import dask.config

from scheduler_ext.task_keys import NESTED_RESOURCE, TOP_LEVEL_RESOURCE

from ...command.dask_loading import logging_problems
from ...command.spelling import question
from . import dask_values
from .dask_config import merged_config
from .dask_values import (
    MAPPING,
    OF_DASK,
    is_count,
    is_duration_of_dask,
    is_mapping,
)
from .durations import is_duration
from .parameters import DURATION, TEXT, TEXTS, WHOLE, Parameters

_LIST = "a list of texts, each of one line"
#: Keys below ``jobqueue.SYSTEM`` that dask_jobqueue writes into scripts or commands. Those
#: that parameters always replace are not among them.
_OF_JOBS = (
    *("name", "python", "worker-command", "interface", "shebang", "resource-spec"),
    *("memory-per-core-property-name", "lsf-units"),
)
#: Names that sites may make of digits only.
_NAMES_OF_JOBS = ("queue", "account", "project")
_PATHS_OF_JOBS = ("log-directory", "local-directory", "shared-temp-directory")
#: Keys of the section ``seamless-dask``.
_OURS = ("idle-time", "queue-interval", "queue-delay", "stall-warning")
#: Sections of Dask's configuration, besides those that have defaults
_SECTIONS = (
    "seamless-dask",
    "logging",
    "distributed",
    *(f"distributed.{name}" for name in ("scheduler", "worker", "nanny", "admin")),
    *("distributed.comm", "distributed.comm.timeouts"),
)


def effective(parameters: Parameters, key: str) -> Any:
    """The value of a key: in `extra_dask_config`, else in Dask's configuration, or None."""
    extra = merged_config({}, parameters.extra_dask_config)
    value = dask.config.get(key, None, config=extra)
    return dask.config.get(key, None) if value is None else value


def config_problems(parameters: Parameters, system: str = "") -> list[str]:
    """Problems with the values of these keys; `system` is "" without batch system."""
    checks: dict[str, tuple[str, Callable[[Any], bool]]] = {
        **dask_values.checks(),
        "seamless-dask.idle-time": (DURATION, _is_duration_or_zero),
        "seamless-dask.stall-warning": (OF_DASK, is_duration_of_dask),
        "distributed.scheduler.allowed-failures": (WHOLE, is_count(0)),
        **{
            f"distributed.{who}.preload": (TEXTS, _is_texts)
            for who in ("scheduler", "nanny", "worker")
        },
    }
    if system:
        section = f"jobqueue.{system}."
        checks |= {
            "seamless-dask.queue-interval": (DURATION, is_duration),
            "seamless-dask.queue-delay": (DURATION, is_duration),
            section + "death-timeout": (OF_DASK, is_duration_of_dask),
            **{section + name: (TEXT, _is_path) for name in _PATHS_OF_JOBS},
            **{section + name: (TEXT, _is_text) for name in _OF_JOBS},
            **{section + name: (TEXT, _is_text_or_number) for name in _NAMES_OF_JOBS},
            section + "scheduler-options": (MAPPING, is_mapping),
            # dask_jobqueue would treat a text as a list of letters
            section + "job-directives-skip": (_LIST, _is_list_of_texts),
            section + "header-skip": (_LIST, _is_list_of_texts),
            section + "submit-command-extra": (_LIST, _is_list_of_texts),
            section + "cancel-command-extra": (_LIST, _is_list_of_texts),
            section + "job-script-prologue": (TEXTS, _is_texts),
            section + "env-extra": (TEXTS, _is_texts),
            section + "extra": (TEXTS, _is_texts),
            section + "use-stdin": ("true or false", _is_flag),
            section + "worker-extra-args": (TEXTS, _is_texts),
        }
        if system != "htcondor":
            checks[section + "job-extra-directives"] = (TEXTS, _is_texts)
    problems = _section_problems(parameters, system)
    problems += _resource_problems(parameters)
    for key, (allowed, is_allowed) in checks.items():
        value = effective(parameters, key)
        if value is not None and not is_allowed(value):
            problems.append(
                f"Dask's configuration {key} = {value!r}: allowed is {allowed}"
            )
    extra = merged_config({}, parameters.extra_dask_config)
    of_logging = logging_problems(dask.config.merge(dask.config.config, extra))
    return problems + [text for text in of_logging if text not in problems]


def _section_problems(parameters: Parameters, system: str) -> list[str]:
    """Sections that are no mappings; of those inside of each other the outer one."""
    extra = merged_config({}, parameters.extra_dask_config)
    config = dask.config.merge(dask.config.config, extra)
    sections = {*_SECTIONS, *_sections_with_defaults(("distributed",))}
    if system:
        own = ("jobqueue", system)
        sections |= {"jobqueue", ".".join(own), *_sections_with_defaults(own)}
    wrong: list[str] = []
    problems = []
    for key in sorted(sections):
        value = dask.config.get(key, {}, config=config)
        if isinstance(value, Mapping) or any(key.startswith(f"{w}.") for w in wrong):
            continue
        wrong.append(key)
        problems.append(f"Dask's configuration {key} = {value!r}: allowed is a mapping")
    return problems


def _resource_problems(parameters: Parameters) -> list[str]:
    """Names that are ours: the number of slots would be another here than on workers."""
    key = "distributed.worker.resources"
    value = effective(parameters, key)
    if parameters.pure_dask or not isinstance(value, Mapping):
        return []
    ours = {TOP_LEVEL_RESOURCE, NESTED_RESOURCE}
    if ours.isdisjoint(value):
        return []
    return [
        f"Dask's configuration {key} = {dict(value)!r}: allowed are other names than "
        f"{NESTED_RESOURCE} and {TOP_LEVEL_RESOURCE}; dask_resources sets the latter"
    ]


def _sections_with_defaults(path: tuple[str, ...]) -> Iterator[str]:
    """Sections below a path that have keys in the defaults of Dask's packages."""
    for defaults in dask.config.defaults:
        content = dask.config.get(".".join(path), None, config=dict(defaults))
        if isinstance(content, Mapping) and content:
            yield from _sections(path, content)


def _sections(path: tuple[str, ...], content: Mapping[str, Any]) -> Iterator[str]:
    yield ".".join(path)
    for name, below in content.items():
        if isinstance(below, Mapping) and below and "." not in name:
            yield from _sections((*path, name), below)


def misspelt_keys(parameters: Parameters, system: str = "") -> list[str]:
    """A sentence for each key in `extra_dask_config` that is only like one that is read."""
    extra = merged_config({}, parameters.extra_dask_config)
    known: dict[str, set[str]] = {"seamless-dask": set(_OURS)}
    for section in (
        f"jobqueue.{system}",
        "distributed.scheduler",
        "distributed.worker",
    ):
        for defaults in dask.config.defaults:
            content = dask.config.get(section, None, config=dict(defaults))
            if isinstance(content, Mapping):
                known.setdefault(section, set()).update(map(str, content))
    sentences = []
    for section, names in known.items():
        content = dask.config.get(section, None, config=extra)
        plain = {name.replace("_", "-") for name in names}
        for name in content if isinstance(content, Mapping) else ():
            hint = question(str(name), names)
            if hint and str(name).replace("_", "-") not in plain:
                sentences.append(
                    f"Dask's configuration {section}.{name} is not known{hint}."
                )
    return sentences


def _is_duration_or_zero(value: Any) -> bool:
    return is_duration(value, zero=True)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def _is_text_or_number(value: Any) -> bool:
    return _is_text(value) or is_count(0)(value)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_path(value: Any) -> bool:
    return isinstance(value, os.PathLike) or _is_text(value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, (list, tuple))
        and all(isinstance(item, (str, int, float)) for item in value)
    )


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(map(_is_text, value))

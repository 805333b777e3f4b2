"""Turns parameters into Dask's configuration, here and in the environment of workers."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping
from typing import Any

import dask.config

from .durations import format_duration, parse_duration
from .parameters import (
    DEFAULT_LIFETIME_STAGGER,
    DEFAULT_TMPDIR,
    GRACE_PERIOD,
    Parameters,
)

#: Number of workers that a task may lose before it fails as `distributed.KilledWorker`.
#: Dask blames every task that was assigned to a lost worker, even if it only waited there,
#: and a batch system may end more workers per day than Dask's default of 3. The number
#: does not affect a transformation that kills its Seamless process: the worker handles
#: that. A transformation that kills its whole worker costs that many workers.
ALLOWED_FAILURES = 10

_ALLOWED_FAILURES = "distributed.scheduler.allowed-failures"
_TICK = "distributed.admin.tick.interval"
#: How long a lost worker on this machine may take to come back before Dask ends it. On the
#: file systems of many clusters the imports take longer than Dask's default of 15 s.
LOST_WORKER = "10m"
_LOST_WORKER = "distributed.deploy.lost-worker-timeout"
#: Keys that are not passed to jobs. Workers get their directory as an argument.
_HERE_ONLY = (
    "local-directory",
    "temp-directory",
    "temporary-directory",
    _ALLOWED_FAILURES,
    _TICK,
    _LOST_WORKER,
)


def stagger_seconds(parameters: Parameters) -> float:
    """Random amount, up or down, by which lifetimes differ."""
    stagger = parameters.lifetime_stagger
    if stagger is not None:
        return parse_duration(stagger, zero=True)
    # a short lifetime must not become negative
    limits = [parse_duration(DEFAULT_LIFETIME_STAGGER)]
    if parameters.lifetime is not None:
        limits.append(parse_duration(parameters.lifetime) / 4)
    if parameters.walltime is not None:
        total = parse_duration(parameters.walltime) - GRACE_PERIOD
        limits.append(max(total, 0) / 4)
    return float(math.floor(min(limits)))


def lifetime_seconds(parameters: Parameters, *, walltime: bool) -> float | None:
    """Time after which a worker is replaced, or None for never.

    `walltime` says whether a batch system will end the worker at its walltime. A worker
    on this machine has no walltime, so only the parameter `lifetime` counts; the same
    holds for pure Dask.
    """
    if parameters.maximum_jobs == 1:
        return None  # a single worker has no need for rolling restarts
    if parameters.lifetime is not None:
        return parse_duration(parameters.lifetime)
    if parameters.pure_dask or not walltime or parameters.walltime is None:
        return None
    total = parse_duration(parameters.walltime)
    return total - stagger_seconds(parameters) - GRACE_PERIOD


def local_tmpdir(parameters: Parameters) -> str:
    """The directory for temporary files, on this machine."""
    return os.path.expanduser(os.path.expandvars(parameters.tmpdir or DEFAULT_TMPDIR))


def dask_settings(parameters: Parameters, *, walltime: bool) -> dict[str, Any]:
    """Dotted configuration keys from the parameters, without `extra_dask_config`."""
    settings: dict[str, Any] = {
        # a daemonic worker may not have children, and Seamless workers have
        "distributed.worker.daemon": False,
        "distributed.scheduler.unknown-task-duration": _dask_duration(
            parameters.unknown_task_duration
        ),
        "distributed.scheduler.target-duration": _dask_duration(
            parameters.target_duration
        ),
    }
    if not parameters.pure_dask:
        settings[_ALLOWED_FAILURES] = ALLOWED_FAILURES
    lifetime = lifetime_seconds(parameters, walltime=walltime)
    if lifetime is not None:
        settings["distributed.worker.lifetime.duration"] = format_duration(lifetime)
        settings["distributed.worker.lifetime.stagger"] = format_duration(
            stagger_seconds(parameters)
        )
    if parameters.internal_port_range is not None:
        settings["distributed.worker.port"] = parameters.internal_port_range
        settings["distributed.nanny.port"] = parameters.internal_port_range
    if parameters.resources:
        settings["distributed.worker.resources"] = parameters.resources
    tmpdir = local_tmpdir(parameters)
    settings["local-directory"] = tmpdir
    settings["temp-directory"] = tmpdir
    settings["temporary-directory"] = tmpdir  # the name that Dask reads
    # Dask checks 50 times per second whether its event loop is alive, which is most of
    # the CPU time of an idle scheduler; it warns after 3 s in any case
    settings[_TICK] = "200ms"
    settings[_LOST_WORKER] = LOST_WORKER
    return settings


def merged_config(
    settings: Mapping[str, Any], extra: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings and, over them, the user's extra configuration; nested."""
    merged: dict[str, Any] = {}
    dask.config.set(dict(settings), config=merged)
    dask.config.update(merged, _nested(extra))
    return merged


def apply_config(merged: Mapping[str, Any]) -> None:
    """Change the configuration of this process permanently."""
    with dask.config.config_lock:
        dask.config.update(dask.config.config, merged)


def exports(
    settings: Mapping[str, Any], extra: Mapping[str, Any], merged: dict[str, Any]
) -> list[str]:
    """Shell lines that give a process elsewhere the same configuration."""
    lines = []
    if extra:
        # Dask's own way to pass on settings that environment variables cannot express,
        # such as capital letters in keys. The variables below take precedence over it,
        # so they have the merged values.
        inherited = dask.config.serialize(_nested(extra))
        lines.append(f"export DASK_INTERNAL_INHERIT_CONFIG={shlex.quote(inherited)}")
    for key in settings:
        if key not in _HERE_ONLY:
            value = dask.config.get(key, config=merged)
            lines.append(f"export {_variable(key)}={shlex.quote(str(value))}")
    return lines


def seamless_environment(parameters: Parameters) -> dict[str, str]:
    """Environment variables for Seamless in a worker; none in pure Dask."""
    if parameters.pure_dask:
        return {}
    return {
        "SEAMLESS_DASK_QUEUE_EXCLUSIVE": str(int(parameters.queue_exclusive)),
        "SEAMLESS_WORKER_TRANSFORMATION_THROTTLE": str(
            parameters.transformation_throttle
        ),
    }


def _dask_duration(value: str | float) -> str:
    """Keep durations that Dask can read, translate the notation of batch systems."""
    if isinstance(value, str) and ":" not in value and "-" not in value:
        return value
    return format_duration(parse_duration(value))


def _nested(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Expand dotted keys at the top; below, dots may belong to a name (loggers)."""
    nested: dict[str, Any] = {}
    for key, value in extra.items():
        for part in reversed(str(key).split(".")):
            value = {part: value}
        dask.config.update(nested, value)
    return nested


def _variable(key: str) -> str:
    return "DASK_" + key.upper().replace("-", "_").replace(".", "__")

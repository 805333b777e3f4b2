"""Values of Dask's own configuration that Dask could not read.

Dask reads most of them when a scheduler, a nanny or a worker starts, or with the first
message, and then fails with an error that names no key. So no worker would start or
connect. Keys that are not listed here are not checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from dask.utils import parse_bytes

from .durations import is_duration

Check = tuple[str, Callable[[Any], bool]]

#: Durations that Dask itself reads; it does not know the notation of batch systems
OF_DASK = 'a duration such as "10m" or "90s", or a number of seconds'
_SIZE = 'an amount such as "10MiB", or a number of bytes'
MAPPING = "a mapping"
_METHODS = ("spawn", "fork", "forkserver")
_MEASURES = ("process", "optimistic", "managed", "managed_total")


def is_duration_of_dask(value: Any) -> bool:
    """Whether Dask can read a duration, which may be zero."""
    if isinstance(value, str) and re.match(r"\s*\d+-\d|.*:|\s*-", value):
        return False  # a clock, or negative
    return is_duration(value, zero=True)


def _is_size(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return False
    try:
        return int(parse_bytes(value)) >= 0
    except (ValueError, OverflowError):
        return False


def _is_size_or_false(value: Any) -> bool:
    return value is False or _is_size(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_share_or_false(value: Any) -> bool:
    return value is False or _is_share(value)


def _is_saturation(value: Any) -> bool:
    return value == "inf" or (_is_number(value) and value > 0)


def is_count(least: int) -> Callable[[Any], bool]:
    """A check for whole numbers from `least` on."""
    return lambda value: (
        isinstance(value, int) and not isinstance(value, bool) and value >= least
    )


def _is_one_of(names: tuple[str, ...]) -> Check:
    return f"one of {', '.join(names)}", lambda value: value in names


def is_mapping(value: Any) -> bool:
    """Whether a value is a section of the configuration."""
    return isinstance(value, Mapping)


def _are_durations(value: Any) -> bool:
    # a section, so other types have a problem already
    return not isinstance(value, Mapping) or all(
        map(is_duration_of_dask, value.values())
    )


def _are_amounts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        _is_number(amount) and amount >= 0 for amount in value.values()
    )


def _compression() -> Check:
    """The names that the installed packages provide."""
    from distributed.protocol.compression import compressions

    names = [name for name in compressions if isinstance(name, str)]
    return (
        f"false, or one of {', '.join(names)}",
        lambda value: value is False or (isinstance(value, str) and value in names),
    )


def checks() -> dict[str, Check]:
    """{key: (what is allowed, whether a value is)}."""
    compression = _compression()
    found: dict[str, Check] = {
        f"{section}.{name}": (OF_DASK, is_duration_of_dask)
        for section, names in _DURATIONS.items()
        for name in names
    }
    found |= {
        f"distributed.{name}": (_SIZE, _is_size)
        for name in (
            *("scheduler.bandwidth", "scheduler.default-data-size", "comm.shard"),
            "worker.transfer.message-bytes-limit",
        )
    }
    found |= {
        f"distributed.{name}": (f"{_SIZE}, or false", _is_size_or_false)
        for name in ("comm.offload", "worker.memory.max-spill")
    }
    found |= {
        f"distributed.worker.memory.{name}": (
            "a number from 0 to 1, or false",
            _is_share_or_false,
        )
        for name in ("transfer", "target", "spill", "pause", "terminate")
    }
    found |= {
        f"distributed.worker.memory.rebalance.{name}": (
            "a number from 0 to 1",
            _is_share,
        )
        for name in ("sender-min", "recipient-max", "sender-recipient-gap")
    }
    found |= {
        f"distributed.worker.connections.{name}": (
            "a whole number, at least 1",
            is_count(1),
        )
        for name in ("incoming", "outgoing")
    }
    found |= {
        f"distributed.{name}": ("a whole number, at least 0", is_count(0))
        for name in (
            *("comm.retry.count", "diagnostics.computations.max-history"),
            *(
                "diagnostics.computations.nframes",
                "diagnostics.erred-tasks.max-history",
            ),
        )
    }
    return found | {
        "distributed.comm.socket-backlog": ("a whole number, at least 1", is_count(1)),
        "distributed.comm.compression": compression,
        "distributed.worker.memory.spill-compression": compression,
        "distributed.worker.multiprocessing-method": _is_one_of(_METHODS),
        "distributed.scheduler.active-memory-manager.measure": _is_one_of(_MEASURES),
        "distributed.scheduler.worker-saturation": (
            'a number above 0, or "inf"',
            _is_saturation,
        ),
        "distributed.scheduler.default-task-durations": (
            "a mapping from names to durations such as 90s",
            _are_durations,
        ),
        "distributed.worker.resources": (
            "a mapping from names to numbers",
            _are_amounts,
        ),
        "distributed.nanny.environ": (MAPPING, is_mapping),
    }


#: {section: names of durations}
_DURATIONS = {
    "distributed.scheduler": (
        *("events-cleanup-delay", "idle-timeout", "no-workers-timeout", "worker-ttl"),
        *("work-stealing-interval", "unknown-task-duration"),
        *("locks.lease-validation-interval", "locks.lease-timeout"),
        "active-memory-manager.interval",
    ),
    "distributed.worker": (
        *("lifetime.duration", "lifetime.stagger", "profile.interval", "profile.cycle"),
        *("memory.recent-to-old-time", "memory.monitor-interval"),
    ),
    "distributed.deploy": ("lost-worker-timeout",),
    "distributed.comm": (
        *("retry.delay.min", "retry.delay.max", "timeouts.connect", "timeouts.tcp"),
    ),
    "distributed.admin": (
        *("tick.interval", "tick.limit", "tick.cycle", "system-monitor.interval"),
        "system-monitor.gil.interval",
    ),
}

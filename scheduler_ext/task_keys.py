"""The grammar of the keys of Dask tasks, and the units that workers offer.

The key of a transformation's task is a function of the transformation and of the
resources that it needs, so that the same work, submitted twice by any clients, is one
task::

    base_<code>-<checksum>[-<resources>][-driver][-scratch][-r<attempt>]
    base_<code>-<digest>[-<resources>][-driver][-scratch]-deferred[-r<attempt>]

``<code>`` is the checksum of the code, ``<checksum>`` that of the transformation. The
second form is for transformations whose inputs are still to be computed, ``<digest>``
is that of their definition. If the code itself is still to be computed, the key begins
with ``base-``. seamless-transformer tests for both beginnings.

Dask takes the part before the first hyphen for the name of the function: all tasks with
the same code have one ``TaskPrefix``, by which Dask learns how long they take.

The functions that build keys and those that parse them are both here, so that they
agree.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

#: Units that top-level transformations take, one each, on a worker.
TOP_LEVEL_RESOURCE = "S"
#: Restricts nested work to Seamless workers; the supply never runs out. A task with a
#: resource restriction is never held back by the scheduler's queue of root tasks
#: (``distributed.Scheduler.is_rootish``).
NESTED_RESOURCE = "seamless-nested"
NESTED_SUPPLY = 1e9

#: Prefixes of the keys of tasks that run a transformation
PREFIXES = ("base-", "base_")

_CHECKSUM = re.compile(r"[0-9a-f]{64}")
#: base[_code]-<checksum or digest>[-suffix]
_KEY = re.compile(r"base(?:_([0-9a-f]{64}))?-([0-9a-f]{64})((?:-.*)?)", re.DOTALL)
#: the mark of a digest, which is no checksum, in the suffix
_DEFERRED = re.compile(r"-deferred(?:-r[0-9]+)?$")
_DRIVER = re.compile(r"-driver(?:-scratch)?(?:-deferred)?(?:-r[0-9]+)?$")


# -- building ----------------------------------------------------------------------


def base_key(
    tf_checksum: str,
    resources: Mapping[str, float],
    *,
    code: str | None = None,
    driver: bool = False,
    scratch: bool = False,
) -> str:
    """Return the key of a transformation whose checksum is known.

    ``code`` is the checksum of its code; anything else is taken for unknown.
    """
    return f"{prefix_of(code)}-{tf_checksum}{_suffix(resources, driver, scratch)}"


def deferred_key(
    definition: Mapping[str, Any],
    resources: Mapping[str, float],
    *,
    code: str | None = None,
    driver: bool = False,
    scratch: bool = False,
) -> str:
    """Return the key of a transformation with inputs that are still to be computed.

    ``definition`` identifies the transformation; it names inputs that are results by
    the keys of their tasks.
    """
    suffix = _suffix(resources, driver, scratch)
    return f"{prefix_of(code)}-{_digest(definition)}{suffix}-deferred"


def prefix_of(code: str | None) -> str:
    """Return Dask's prefix of all tasks that run a code, given by its checksum."""
    return f"base_{code}" if code and _CHECKSUM.fullmatch(code) else "base"


def task_key_of(name: str, attempt: int) -> str:
    """Return the key of an attempt at a task; ``name`` is the key of the first one.

    A client may still want a failed task, so a new attempt is another task.
    """
    return f"{name}-r{attempt}" if attempt else name


def fat_key(key: str) -> str:
    """Return the key of the task that fetches the buffer of another task's result."""
    return f"fat-{key}"


def buffer_key(checksum: str) -> str:
    """Return the key of the task that fetches the buffer with a checksum."""
    return f"buffer-{checksum}"


def _suffix(resources: Mapping[str, float], driver: bool, scratch: bool) -> str:
    suffix = ""
    if resources:
        suffix = "-" + _digest({k: float(v) for k, v in resources.items()})[:16]
    if driver:
        suffix += "-driver"
    if scratch:
        suffix += "-scratch"
    return suffix


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


# -- parsing -----------------------------------------------------------------------


def is_transformation(key: Any) -> bool:
    """Whether a Dask key belongs to a transformation; keys need not be text."""
    return isinstance(key, str) and key.startswith(PREFIXES)


def checksum_of(key: str) -> str | None:
    """The checksum of the transformation that a task runs, None if it names none."""
    match = _KEY.fullmatch(key)
    return None if match is None or _DEFERRED.search(match[3]) else match[2]


def code_of(key: Any) -> str | None:
    """The checksum of the code that a task runs, None if the key names none."""
    match = _KEY.fullmatch(key) if isinstance(key, str) else None
    return match[1] if match else None


def is_driver(key: str) -> bool:
    """Whether a task runs a driver: code that does little but call others."""
    return _DRIVER.search(key) is not None


def code_of_prefix(prefix: str) -> str | None:
    """Undo :func:`prefix_of`."""
    code = prefix.removeprefix("base_")
    return code if _CHECKSUM.fullmatch(code) and code != prefix else None


def name_and_attempt(key: str) -> tuple[str, int]:
    """Undo :func:`task_key_of`."""
    name, separator, attempt = key.rpartition("-r")
    return (name, int(attempt)) if separator and attempt.isdigit() else (key, 0)

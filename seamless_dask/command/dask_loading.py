"""Imports Dask, whose configuration can prevent that.

Dask reads its files, and the environment variables that begin with ``DASK_``, while it is
imported. Commands call `load_dask` first, so that a fault there is reported as a sentence.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any


class DaskUnusable(RuntimeError):
    """Dask cannot be imported with its present configuration; a sentence says why."""


def load_dask() -> None:
    """Import Dask and distributed. Raises `DaskUnusable`."""
    try:
        import dask.config
    except ImportError:
        raise
    except Exception as error:  # noqa: BLE001 - from YAML, or due to a wrong type
        hint = "; are all keys texts?" if isinstance(error, TypeError) else "."
        raise DaskUnusable(
            f"Dask's configuration cannot be read: {_sentence(error)}{hint}"
        ) from None
    problems = logging_problems(dask.config.config)
    if problems:
        raise DaskUnusable(". ".join(problems) + ".")
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise
    except Exception as error:  # noqa: BLE001 - it uses many keys at its import
        raise DaskUnusable(
            "Dask cannot be imported with this configuration (its files are in "
            f"{', '.join(dask.config.paths)}): {_sentence(error)}."
        ) from None


def logging_problems(config: Mapping[str, Any]) -> list[str]:
    """Problems with the keys for logging, each a sentence without its end."""
    problems = []
    of_distributed = config.get("distributed")
    if not isinstance(of_distributed, Mapping):
        of_distributed = {}
    for key, value in (
        ("logging", config.get("logging")),
        ("distributed.logging", of_distributed.get("logging")),
    ):
        if value is None:
            continue
        if not isinstance(value, Mapping):
            problems.append(
                f"Dask's configuration {key} = {value!r}: allowed is a mapping"
            )
        elif "version" not in value:  # otherwise it is for logging.config
            problems += [
                f"Dask's configuration {key}.{name} = {level!r}: allowed is a level such "
                "as debug, info, warning or error, or a whole number"
                for name, level in value.items()
                if not _is_level(level)
            ]
    admin = of_distributed.get("admin")
    if isinstance(admin, Mapping):
        for key in ("log-format", "log_format"):
            if not isinstance(admin.get(key, ""), str):
                problems.append(
                    f"Dask's configuration distributed.admin.{key} = {admin[key]!r}: "
                    "allowed is a text"
                )
    return problems


def _is_level(level: Any) -> bool:
    if isinstance(level, str):
        return isinstance(logging.getLevelName(level.upper()), int)
    return isinstance(level, int) and not isinstance(level, bool)


def _sentence(error: Exception) -> str:
    """The text of an error in one line, with its type unless it is meant to be read."""
    text = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, (OSError, ValueError)) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__

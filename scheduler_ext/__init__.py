"""Runs inside the Dask scheduler and decides which nested transformations may start.

Load it with ``dask scheduler --preload scheduler_ext.preload``, or call
:func:`attach` where the scheduler lives, or ``client.run_on_scheduler(install)``.
It imports nothing of Seamless, so that any Dask scheduler can load it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .messages import PROTOCOL
from .version import __version__

if TYPE_CHECKING:
    from .plugin import (
        SeamlessSchedulerPlugin,
        VersionMismatch,
        attach,
        detach,
        install,
    )

__all__ = [
    "PROTOCOL",
    "SeamlessSchedulerPlugin",
    "VersionMismatch",
    "__version__",
    "attach",
    "detach",
    "install",
]


def __getattr__(name: str) -> Any:
    """Load the plugin, and with it distributed, only where it is used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import plugin

    return getattr(plugin, name)

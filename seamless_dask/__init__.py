"""Runs Seamless transformations on a Dask cluster.

Users of Seamless never import this package: when a Dask backend is configured,
seamless-config and seamless-remote connect it, and seamless-transformer calls it.

The import is light on purpose. Every Seamless process imports this package, also
those that never use Dask, so everything heavy is loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import SeamlessDaskClient
    from .dummy_scheduler import (
        DummySchedulerHandle,
        create_dummy_client,
        create_dummy_scheduler,
        get_dummy_scheduler_address,
        serve_dummy_scheduler,
        start_dummy_scheduler,
    )
    from .transformation_mixin import TransformationDaskMixin
    from .transformer_client import get_seamless_dask_client, set_seamless_dask_client

__version__ = "0.5.0"

_EXPORTS = {
    "DummySchedulerHandle": "dummy_scheduler",
    "SeamlessDaskClient": "client",
    "TransformationDaskMixin": "transformation_mixin",
    "create_dummy_client": "dummy_scheduler",
    "create_dummy_scheduler": "dummy_scheduler",
    "get_dummy_scheduler_address": "dummy_scheduler",
    "get_seamless_dask_client": "transformer_client",
    "serve_dummy_scheduler": "dummy_scheduler",
    "set_seamless_dask_client": "transformer_client",
    "start_dummy_scheduler": "dummy_scheduler",
}

__all__ = [
    "DummySchedulerHandle",
    "SeamlessDaskClient",
    "TransformationDaskMixin",
    "create_dummy_client",
    "create_dummy_scheduler",
    "get_dummy_scheduler_address",
    "get_seamless_dask_client",
    "serve_dummy_scheduler",
    "set_seamless_dask_client",
    "start_dummy_scheduler",
]


def __getattr__(name: str) -> Any:
    try:
        module = _EXPORTS[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(f".{module}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

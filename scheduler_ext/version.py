"""The version of this package, for the modules that report it."""

from __future__ import annotations

__version__ = "0.5.0"

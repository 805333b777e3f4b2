"""The version of this package, for the modules that tell it to others."""

from __future__ import annotations

__version__ = "0.5.0"

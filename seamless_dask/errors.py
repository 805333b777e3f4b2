"""Errors that several packages raise, or that callers should be able to tell apart."""

from __future__ import annotations


class NeighbourChanged(RuntimeError):
    """A package that is installed here is not as this version knows it.

    Its version is out of range, or a name that we replace or read is missing. The text
    names package, version and name, and says what to install.
    """

"""Fixtures for tests of the pool."""

from helpers.pools import group

__all__ = ["group"]
